"""Who holds a lock, as far as the system tells."""

from __future__ import annotations

import os
from pathlib import Path

from .finding import printable

LOCKS = Path("/proc/locks")
PROCESSES = Path("/proc")


def holders(path: Path, told: Path = LOCKS) -> list[int]:
    """Process ids that hold a lock on a file; none where the system does not tell, as for other machines' processes."""
    try:
        there = path.stat()
        lines = told.read_text().splitlines()
    except OSError:
        return []
    device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}"
    found: dict[bool, list[int]] = {True: [], False: []}
    for line in lines:
        fields = [field for field in line.split() if field != "->"]  # one that waits
        if len(fields) < 6 or fields[1] != "FLOCK" or "->" in line:
            continue
        where, _, inode = fields[5].rpartition(":")
        if inode == str(there.st_ino):
            found[where == device].append(int(fields[4]))
    return found[True] or found[False]  # some file systems show one device here and another to `stat`


def describe(process: int) -> str:
    """`process 123 (study run data_scaling)`."""
    try:
        words = (PROCESSES / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"process {process}"
    command = printable(" ".join(Path(word).name if index == 0 else word for index, word in enumerate(words)).strip())
    return f"process {process} ({command[:60]})" if command else f"process {process}"
