"""Whether the locks that a store rests on hold: between two processes, and until the very moment one is killed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .finding import Finding, broken, fine

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
RELEASED_WITHIN_SECONDS = 2.0
CHECK = "store: file locks"


def locks(folder: Path, holder: str = HOLDER) -> Iterator[Finding]:
    """Another process takes a lock in the folder, this one must not get it; then that is killed, and it must.

    Args:
        folder: is there, and can be written.
        holder: the program of the other process.
    """
    advice = "keep results on a file system with locks (a local disk, NFS 4, Lustre with -o flock): --store FOLDER"
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".study-doctor.") as file:
        command = [sys.executable, "-I", "-S", "-c", holder, file.name]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with other:
            assert other.stdout is not None
            assert other.stderr is not None
            if other.stdout.readline().strip() != b"held":
                last = other.stderr.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                yield broken(CHECK, f"a lock cannot be taken in {folder} ({last[0]})", advice)
                return
            excluded = not _free(file)
            other.kill()
            other.wait()
            released = _free_soon(file)
    if not excluded:
        yield broken(CHECK, f"two processes hold one lock in {folder}: a cell would be trained twice", advice)
    elif not released:
        yield broken(CHECK, f"a killed process keeps its lock in {folder}: its cell could not be continued", advice)
    else:
        yield fine(CHECK, "flock excludes a second process and is free once its holder is killed")


def _free(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _free_soon(file: IO[bytes]) -> bool:
    until = time.monotonic() + RELEASED_WITHIN_SECONDS
    while not (free := _free(file)) and time.monotonic() < until:
        time.sleep(0.01)
    return free
