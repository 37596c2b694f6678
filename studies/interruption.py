"""Ctrl-C is one message and exit code 130, whenever it comes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from .errors import ExitCode

MESSAGE = "interrupted: finished cells are kept; continue with the same command"


class Interrupted(BaseException):
    """Ctrl-C within `told_once`; no `KeyboardInterrupt`, at which typer would end without a word."""


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Ends the process with the message where Ctrl-C comes within the context; a second one ends it at once.

    Also where it falls into a callback of the interpreter, as there is one for every module that is imported: from such
    a callback no exception comes out, Python would print it and go on.

    Raises:
        SystemExit: with exit code 130.
    """
    usual = sys.unraisablehook

    def swallowed(caught: sys.UnraisableHookArgs) -> None:
        if not issubclass(caught.exc_type, (KeyboardInterrupt, Interrupted)):
            usual(caught)
            return
        print(MESSAGE, file=sys.stderr, flush=True)
        os._exit(ExitCode.INTERRUPTED)

    sys.unraisablehook = swallowed
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it otherwise
            signal.signal(signal.SIGINT, _interrupt)
        yield
    except (KeyboardInterrupt, Interrupted):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(MESSAGE, file=sys.stderr)
        raise SystemExit(ExitCode.INTERRUPTED) from None
    finally:
        sys.unraisablehook = usual
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
