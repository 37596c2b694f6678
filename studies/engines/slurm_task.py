"""What runs on a node: a launcher of its own on the cells that all tasks share, until all have a record.

Whoever is free takes the next cell, by its lock; a task that is lost costs what it had not saved, and another goes on
with its cells. Asked to end, a task lets its workers save. By USR2, as before the time limit, it is then requeued.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from datamodules import parse_data
from studies.errors import StoreError, StudyError
from studies.files import write_text
from studies.readiness import check_node, prepare_data
from studies.slurm_spec import SlurmSpec
from studies.stopping import SIGNALS, Stopped
from studies.store import Store
from studies.tracking import TrackingSpec

from .engine import Outcome
from .local import LocalEngine
from .lock_witness import check_locks, witness, witness_folder

GRACE_SECONDS = 3.0
"""After TERM, for how long USR2 is waited for: where machines are taken away, some queues send both."""
CANNOT_RUN = 2  # exit code of a task on a node that cannot do what was asked


@dataclass(frozen=True)
class TaskReport:
    """What a task leaves for who submitted it.

    Attributes:
        node: where it ran.
        refused: why it could not begin; empty if it could.
        incomplete: cell id -> why it gave it up.
        warnings: what a person should know.
        restarts: times that Slurm has started it again.
    """

    node: str
    refused: str
    incomplete: Mapping[str, str]
    warnings: tuple[str, ...]
    restarts: int


@dataclass(frozen=True)
class SlurmTask:
    """Called on a node by submitit, which reads it from a file: names of classes, and otherwise plain values.

    Attributes:
        store: results folder, absolute.
        study_id: of the locked plan.
        cell_ids: cells to train, the same for all tasks.
        data: where the launcher found the data, as JSON.
        settings: of the engine, as JSON.
        tracking: of running cells, as JSON.
    """

    store: str
    study_id: str
    cell_ids: tuple[str, ...]
    data: str
    settings: str
    tracking: str

    def __call__(self) -> None:
        """Trains until every cell is recorded or given up, or until this job is asked to end."""
        with _told_to_end() as signals:
            try:
                self._run()
                signals.ignore()
                return
            except Stopped:
                print("asked to end: running cells are saved", file=sys.stderr, flush=True)
            except StudyError as error:
                self._report(Outcome(), refused=str(error))
                print(f"error: {error}", file=sys.stderr, flush=True)
                raise SystemExit(CANNOT_RUN) from None
        if signals.wait_for(signal.SIGUSR2):
            signals.usual(signal.SIGUSR2)  # submitit's: it calls `checkpoint`, and has the job requeued
        raise SystemExit(128 + signal.SIGTERM)

    def checkpoint(self) -> Any:  # noqa: ANN401  # submitit has no types
        """What the requeued job is to do: the same, since the store tells what is left."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self) -> None:
        store, name = Store(self.store), _job_name()
        report_path(slurm_folder(store, self.study_id), name).unlink(missing_ok=True)
        spec = SlurmSpec.model_validate_json(self.settings)
        settings = spec.within_task(has_gpus="SLURM_GPUS_ON_NODE" in os.environ)
        witnesses = witness_folder(store, self.study_id)
        with witness(witnesses, f"task-{name}") as own:
            check_locks(witnesses, own)
            plan = store.plan(self.study_id)
            plan = replace(plan, spec=plan.spec.model_copy(update={"data": parse_data(json.loads(self.data))}))
            check_node(plan, settings)
            prepare_data(plan)
            engine = LocalEngine(store, plan, settings, TrackingSpec.model_validate_json(self.tracking))
            outcome = engine.run(self.cell_ids)
        self._report(outcome)

    def _report(self, outcome: Outcome, refused: str = "") -> None:
        report = TaskReport(
            node=socket.gethostname(),
            refused=refused,
            incomplete=outcome.incomplete,
            warnings=tuple(outcome.warnings),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )
        folder = slurm_folder(Store(self.store), self.study_id)
        write_text(report_path(folder, _job_name()), json.dumps(asdict(report), indent=1))


class _Signals:
    """The signals by which this job is asked to end: the first one raises `Stopped`, others are remembered."""

    def __init__(self) -> None:
        self.received: set[int] = set()
        self._usual = {number: signal.getsignal(number) for number in SIGNALS}

    def note(self, number: int, frame: FrameType | None) -> None:
        first = not self.received
        self.received.add(number)
        if first:
            raise Stopped

    def ignore(self) -> None:
        """All is done, and a signal would make a failure of it."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def wait_for(self, number: int) -> bool:
        deadline = time.monotonic() + GRACE_SECONDS
        while number not in self.received and time.monotonic() < deadline:
            time.sleep(0.1)
        return number in self.received

    def usual(self, number: int) -> None:
        """Does what was done about a signal before."""
        handler = self._usual[signal.Signals(number)]
        if callable(handler):
            handler(number, None)


@contextmanager
def _told_to_end() -> Iterator[_Signals]:
    """Signals stay noted afterwards, too: all that is left to this process is to end."""
    signals = _Signals()
    for number in SIGNALS:
        signal.signal(number, signals.note)
    yield signals


def slurm_folder(store: Store, study_id: str) -> Path:
    """Where batch scripts, what jobs print, and what they report lie."""
    return store.study_folder(study_id).absolute() / "slurm"


def report_path(folder: Path, job_id: str) -> Path:
    """Where the task of a job leaves its report."""
    return folder / f"{job_id}_report.json"


def read_report(folder: Path, job_id: str) -> TaskReport | None:
    """What a task reported, or None where it did not come so far.

    Raises:
        StoreError: the file is no report.
    """
    path = report_path(folder, job_id)
    try:
        content = json.loads(path.read_bytes())
        return TaskReport(**(content | {"warnings": tuple(content["warnings"])}))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is no report of a task: {error}") from None


def _job_name() -> str:
    """Such as 12_0, or 12 of a job that is no array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", f"pid{os.getpid()}")
