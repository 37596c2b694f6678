"""What tests with real processes ask of the system."""

from __future__ import annotations

from pathlib import Path


def members(session: int) -> list[int]:
    """Running processes of a session: of one that was started with `start_new_session`, and of all it started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def is_deaf(process: int, number: int) -> bool:
    """Whether a process ignores or blocks a signal, or has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return True
    masks = {line.partition(":")[0]: line.partition(":")[2] for line in lines}
    return any(int(masks[name], 16) >> (number - 1) & 1 for name in ("SigBlk", "SigIgn"))
