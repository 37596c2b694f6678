"""Whether a lock that one machine holds is seen by another, found out on the file system itself.

Cells are trained once because `flock` says who has them. Some network file systems keep such locks to each machine
(Lustre with `-o localflock`, NFS with `-o local_lock=flock`): two machines would train one cell at once, and neither
would notice. So whoever has others train, and every job of a queue, is a witness: it holds the lock of a file of its
own and writes a number into it that grows. Whoever finds a number growing in a file whose lock looks free knows that
locks are not seen here. No clock is compared, and the file of a process that died says nothing. All witnesses of a
study, of whatever engine, are in one folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from studies.errors import StoreError
from studies.files import is_still_there
from studies.store import Store

BEAT_SECONDS = 2.0
WATCH_SECONDS = 10.0
"""For how long an unlocked file is watched: five beats, since some file systems tell of changes late."""


def witness_folder(store: Store, study_id: str) -> Path:
    """Where the witnesses of a study are."""
    return store.study_folder(study_id).absolute() / "witnesses"


def launcher_name() -> str:
    """What this process is called among the witnesses."""
    return f"launcher-{socket.gethostname()}-{os.getpid()}"


@contextlib.contextmanager
def witness(folder: Path, name: str) -> Iterator[Path]:
    """Holds the lock of `folder`/`name`.witness and lets the number in it grow for as long as the context lasts.

    The process must not fork meanwhile without exec, as a child would keep the lock.

    Raises:
        StoreError: the file cannot be written or locked.
    """
    path, over = folder / f"{name}.witness", threading.Event()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _taken(path)
    except OSError as error:
        raise _cannot_lock(path, error) from error

    def beat() -> None:
        number = 0
        while not over.wait(BEAT_SECONDS):
            number += 1
            with contextlib.suppress(OSError):  # a full disk is told of by whoever has something to write
                os.pwrite(file.fileno(), f"{number:020d}".encode(), 0)
                os.fsync(file.fileno())  # NFS keeps what is written to itself for half a minute otherwise

    thread = threading.Thread(target=beat, daemon=True, name="lock-witness")
    thread.start()
    try:
        yield path
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
        file.close()


def check_locks(folder: Path, own: Path | None = None, living: Path | None = None) -> None:
    """Refuses a folder where a living witness's lock looks free; files of those who died are removed.

    Args:
        own: the file of this process, which is left out.
        living: a file in `folder` whose witness is known to live, so that one look at it is enough.

    Raises:
        StoreError: says whose lock was not seen, that `living` was not found, or that there are no locks.
    """
    if living is not None and not living.exists():
        raise StoreError(
            f"{folder} is not the launcher's folder of that name ({living.name} is not in it); put the results folder "
            "(--store) on a file system that all nodes share, under one path"
        )
    if living is not None and _looks_free(living):
        raise _not_seen(living)
    free = {path: _content(path) for path in folder.glob("*.witness") if path != own and _looks_free(path)}
    deadline = time.monotonic() + WATCH_SECONDS
    while free and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS)
        for path, before in free.items():
            # It lives and has the lock still: looked at again, since it may have taken it after the first look.
            if _content(path) not in (before, b"") and _looks_free(path) and path.exists():
                raise _not_seen(path)
    for path in free:
        _remove_of_the_dead(path)


def _cannot_lock(path: Path, error: OSError) -> StoreError:
    why = error.strerror or error
    return StoreError(f"{path}: cannot be locked ({why}); choose a folder on another file system with --store")


def _not_seen(path: Path) -> StoreError:
    return StoreError(
        f"{path.parent}: {path.stem} is alive and holds a lock here that this machine does not see, so two machines "
        "could train one cell at once; have locks (flock) enabled on this file system, or choose a folder on another "
        "with --store"
    )


def _taken(path: Path) -> IO[bytes]:
    """Opens and locks a file; who looks whether it is free has its lock for a moment, and may have removed it."""
    until = time.monotonic() + BEAT_SECONDS
    while True:
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(path.open("wb", buffering=0))
            while not _lock(file, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
                time.sleep(0.01)
            if is_still_there(file, path):
                closing.pop_all()
                return file


def _lock(file: IO[bytes], how: int) -> bool:
    """Takes a lock; False where somebody else has it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _remove_of_the_dead(path: Path) -> None:
    """Removes the file of a witness that died; under its lock, since another may begin under the same name just now."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if _lock(file, fcntl.LOCK_SH):
            path.unlink()


def _looks_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # held, or gone
        if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
            raise _cannot_lock(path, error) from error
        return False
    return True
