"""A folder that will be written to: whether it can be, how much room it has, and on what file system it lies."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, broken, fine, warning

MOUNTS = Path("/proc/self/mountinfo")
LEAST_BYTES = 10**8
SCARCE_BYTES = 2 * 10**9
SCARCE_FILES = 10_000
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "orangefs")
IN_MEMORY = ("tmpfs", "ramfs")
LOCAL_LOCKS = ("nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl")
"""Mount options under which `flock` is known to one machine only."""


@dataclass(frozen=True)
class Mount:
    """The file system a path lies on."""

    point: str
    kind: str
    options: tuple[str, ...]


def nearest(path: Path) -> Path:
    """The path itself if it is there, else the nearest folder above it that is."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


def writable(check: str, folder: Path, other: str) -> Iterator[Finding]:
    """Whether a file can be written to a folder; tried.

    Args:
        check: what it is called.
        folder: is there.
        other: how to name another folder.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(65536))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield broken(check, f"{folder} cannot be written: {error.strerror}", f"make it writable, or {other}")
    else:
        yield fine(check, f"{folder} can be written")


def space(check: str, folder: Path, other: str) -> Iterator[Finding]:
    """Room for files of any size, and for many small ones; arguments as of `writable`."""
    usage, files = shutil.disk_usage(folder), os.statvfs(folder)
    found = f"{usage.free / 1e9:,.1f} GB free of {usage.total / 1e9:,.1f} GB"
    advice = f"make room, or {other}; `study plan` says what a study needs"
    if usage.free < LEAST_BYTES:
        yield broken(check, f"{found}: too little for any study", advice)
    elif usage.free < SCARCE_BYTES:
        yield warning(check, found, advice)
    elif files.f_files and files.f_favail < SCARCE_FILES:
        yield warning(check, f"{found}, but only {files.f_favail:,} more files; a cell leaves five", advice)
    else:
        yield fine(check, found)


def mount_of(path: Path, mounts: Path = MOUNTS) -> Mount:
    """The file system that a folder lies on: of all mount points above it the nearest, the last one mounted there.

    Raises:
        OSError: the system does not tell.
    """
    found = Mount("", "unknown", ())
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *more) = before.split(), after.split()
        point = fields[4].encode().decode("unicode_escape")
        if path.resolve().is_relative_to(point) and len(point) >= len(found.point):
            found = Mount(point, kind, (*fields[5].split(","), *more[-1].split(",")))
    return found


def file_system(check: str, folder: Path, other: str, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """What kind of file system it is; arguments as of `writable`."""
    mount = mount_of(folder, mounts)
    local = [option for option in LOCAL_LOCKS if option in mount.options]
    found = f"{mount.kind} at {mount.point}"
    if local:
        told = f"{found}, mounted with {', '.join(local)}: locks hold on this machine only"
        yield warning(check, told, f"run from one machine at a time, have it mounted without, or {other}")
    elif mount.kind in NETWORK or mount.kind.startswith("fuse"):
        told = f"{found}: shared over a network; locks between machines cannot be tried from one"
        yield warning(check, told, "run `study doctor` on every machine, and before a long study try two launchers")
    elif mount.kind in IN_MEMORY:
        yield warning(check, f"{found}: in memory, gone when the machine restarts", f"for results to keep, {other}")
    else:
        yield fine(check, found)
