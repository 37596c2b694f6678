"""A worker process: takes a cell's lock, trains it, leaves its record. It ends when its launcher does."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from datamodules import DataConfig, DataError
from studies.errors import StudyError
from studies.planning import Cell, Plan
from studies.spec import EngineSpec
from studies.store import Store
from studies.tracking import LiveMirror, TrackingSpec

PRELOADED = "studies.engines.preload"
"""What the forkserver imports before it starts workers."""

MACHINE_FAULTS = (OSError, MemoryError, StudyError, DataError)
"""What is no fault of the cell: nothing is recorded, and the cell can be continued."""

JobOutcome = Literal["recorded", "busy", "machine fault", "died"]


@dataclass(frozen=True)
class JobResult:
    """What became of one dispatched cell.

    Attributes:
        outcome: `recorded`: its record is in the store, whatever its status. `busy`: another launcher trains it.
            `machine fault`: nothing was recorded, the cell can be continued. `died`: the worker did not live to tell.
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


def work(connection: Connection, assignment: Assignment) -> None:
    """Answers each cell id received with a `JobResult`, until None is received or the launcher is gone."""
    preloaded = PRELOADED in sys.modules
    _end_with_launcher()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(preloaded)
    store = Store(assignment.store)
    plan = store.plan(assignment.study_id)
    cells = {cell.id: cell for cell in plan.cells}
    for cell_id in iter(connection.recv, None):
        with store.lock(cell_id) as mine:
            if not mine:
                connection.send(JobResult(cell_id, "busy"))
            elif store.record(cell_id) is not None:
                connection.send(JobResult(cell_id, "recorded"))
            else:
                _log_to(store.cell_folder(cell_id) / "log.txt")
                connection.send(_train(store, plan, cells[cell_id], assignment))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to tidy up, and torch would take its time


def _train(store: Store, plan: Plan, cell: Cell, assignment: Assignment) -> JobResult:
    from studies.train import failed_record, train_cell

    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} process {os.getpid()} takes up {cell.title}")
    live = None
    if assignment.tracking.mode == "online":
        content, folder = cell.model_dump(mode="json"), store.study_folder(plan.study_id)
        live = LiveMirror(content, cell.id, plan.study_id, folder, assignment.tracking)
    data, settings, device = assignment.data, assignment.settings, assignment.device
    try:
        train_cell(cell, data, store, plan.study_id, plan.hash, settings, device, live)
    except MACHINE_FAULTS as error:  # the row stays incomplete until retried
        traceback.print_exc()
        return JobResult(cell.id, "machine fault", f"{type(error).__name__}: {error}")
    except Exception as error:  # a fault of the cell: recorded, so that it is seen and costs no other cell
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        store.write_record(failed_record(cell, plan.study_id, plan.hash, reason))
        store.finish_cell(cell.id)
        return JobResult(cell.id, "recorded", reason)
    return JobResult(cell.id, "recorded")


def _end_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    if launcher is None:  # called in the launcher itself
        return

    def watch() -> None:
        wait([launcher.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-launcher").start()


def _log_to(path: Path) -> None:
    """Sends everything the process prints, native libraries included, to the cell's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
