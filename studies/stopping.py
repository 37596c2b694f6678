"""Asked to end: a process that trains saves its cells first, and no work is lost.

A queueing system asks so before it takes a machine away: by USR2 where it was told to, else by TERM.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_asked = False


class Stopped(BaseException):
    """Raised in place of going on once a process was asked to end; no `Exception`, since nothing has failed."""


def listen() -> None:
    """From now on this process notes that it was asked, and goes on until it looks; main thread only."""
    for number in SIGNALS:
        signal.signal(number, _note)


def is_asked() -> bool:
    """Whether this process has been asked to end."""
    return _asked


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
