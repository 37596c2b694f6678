"""The engine `slurm`: an array of jobs, each of which trains whatever cells are free, and a launcher that waits.

Nothing is handed out: every job runs a local engine on the same store and plan, where locks and records say what is
left. So jobs may begin late, be requeued or be lost, and the launcher may be gone meanwhile: the same command finds the
array it left and waits on. Jobs go through submitit; batch scripts and what jobs print lie with the study.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studies.counts import counted
from studies.errors import ConfigError, StoreError
from studies.grid import Plan
from studies.slurm_spec import SlurmSpec
from studies.store import Store
from studies.tracking import TrackingSpec
from studies.troubled_lines import option

from .engine import Outcome
from .lock_witness import launcher_name, witness, witness_folder
from .slurm_array import Array, StudyArray, cancel_array
from .slurm_queue import (
    FORGOTTEN,
    JobState,
    QueueError,
    cancel,
    job_states,
    recorded_states,
    told_state,
    unusual_waits,
)
from .slurm_task import SlurmTask, TaskReport, read_report, slurm_folder

LOOK_SECONDS = 1.0  # between two looks at which cells are running
WITHDRAW = "; where that cannot pass, Ctrl-C withdraws the array"
EXTRA = 'pip install -e ".[slurm]" in the checkout'
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
UNSAFE = frozenset("%'\"\\")
"""What `sbatch` and submitit read as something else in the name of a file."""


class SlurmEngine:
    """Runs cells of a locked plan on the nodes of a cluster.

    Args:
        on_poll: called about once a second with the ids of the cells that anybody trains.
        on_message: called with what a person should know meanwhile.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        settings: SlurmSpec,
        tracking: TrackingSpec,
        on_poll: Callable[[Sequence[str]], None] = lambda running: None,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        check_slurm(store)
        self._store, self._plan, self._settings, self._tracking = store, plan, settings, tracking
        self._on_poll, self._on_message = on_poll, on_message
        self._folder = slurm_folder(store, plan.study_id)
        self._array = StudyArray(self._folder, plan.study_id, settings, on_message)

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or no job is left to train it, or once submitted if detached.

        An array of this study that is still queued or running is waited for, not doubled. The array that this call
        submitted is cancelled on any exception.
        """
        outcome, is_ours = Outcome(), False
        while (left := self._left(cell_ids)) and not is_ours:
            array, is_ours = self._array.found_or_submitted(self._task(left))
            if self._settings.detach:
                return self._detached(cell_ids, array)
            reasons, warnings = self._wait_or_cancel(array, left) if is_ours else self._wait_or_leave(array, left)
            outcome.warnings += warnings
        outcome.incomplete = {cell_id: reasons.get(cell_id, reasons[""]) for cell_id in left}
        outcome.recorded = [cell_id for cell_id in cell_ids if cell_id not in outcome.incomplete]
        return outcome

    def _left(self, cell_ids: Sequence[str]) -> list[str]:
        """Cells without a record; a damaged one is the task's to find."""
        return [cell_id for cell_id in cell_ids if not (self._store.cell_folder(cell_id) / "record.json").exists()]

    def _task(self, cell_ids: Sequence[str]) -> SlurmTask:
        return SlurmTask(
            store=str(self._store.root.absolute()),
            study_id=self._plan.study_id,
            cell_ids=tuple(cell_ids),
            data=self._plan.spec.data.model_dump_json(),
            settings=self._settings.model_dump_json(),
            tracking=self._tracking.model_dump_json(),
        )

    def _wait_or_cancel(self, array: Array, cell_ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Waits for an array of this launcher, which ends with it."""
        try:
            told = self._wait(array, cell_ids)
        except BaseException:
            cancel_array(array, "cancelled, running cells are saved")
            raise
        return told

    def _wait_or_leave(self, array: Array, cell_ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Waits for an array that another launcher submitted, which goes on without this one."""
        try:
            return self._wait(array, cell_ids)
        except BaseException:
            goes_on = f"Slurm array {array.array_id} goes on without this launcher; scancel {array.array_id} ends it"
            print(goes_on, file=sys.stderr, flush=True)
            raise

    def _wait(self, array: Array, cell_ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Waits until each cell has a record, or until no job of the array is left.

        Returns:
            Cell id -> why it has no record, and under "" why any other has none; and warnings.
        """
        states = {job_id: JobState("PENDING") for job_id in array.job_ids}
        next_poll, told, warnings = 0.0, set[str](), dict[str, None]()
        with witness(witness_folder(self._store, self._plan.study_id), launcher_name()):
            left = self._left(cell_ids)
            while left:
                if time.monotonic() >= next_poll:
                    next_poll = time.monotonic() + self._settings.poll_seconds
                    try:
                        states = self._asked(array, states)
                    except QueueError as error:
                        warnings[f"Slurm could not be asked for a while: {error}"] = None
                    for reason, job_id in unusual_waits(states).items():
                        if reason not in told:
                            told.add(reason)
                            self._on_message(f"Slurm task {job_id} waits: {reason}{WITHDRAW}")
                    if all(state.is_over for state in states.values()):
                        break
                self._on_poll([cell_id for cell_id in left if self._store.is_locked(cell_id)])
                time.sleep(LOOK_SECONDS)
                left = self._left(left)
        if not left and any(not state.is_over for state in states.values()):
            self._end_the_rest(array)
        return self._told(array, states, warnings)

    def _asked(self, array: Array, known: Mapping[str, JobState]) -> dict[str, JobState]:
        """The states of all jobs; of one that the queue has forgotten as the accounting has it, or as seen last."""
        states = job_states(array.array_id)
        if all(job_id in states for job_id in array.job_ids):
            return {job_id: states[job_id] for job_id in array.job_ids}
        ended = {job_id: state for job_id, state in known.items() if state.is_over}
        accounted = {job: state for job, state in recorded_states(array.array_id).items() if state.is_over}
        return {job_id: (accounted | ended | states).get(job_id, FORGOTTEN) for job_id in array.job_ids}

    def _end_the_rest(self, array: Array) -> None:
        """Jobs that still wait for their turn have nothing left to do; those that run end by themselves."""
        with contextlib.suppress(QueueError):
            cancel(array.array_id, only_waiting=True)

    def _told(
        self, array: Array, states: Mapping[str, JobState], warnings: dict[str, None]
    ) -> tuple[dict[str, str], list[str]]:
        """What jobs reported, and how those ended that did not live to report."""
        reasons, losses = dict[str, str](), list[str]()
        for job_id in array.job_ids:
            report, state = self._report(job_id), states[job_id]
            log = self._folder / f"{job_id}_0_log.err"
            if report is not None:
                reasons |= report.incomplete
                warnings |= dict.fromkeys(report.warnings)
                if report.restarts:
                    warnings[f"task {job_id} was requeued {counted(report.restarts, 'time')}"] = None
            if report is not None and report.refused:
                losses.append(f"task {job_id} on {report.node} could not begin: {report.refused}")
            elif state.is_over and state.name != "COMPLETED" and not (state == FORGOTTEN and report is not None):
                losses.append(f"{told_state(job_id, state)}; {_where_it_says(log)}")
        warnings |= dict.fromkeys(losses)
        reasons[""] = "; ".join(losses) or "its task ended without training it; the same command continues"
        return reasons, list(warnings)

    def _report(self, job_id: str) -> TaskReport | None:
        try:
            return read_report(self._folder, job_id)
        except StoreError:
            return None

    def _detached(self, cell_ids: Sequence[str], array: Array) -> Outcome:
        study = self._plan.study_id
        self._on_message(
            f"detached: study status {study}{option(self._store)} tells how far it is, "
            f"squeue -j {array.array_id} what the queue does; "
            "the same command continues once it is done"
        )
        left = self._left(cell_ids)
        recorded = [cell_id for cell_id in cell_ids if cell_id not in left]
        return Outcome(recorded, dict.fromkeys(left, f"in Slurm array {array.array_id}"))


def check_slurm(store: Store) -> None:
    """Refuses a machine or a results folder from which nothing can be submitted.

    Raises:
        ConfigError: says what is missing and what to do.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(f"engine: slurm needs the package submitit: {EXTRA}")
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise ConfigError(
            f"engine: slurm needs the command {missing[0]}, which is not on this machine's PATH; run the study on a "
            "login node of the cluster, or with engine=local"
        )
    root = str(store.root.absolute())
    if bad := sorted(UNSAFE & set(root)) or not root.isprintable():
        shown = " ".join(bad) if isinstance(bad, list) else "a control character"
        raise ConfigError(f"--store: {root!r} has {shown} in its name, which Slurm reads as something else; rename it")


def _where_it_says(log: Path) -> str:
    if log.exists():
        return f"see {log}"
    return (
        f"it left no {log.name}: do all nodes see {log.parent}, under this name? If not, choose a shared folder with "
        "--store"
    )
