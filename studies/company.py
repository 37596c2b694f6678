"""A second process that computes beside this one what it is asked, one thing after the other.

A report of many cells takes a second core. The process is a fresh interpreter, never a fork: whoever holds the lock of
a cell must not fork, and threads do not survive one. It loads what it will need while this process still reads records.
What it is asked is a function of a module; what it answers is what the function returns here. Where the process is
lost, or where what is asked or answered cannot be sent, the function is called here. It ends when its input does,
whatever it is at, so also when this process is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Generic, ParamSpec, TypeVar, cast

from .blas import one_blas_thread
from .uncollected import uncollected

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from studies.company import serve; serve(sys.argv[2:])"
)


WORTH_COMPANY = 200
"""Cells of a study from which its report is made by two processes; the second takes a second to begin."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What was asked; called, it waits for the answer and returns it."""

    _exchange: Future[tuple[bool, Any]]
    _here: Callable[[], T]

    @property
    def is_answered(self) -> bool:
        """Whether nothing need be waited for."""
        return self._exchange.done()

    def __call__(self) -> T:
        """The answer; computed here where the second process gave none."""
        answered, found = self._exchange.result()
        return cast("T", found) if answered else self._here()


class Company:
    """A second process.

    Args:
        loads: names of modules that it loads at once.
    """

    def __init__(self, loads: Sequence[str] = ()) -> None:
        path = [folder for folder in sys.path if isinstance(folder, str)]  # Python passes over anything else as well
        # -P: not even `json` is looked for in the working folder first
        command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps(path), *loads]
        with one_blas_thread():
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        self._messenger = ThreadPoolExecutor(1, "messenger")  # this process goes on meanwhile

    def asked(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Asked[T]:
        """Asks for `function(*arguments, **named)`, after all that was asked before.

        What it is given must not change until it has answered.
        """
        exchange = self._messenger.submit(self._exchanged, function, arguments, named)
        return Asked(exchange, lambda: function(*arguments, **named))

    def _exchanged(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[bool, Any]:
        """Whether there is an answer, and it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((function, arguments, named), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answered, found = pickle.load(self._process.stdout)  # of our own process
        except Exception:  # it is gone, has half a question, or what it loads has printed something
            self._process.kill()
            return False, None
        return answered, found

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._messenger.shutdown(cancel_futures=True)
        self._process.communicate()


def later(
    second: Company | None, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
) -> Callable[[], T]:
    """What a second process is asked where there is one; else what is computed here once it is called for."""
    if second is None:
        return partial(function, *arguments, **named)
    return second.asked(function, *arguments, **named)


def serve(loads: Sequence[str]) -> None:
    """Answers what is asked on the standard input, until that ends."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    _end_with(questions)
    os.dup2(2, 1)  # what anybody prints is no answer
    with uncollected():
        for name in loads:
            importlib.import_module(name)
        for content in _answered(questions):
            try:
                answers.write(content)
                answers.flush()
            except BrokenPipeError:  # nobody waits for it any more
                return


def _end_with(questions: BinaryIO) -> None:
    """Ends this process as soon as nobody can ask any more, also in the middle of an answer, which may take minutes."""
    poll = select.poll()
    poll.register(questions, 0)  # that nobody can is told unasked

    def watch() -> None:
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="end-with-input").start()


def _answered(questions: BinaryIO) -> Iterator[bytes]:
    while True:
        try:
            function, arguments, named = pickle.load(questions)  # of the process that began this one
        except EOFError:
            return
        told: tuple[bool, Any]
        try:
            told = True, function(*arguments, **named)
        except Exception:  # it is raised there, where it is called again
            told = False, None
        yield pickle.dumps(told, pickle.HIGHEST_PROTOCOL)


@contextmanager
def company(wanted: bool, loads: Sequence[str] = ()) -> Iterator[Company | None]:
    """A second process for as long as the context lasts; None where it is not wanted or cannot begin."""
    second = None
    if wanted and sys.executable:
        with suppress(OSError):  # no memory or no process left: one computes alone
            second = Company(loads)
    try:
        yield second
    finally:
        if second is not None:
            second.end()


def report_company(num_cells: int) -> AbstractContextManager[Company | None]:
    """A second process for the report of a study of about so many cells, where it is worth one.

    To be begun before the plan is read and `studies.answering` is loaded: the second process loads what it needs
    meanwhile.
    """
    return company(num_cells >= WORTH_COMPANY, ["studies.gathering", "studies.report.drawn", "studies.analysis.study"])
