"""A worker that hangs is ended, and says where it hung.

Python's own watchdog (`faulthandler`) counts in a thread that needs no interpreter: it also ends a process that is
stuck within a library. It is wound up again at every sign of progress; when it runs down it writes the stack of every
thread to standard error, which in a worker is the log of its cell, and exits with code 1. The launcher then does as
after every death: the cell goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Iterator

REWIND_SECONDS = 1.0  # winding up costs a thread: once a second is often enough, unless little time is granted
SLOWEST = 1e9  # FLOPs per second; no processor that trains is slower, so a step of a large network is not taken for one
SIGN = b"Timeout ("
"""How the watchdog's last words begin."""
STANDARD_ERROR = 2  # the descriptor, whatever `sys.stderr` is by then


class _Watchdog:
    """The one watchdog of this process; `seconds` None: nobody is watched."""

    seconds: float | None = None
    wound_up = 0.0


@contextlib.contextmanager
def watched(seconds: float | None, step_flops: float = 0.0) -> Iterator[None]:
    """Ends this process where it makes no progress for so long within the context.

    Args:
        seconds: None: it may take for ever.
        step_flops: of the largest step between two signs of progress, which is granted its own time.
    """
    _Watchdog.seconds = None if seconds is None else seconds + step_flops / SLOWEST
    _wind_up()
    try:
        yield
    finally:
        _Watchdog.seconds = None
        faulthandler.cancel_dump_traceback_later()


def progressed() -> None:
    """A sign of progress; costs a look at the clock, where nobody is watched less."""
    granted = _Watchdog.seconds
    if granted is not None and time.monotonic() - _Watchdog.wound_up > min(REWIND_SECONDS, granted / 4):
        _wind_up()


def _wind_up() -> None:
    if _Watchdog.seconds is not None:
        faulthandler.dump_traceback_later(_Watchdog.seconds, exit=True, file=STANDARD_ERROR)
        _Watchdog.wound_up = time.monotonic()
