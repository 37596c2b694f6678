"""Files that are whole or absent: temporary file in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import StoreError

TOKEN_BYTES = 8  # of a temporary file's name, as hexadecimal digits


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = True) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it to `path`.

    The temporary file is locked meanwhile, so that one whose writer was killed is known from it: that is removed by the
    next who writes the same file, and by `remove_leftovers`.

    Args:
        durable: flush to the disk before and after the rename; off for files that only inform, such as progress.

    Raises:
        StoreError: the disk is full or the folder cannot be written; no part of the file is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Half a microsecond per file of the folder: those that are written often hold few.
        for earlier in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * TOKEN_BYTES}.tmp"):
            _remove_leftover(earlier)
        temporary, opened = _open_temporary(path)
        try:
            with opened as file:
                write(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{path}: no space left on the disk; free some and run the same command again") from error
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()), durable=durable)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read, or is a pipe or device, which might have no end.
    """
    _check_ordinary(path)
    with path.open("rb", buffering=0) as file:
        return file.readall()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read, or is a pipe or device, which might have no end.
    """
    _check_ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files in `folder`, which a killed process left, or that another is writing."""
    return folder.glob(".*.tmp")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files in `folder` whose writer is dead; best effort."""
    for path in leftovers(folder):
        _remove_leftover(path)


def is_still_there(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still names the open `file`."""
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _remove_leftover(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        # Refused while its writer lives. Shared: NFS gives exclusive locks only to who may write the file.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink()


def _check_ordinary(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def _open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}.tmp")
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: nobody will remove it either
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_still_there(file, temporary):
            return temporary, file
        file.close()  # taken for a leftover before it was locked


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
