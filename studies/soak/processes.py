"""The processes of a launcher, read from /proc: who they are, what they hold, and whether any is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
FORKSERVER = b"multiprocessing.forkserver"


@dataclass(frozen=True)
class Family:
    """What runs under one launcher right now.

    Attributes:
        launcher: its process, None where it has ended.
        forkserver: the process that starts workers, None where there is none.
        workers: those that train, or are about to; they outlive a forkserver.
    """

    launcher: int | None
    forkserver: int | None
    workers: tuple[int, ...]


def family_of(launcher: int) -> Family:
    """The processes of a launcher that was started in a session of its own."""
    living = {pid: parent for pid, parent in _session(launcher) if FORKSERVER in _command(pid) or pid == launcher}
    servers = [pid for pid, parent in living.items() if parent == launcher]
    workers = sorted(pid for pid in living if pid != launcher and pid not in servers)
    return Family(launcher if launcher in living else None, servers[0] if servers else None, tuple(workers))


def survivors(launchers: Iterable[int]) -> list[int]:
    """Processes that still run of those that the launchers started, the launchers themselves included."""
    return [pid for launcher in launchers for pid, _ in _session(launcher)]


def holds_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open; one that is ending has let go of its locks where this is false."""
    with contextlib.suppress(OSError):
        for handle in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if handle.readlink() == path:
                    return True
    return False


def _session(session: int) -> Iterator[tuple[int, int]]:
    """(process, parent) of every running member of a session."""
    for path in PROC.glob("[0-9]*/stat"):
        try:
            state, parent, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state not in "ZX":
            yield int(path.parent.name), int(parent)


def _command(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""
