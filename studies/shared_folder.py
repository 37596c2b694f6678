"""Whether two machines see one folder, and each the locks of the other: what a study on several machines rests on.

A launcher holds a lock on a file; a process elsewhere looks whether it finds the file, and finds it locked. Some
network file systems keep `flock` to each machine (Lustre with `-o localflock`, NFS with `-o local_lock=flock`): there
two machines could train one cell at once, and nobody would notice.
"""

from __future__ import annotations

import contextlib
import fcntl
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError


@contextlib.contextmanager
def locked_for_all_to_see(folder: Path) -> Iterator[Path]:
    """Holds a lock on a file in `folder` that goes by this machine's name; launchers on one machine share it.

    Yields:
        The file, for `why_not_shared`.

    Raises:
        StoreError: the folder cannot be written, or its file system has no locks.
    """
    machine = re.sub(r"[^\w.-]", "_", platform.node()) or "unnamed"
    path = folder.absolute() / f"launcher-{machine}.lock"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("a+b")), fcntl.LOCK_SH)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written and locked: {error.strerror or error}") from error
        yield path


def why_not_shared(path: Path) -> str | None:
    """Why this machine cannot work on the store of the launcher that holds `path`; None where it can.

    Args:
        path: what `locked_for_all_to_see` yielded, elsewhere.
    """
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        return (
            f"{path.parent} is not the launcher's folder of that name; put the results folder (--store) on a file "
            "system that all nodes share, under one path"
        )
    except OSError as error:
        return f"{path} cannot be opened and locked: {error.strerror or error}"
    return (
        f"{path} is locked by the launcher, which is not seen there: the file system keeps locks to each machine, so "
        "that two could train one cell at once; choose a results folder (--store) where flock holds between nodes"
    )
