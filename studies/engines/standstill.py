"""Workers, and their forkserver, that somebody stopped (SIGSTOP, a job control, a supervisor) and nobody continues.

A worker's own watchdog (`studies.stall`) stands still with it, so its launcher looks: at what the system says of the
process, which it calls stopped until a signal lets it go on. One that a debugger holds is called otherwise and left.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

STOPPED = "T"
"""State of such a process in `/proc/PID/stat`; see proc(5)."""
LOOK_SECONDS = 1.0
"""Between two looks. A look counts twice this at most: a launcher that stood still itself saw nothing meanwhile."""


class Standstill:
    """For how long processes have been stopped, as far as it was looked at.

    Args:
        seconds: after which a stopped process is given up; None: never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._looked = time.monotonic()
        self._stood: dict[int, float] = {}

    def overdue(self, processes: Iterable[int]) -> list[int]:
        """Those of the processes that were stopped at every look of the time granted; asks the system once a second."""
        since = time.monotonic() - self._looked
        if self._seconds is None or since < LOOK_SECONDS:
            return []
        self._looked += since
        overdue = []
        for one in processes:
            if not is_stopped(one):
                self._stood.pop(one, None)
                continue
            self._stood[one] = self._stood.get(one, 0.0) + min(since, 2 * LOOK_SECONDS)
            if self._stood[one] >= self._seconds:
                overdue.append(one)
        return overdue


def is_stopped(process: int) -> bool:
    """Whether a process waits for a signal to go on; False where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == STOPPED
    except (OSError, IndexError):
        return False
