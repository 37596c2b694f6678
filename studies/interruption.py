"""Ctrl-C is one message and exit code 130, whenever it comes.

So are the signals by which a machine that stops or a queueing system asks a process to end: exit code 128 + signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar

KEPT = "finished cells are kept; continue with the same command"
MESSAGE = f"interrupted: {KEPT}"
ENDING = (signal.SIGTERM, signal.SIGUSR2)
"""Signals besides Ctrl-C that ask to end."""


class Interrupted(BaseException):
    """A signal within `told_once`; no `KeyboardInterrupt`, at which typer would end without a word.

    Attributes:
        left: what the message says of what is left, as set by `leaves`.
    """

    left: ClassVar[str] = KEPT

    def __init__(self, number: int = signal.SIGINT) -> None:
        ended = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        self.message = f"{ended}: {self.left}"
        self.exit_code = 128 + number
        super().__init__(self.message)


def leaves(what: str) -> None:
    """From now on the message of an end by a signal says this: for a command that trains no study into its store."""
    Interrupted.left = what


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Ends the process with the message where Ctrl-C comes within the context; a second one ends it at once.

    Also where it falls into a callback of the interpreter, as there is one for every module that is imported: from such
    a callback no exception comes out, Python would print it and go on.

    Raises:
        SystemExit: with exit code 130, or 128 + the number of another signal.
    """
    usual = sys.unraisablehook
    leaves(KEPT)

    def swallowed(caught: sys.UnraisableHookArgs) -> None:
        if not issubclass(caught.exc_type, (KeyboardInterrupt, Interrupted)):
            usual(caught)
            return
        told = caught.exc_value if isinstance(caught.exc_value, Interrupted) else Interrupted()
        print(told.message, file=sys.stderr, flush=True)
        os._exit(told.exit_code)

    sys.unraisablehook = swallowed
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it otherwise
            signal.signal(signal.SIGINT, _interrupt)
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)
        yield
    except (KeyboardInterrupt, Interrupted, SystemError) as error:
        told = _interruption(error)
        if told is None:
            raise
        for number in (signal.SIGINT, *ENDING):  # a second one ends it at once
            signal.signal(number, signal.SIG_DFL)
        print(told.message, file=sys.stderr)
        raise SystemExit(told.exit_code) from None
    finally:
        sys.unraisablehook = usual
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ENDING:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)


def _interruption(error: BaseException | None) -> Interrupted | None:
    """The signal that an exception tells of, if any.

    Compiled code may put a `SystemError` around what a handler raised, as Ray's does where it waits.
    """
    while error is not None:
        if isinstance(error, Interrupted):
            return error
        if isinstance(error, KeyboardInterrupt):
            return Interrupted()
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals that ask to end are heard when the context ends: what is begun in it is done, or not begun.

    In the main thread alone, which is the only one that hears signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    for number in usual:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
