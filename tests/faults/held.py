"""Workers that stand still, fill the disk or run out of memory at a place of the test's choice, in real processes.

A worker is a child of the forkserver, as in a study. Nothing of the package is replaced but the one call at the place.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from studies.engine_spec import EngineSpec
from studies.engines.local import warm_up
from studies.engines.worker import Assignment, JobResult, work
from studies.grid import Plan
from studies.store import Store
from studies.tracking import TrackingSpec

SETTINGS = EngineSpec(lanes=1, checkpoint_seconds=0, chunk_steps=5, workers=1, device="cpu")
HELD_SECONDS = 600.0
PATIENT = SETTINGS.model_copy(update={"stall_seconds": 300.0})
SHORT_OF_MEMORY = 256 << 20  # bytes that a worker may take besides what it has

Act = Callable[[], Any]


def at(place: str, act: Act) -> None:
    """Has `act` called at a place of a cell's training: in a step, a save, a validation, or before its record."""
    from studies import checkpoint, chunked, course, store

    if place == "step":
        usual = chunked.learning_rate_factor

        def factor(step: int, **rest: Any) -> float:
            if step == 17:
                act()
            return usual(step, **rest)

        chunked.learning_rate_factor = factor  # type: ignore[assignment]
    elif place == "save":
        write, saves = checkpoint.write_text, iter(range(1000))

        def before_the_digest(path: Path, text: str, **rest: Any) -> None:
            if next(saves) == 3:  # the checkpoint is replaced, its digest is still the old one
                act()
            write(path, text, **rest)

        checkpoint.write_text = before_the_digest
    elif place == "validation":
        predict, calls = course.predict, iter(range(1000))

        def second(*args: Any, **rest: Any) -> Any:
            if next(calls) == 1:
                act()
            return predict(*args, **rest)

        course.predict = second
    elif place == "record":
        write_file = store.write_atomically

        def before(path: Path, *arguments: Any, **rest: Any) -> None:
            if path.name == "record.json":  # the predictions lie there already
                act()
            write_file(path, *arguments, **rest)

        store.write_atomically = before
    else:
        raise ValueError(place)


def stand_still() -> None:
    """Until a signal comes."""
    time.sleep(HELD_SECONDS)


def hang_asleep() -> None:
    """Beyond the patience of the watchdog, which is cut short: a busy machine must not take the steps before for it."""
    _run_out_of_patience()
    time.sleep(HELD_SECONDS)


def hang_with_the_interpreter() -> None:
    """The same where no other thread of Python can run meanwhile, as where a library hangs."""
    _run_out_of_patience()
    sum(range(10**12))


def _run_out_of_patience() -> None:
    from studies import stall

    granted = stall._Watchdog.seconds
    if granted is None or granted < PATIENT.stall_seconds:  # type: ignore[operator]  # then nobody watches: the test fails
        raise ValueError(granted)
    stall._Watchdog.seconds = 1.0
    stall._wind_up()


def run_short_of_memory() -> None:
    """Asks for more than the process may have, as the kernel or a queueing system sets it."""
    import torch

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SHORT_OF_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.ones(SHORT_OF_MEMORY)  # float32: four times too much


def raise_memory_error() -> None:
    """As Python does where it finds no memory."""
    raise MemoryError


@dataclass
class Marked:
    """Does something, and leaves a file that says it has come to that."""

    marker: Path
    act: Act

    def __call__(self) -> None:
        self.marker.touch()
        self.act()


def work_with(connection: Connection, assignment: Assignment, place: str, marker: Path, act: Act) -> None:
    """`work`, but at a place something happens."""
    at(place, Marked(marker, act))
    work(connection, assignment)


def stop_at(marker: Path | None, connection: Connection, assignment: Assignment) -> None:
    """`work`, but in a step of the first cell ever (of every one where no marker is kept) the process stops itself."""
    if marker is None:
        at("step", stop)
    elif not marker.exists():
        at("step", Marked(marker, stop))
    work(connection, assignment)


def stop_forkserver(marker: Path, connection: Connection, assignment: Assignment) -> None:
    """`work`, but in a step of a cell the forkserver, which has begun this process, is stopped."""
    at("step", Marked(marker, partial(os.kill, os.getppid(), signal.SIGSTOP)))
    work(connection, assignment)


def stop_before_ending(marker: Path, connection: Connection, assignment: Assignment) -> None:
    """`work`, but told that there is no further job the process stops itself."""
    from studies.engines import worker

    next_job = worker._next_job

    def stop_after(connection: Connection) -> Any:
        job = next_job(connection)
        if job is None:
            Marked(marker, stop)()
        return job

    worker._next_job = stop_after
    work(connection, assignment)


def stop() -> None:
    """As somebody else may do to a process, who never has it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def assignment_of(store: Path, plan: Plan, settings: EngineSpec = SETTINGS) -> Assignment:
    """What a worker of the plan is told."""
    tracking = TrackingSpec(kind="off")
    return Assignment(store, plan.study_id, plan.spec.data, settings, tracking, "cpu")


@contextmanager
def started(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A worker, which has said that it is there, and its connection."""
    warm_up()
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() is True, "its preload failed"
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


@contextmanager
def held(
    store: Path, plan: Plan, place: str, act: Act, settings: EngineSpec = SETTINGS
) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A worker that trains the plan's only cell and has come to the place."""
    Store(store).lock_plan(plan)
    marker = store / "marker"
    with started(work_with, assignment_of(store, plan, settings), place, marker, act) as (process, connection):
        connection.send((plan.cells[0].id,))
        while not marker.exists():
            assert process.is_alive(), "it ended before"
            assert not connection.poll(), "it never came to the place"
            time.sleep(0.01)
        yield process, connection


def answer(connection: Connection) -> JobResult:
    """What a worker says of its cell."""
    result = connection.recv()
    assert isinstance(result, JobResult)
    return result
