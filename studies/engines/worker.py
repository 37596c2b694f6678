"""A worker process: takes the locks of a job's cells, trains them, leaves their records.

It ends when its launcher does.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, Protocol

from datamodules import DataConfig, DataError
from studies import stopping
from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.errors import StoreError, StudyError
from studies.grid import Plan
from studies.lifetime import end_with_parent
from studies.records import Record
from studies.stall import SIGN, watched
from studies.store import Store
from studies.tracking import LiveMirror, TrackingSpec

from .job import free_memory, is_out_of_memory, run_job

PRELOADED = "studies.engines.preload"
"""What the forkserver imports before it starts workers."""

TAKES_UP = "takes up"
"""What the log of a cell says, after the number of the process, whenever a worker begins with it."""

LOOK_SECONDS = 1.0
"""Between two looks of a worker without a job at whether it was asked to end."""
STALLED = 1  # exit code of a process that its watchdog ended
LAST_BYTES = 1 << 16  # of a log that are looked at for its last words

MACHINE_FAULTS = (OSError, MemoryError, StudyError, DataError)
"""What is no fault of the cell: nothing is recorded, and the cell can be continued."""

JobOutcome = Literal["recorded", "busy", "returned", "machine fault", "died"]


@dataclass(frozen=True)
class JobResult:
    """What became of one dispatched cell; a job has ended when every cell of it is answered for.

    Attributes:
        outcome: `recorded`: its record is in the store, whatever its status. `busy`: another launcher trains it.
            `returned`: the job had more cells than this machine gains from training at once. `machine fault`: nothing
            was recorded, the cell can be continued. `died`: the worker did not live to tell.
        message: why, for people.
    """

    cell_id: str
    outcome: JobOutcome
    message: str = ""


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to know, all of it picklable."""

    store: Path
    study_id: str
    data: DataConfig  # where the launcher found the data, which may have moved since the plan was locked
    settings: EngineSpec
    tracking: TrackingSpec
    device: str


Message = JobResult | bool | str
"""What a worker sends: first whether its preload worked, then results, and in between what a person should know."""


def work(connection: Connection, assignment: Assignment) -> None:
    """Answers each cell of each job received with a `JobResult`, until None is received or the launcher is gone."""
    preloaded = PRELOADED in sys.modules
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher, which ends its workers
    stopping.listen()  # asked to end, it saves its cells first
    connection.send(preloaded)
    worker = Worker(connection, assignment)
    with contextlib.suppress(stopping.Stopped):
        while (job := _next_job(connection)) is not None:
            worker.run(job)
    sys.stdout.flush()
    os._exit(0)  # nothing is left to tidy up, and torch would take its time


def _next_job(connection: Connection) -> Sequence[str] | None:
    """The next job, or None where there is none left.

    Raises:
        Stopped: this process was asked to end, before or meanwhile.
    """
    while not connection.poll(LOOK_SECONDS):
        if stopping.is_asked():
            raise stopping.Stopped
    if stopping.is_asked():
        raise stopping.Stopped
    job: Sequence[str] | None = connection.recv()
    return job


class Sink(Protocol):
    """Where a worker's messages go: a connection, or what stands for one."""

    def send(self, message: Message, /) -> object:
        """Hands a message on towards the launcher."""


class Worker:
    """Runs jobs in this process."""

    def __init__(self, connection: Sink, assignment: Assignment) -> None:
        self._connection, self._assignment = connection, assignment
        self._store = Store(assignment.store)
        self._plan: Plan = self._store.plan(assignment.study_id)
        self._cells = {cell.id: cell for cell in self._plan.cells}
        self._lives: dict[str, LiveMirror] = {}

    def run(self, job: Sequence[str]) -> None:
        """Trains the cells of a job that are free and have no record; all locks are held until the job has ended."""
        settings, cells = self._assignment.settings, [self._cells[cell_id] for cell_id in job]
        step_flops = 3 * sum(cell.forward_flops * cell.batch_size for cell in cells)
        with watched(settings.stall_seconds, step_flops):
            self._run(job)
        if self._assignment.device != "cpu":
            free_memory()  # the next program finds the device empty

    def _run(self, job: Sequence[str]) -> None:
        width = self._width(job)
        for cell_id in reversed(job[width:]):  # each goes back to the head of the queue
            self._send(JobResult(cell_id, "returned"))
        with contextlib.ExitStack() as locks:
            cells = []
            for cell_id in job[:width]:
                if not locks.enter_context(self._store.lock(cell_id)):
                    self._send(JobResult(cell_id, "busy"))
                elif (known := self._known(cell_id)) is not None:
                    self._send(known)
                else:
                    cells.append(self._cells[cell_id])
            if cells:
                self._log(cells)
                self._tell_start(cells)
                self._lives = self._open_lives(cells)
                in_lanes = self._takes_lanes(cells[0])
                run_job(cells, self._train, self._answer, self._send, in_lanes=in_lanes)

    def _width(self, job: Sequence[str]) -> int:
        """Cells of a job to train at once: all, unless the width is still to be measured."""
        settings, device = self._assignment.settings, self._assignment.device
        if len(job) == 1 or settings.lanes != "auto":
            return len(job)
        from studies.job_data import JobData
        from studies.lane_width import width_of

        try:
            return width_of(self._cells[job[0]], JobData(self._assignment.data), settings, device)
        except MACHINE_FAULTS as error:  # training will meet it again and tell it of the right cell
            self._send(f"how many runs to train at once could not be measured: {error}")
            return 1

    def _takes_lanes(self, cell: Cell) -> bool:
        from studies.lane_width import takes_lanes

        return takes_lanes(cell, self._assignment.settings, self._assignment.device)

    def _train(self, cells: Sequence[Cell], *, in_lanes: bool) -> Iterator[tuple[str, Record | Exception]]:
        from studies.train import train_cells

        one, plan = self._assignment, self._plan
        _log_to(self._log_path(cells[0]))
        return train_cells(
            cells, one.data, self._store, plan.study_id, plan.hash, one.settings, one.device, self._lives, in_lanes
        )

    def _answer(self, cell: Cell, result: Record | Exception) -> None:
        """Tells the launcher of a cell; one with a fault of its own gets a record that says so."""
        if isinstance(result, Record):
            self._send(JobResult(cell.id, "recorded"))
            return
        with contextlib.suppress(OSError), self._log_path(cell).open("a") as log:  # the disk may be full
            traceback.print_exception(result, file=log)
        reason = f"{type(result).__name__}: {result}"
        if isinstance(result, MACHINE_FAULTS) or is_out_of_memory(result):  # stays incomplete until retried
            self._send(JobResult(cell.id, "machine fault", reason))
            return
        from studies.train import failed_record

        try:  # a fault of the cell: recorded, so that it is seen and costs no other cell
            self._store.write_record(failed_record(cell, self._plan.study_id, self._plan.hash, reason))
            self._store.finish_cell(cell.id)
        except MACHINE_FAULTS as fault:
            self._send(JobResult(cell.id, "machine fault", f"{reason}, which could not be recorded: {fault}"))
        else:
            self._send(JobResult(cell.id, "recorded", reason))

    def _known(self, cell_id: str) -> JobResult | None:
        """What the store says of a cell; None where it is still to train."""
        try:
            return None if self._store.record(cell_id) is None else JobResult(cell_id, "recorded")
        except StoreError as error:  # damaged since the launcher looked
            return JobResult(cell_id, "machine fault", str(error))

    def _open_lives(self, cells: Sequence[Cell]) -> dict[str, LiveMirror]:
        tracking, plan = self._assignment.tracking, self._plan
        if tracking.mode != "online":
            return {}
        folder = self._store.study_folder(plan.study_id)
        return {
            cell.id: LiveMirror(cell.model_dump(mode="json"), cell.id, plan.study_id, folder, tracking, plan.spec.tier)
            for cell in cells
        }

    def _log(self, cells: Sequence[Cell]) -> None:
        """Notes in each cell's log that it begins. What the process prints goes to the first one's."""
        for lane, cell in enumerate(cells):
            moment = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
            line = f"{moment} process {os.getpid()} {TAKES_UP} {cell.title}"
            if len(cells) > 1:
                line += f", lane {lane + 1} of {len(cells)}; what they print is in the log of cell {cells[0].id}"
            with (
                contextlib.suppress(OSError),
                self._log_path(cell).open("a") as log,
            ):  # a full disk is told of later
                print(line, file=log)

    def _tell_start(self, cells: Sequence[Cell]) -> None:
        """So that a cell whose first steps are long in coming does not look hung."""
        for cell in cells:
            known = self._store.progress(cell.id)
            step = known.step if known is not None else 0
            self._store.write_progress(cell.id, step, cell.executed_steps, starting=True)

    def _log_path(self, cell: Cell) -> Path:
        return self._store.cell_folder(cell.id) / "log.txt"

    def _send(self, message: Message) -> None:
        self._connection.send(message)


def how_it_ended(exit_code: int | None, log: Path) -> str:
    """How a worker ended that did not live to tell, for people.

    Args:
        log: of the first cell of its job, where it wrote.
    """
    if exit_code is not None and exit_code < 0:
        name = signal.strsignal(-exit_code) or f"signal {-exit_code}"
        name = next((known.name for known in signal.Signals if known == -exit_code), name)
        hint = "; the system does so where memory is short" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    if exit_code == STALLED and SIGN in _last_words(log):
        return f"its worker made no progress for engine.stall_seconds; {log} says where it hung"
    return f"its worker ended with exit code {exit_code}"


def _last_words(log: Path) -> bytes:
    """What was written to a log since the last worker took its cell up, of its last part."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_BYTES))
            return file.read().rpartition(TAKES_UP.encode())[2]
    except OSError:
        return b""


def _log_to(path: Path) -> None:
    """Sends everything the process prints, native libraries included, to the cell's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
