"""The engine `slurm`: an array of jobs, each of which trains whatever cells are free, and a launcher that waits.

Nothing is handed out: every job runs a local engine on the same store and plan, where locks and records say what is
left. So jobs may begin late, be requeued or be lost, and the launcher may be gone meanwhile: the same command finds the
array it left and waits on. Jobs go through submitit; batch scripts and what jobs print lie with the study.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.counts import counted
from studies.errors import ConfigError, StoreError
from studies.files import write_text
from studies.grid import Plan
from studies.interruption import Interrupted, held_back
from studies.slurm_spec import SlurmSpec
from studies.store import Store
from studies.tracking import TrackingSpec

from .engine import Outcome
from .lock_witness import witness
from .slurm_queue import JobState, QueueError, cancel, job_states, recorded_states, told_state, unusual_waits
from .slurm_task import SlurmTask, TaskReport, read_report, slurm_folder

LOOK_SECONDS = 1.0  # between two looks at which cells are running
SIGNAL_SECONDS = 90  # before its time limit a task is told
EXTRA = 'pip install -e ".[slurm]" in the checkout'
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
UNSAFE = frozenset("%'\"\\")
"""What `sbatch` and submitit read as something else in the name of a file."""
FORGOTTEN = JobState("ENDED", "forgotten by the queue")


@dataclass(frozen=True)
class Array:
    """An array that was submitted, as the store remembers it.

    Attributes:
        array_id: of Slurm.
        job_ids: of its jobs.
    """

    array_id: str
    job_ids: tuple[str, ...]


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

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or no job is left to train it, or once submitted if detached.

        An array of this study that is still queued or running is waited for, not doubled. The array that this call
        submitted is cancelled on any exception.
        """
        outcome, is_ours = Outcome(), False
        while (left := self._left(cell_ids)) and not is_ours:
            array, is_ours = self._found_or_submitted(left)
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

    # --- submitting ------------------------------------------------------------------------------------------------

    def _found(self) -> Array | None:
        """The array of this study that was submitted last, if any of its jobs is queued or running."""
        try:
            content = json.loads((self._folder / "array.json").read_bytes())
            array = Array(str(content["array_id"]), tuple(map(str, content["job_ids"])))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"{self._folder / 'array.json'} does not say which jobs were submitted last: see that none of this "
                "study is in the queue (squeue --me), then remove the file"
            ) from None
        states = job_states(array.array_id)
        return array if any(not state.is_over for state in states.values()) else None

    def _found_or_submitted(self, cell_ids: Sequence[str]) -> tuple[Array, bool]:
        """The array that is there already, or a new one; and whether it is a new one, and thus this launcher's."""
        with self._only_one_submits():
            if (found := self._found()) is not None:
                self._on_message(
                    f"Slurm array {found.array_id} of this study is queued or running: no other is submitted"
                )
                return found, False
            task = SlurmTask(
                store=str(self._store.root.absolute()),
                study_id=self._plan.study_id,
                cell_ids=tuple(cell_ids),
                data=self._plan.spec.data.model_dump_json(),
                settings=self._settings.model_dump_json(),
                tracking=self._tracking.model_dump_json(),
            )
            return self._noted([task] * min(self._settings.tasks, len(cell_ids)), len(cell_ids)), True

    def _noted(self, tasks: Sequence[SlurmTask], num_cells: int) -> Array:
        """Submits an array and notes which; whatever comes between, none is left in the queue that nobody knows of."""
        array: Array | None = None
        try:
            with held_back():
                jobs = self._submitted(tasks)
                array = Array(jobs[0].partition("_")[0], tuple(jobs))
                write_text(self._folder / "array.json", json.dumps(asdict(array)))
            self._on_message(
                f"Slurm array {array.array_id}: {counted(len(jobs), 'task')} submitted for "
                f"{counted(num_cells, 'cell')}, logs in {self._folder}"
            )
        except BaseException:
            if array is not None:
                self._cancel(array, "cancelled")
            raise
        return array

    def _submitted(self, tasks: Sequence[SlurmTask]) -> list[str]:
        """Ids of the jobs, in the order of the tasks."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env

        wanted = self._settings
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=wanted.requeues)
        executor.update_parameters(**self._parameters())
        kept = {name: os.environ[name] for name in ("SLURM_CONF", *_own_choices(wanted)) if name in os.environ}
        try:
            with clean_env():  # from within a job too, whose variables are not those of the array
                os.environ.update(kept)
                jobs = executor.submit_array(tasks)
        except (FailedSubmissionError, FailedJobError) as error:
            raise ConfigError(f"engine: Slurm refused the array: {_last_line(error)}; nothing was submitted") from None
        except OSError as error:  # what submitit writes beside the batch script
            raise StoreError(f"{self._folder}: nothing was submitted: {error.strerror or error}") from error
        return [str(job.job_id) for job in jobs]

    def _parameters(self) -> dict[str, Any]:
        """What submitit writes into the batch script."""
        wanted = self._settings
        asked = {"partition": wanted.partition, "account": wanted.account, "qos": wanted.qos, "mem": wanted.memory}
        return {name: value for name, value in asked.items() if value is not None} | {
            "job_name": f"study-{self._plan.study_id}",
            "time": wanted.time_limit,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": wanted.cpus_per_task,
            **({"gpus_per_node": wanted.gpus_per_task} if wanted.gpus_per_task else {}),
            "signal_delay_s": SIGNAL_SECONDS,
            "array_parallelism": wanted.tasks,
            "wckey": None,
            "setup": list(wanted.setup) or None,
            "srun_args": [f"--cpus-per-task={wanted.cpus_per_task}"],  # since Slurm 22.05 a step does not inherit it
            "additional_parameters": wanted.additional_parameters | {"requeue": True},
        }

    @contextlib.contextmanager
    def _only_one_submits(self) -> Iterator[None]:
        """Held while an array is looked for and submitted, so that two launchers do not submit two."""
        path = self._folder / "submit.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"{path}: cannot be locked: {error.strerror}") from error
        with file:
            yield

    # --- waiting ---------------------------------------------------------------------------------------------------

    def _wait_or_cancel(self, array: Array, cell_ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Waits for an array of this launcher, which ends with it."""
        try:
            told = self._wait(array, cell_ids)
        except BaseException:
            self._cancel(array, "cancelled, running cells are saved")
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
        with witness(self._folder, f"launcher-{socket.gethostname()}-{os.getpid()}"):
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
                            self._on_message(f"Slurm task {job_id} waits: {reason}")
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
            elif state.is_over and state.name != "COMPLETED":
                losses.append(f"{told_state(job_id, state)}; {_where_it_says(log)}")
        warnings |= dict.fromkeys(losses)
        reasons[""] = "; ".join(losses) or "its task ended without training it; the same command continues"
        return reasons, list(warnings)

    def _report(self, job_id: str) -> TaskReport | None:
        try:
            return read_report(self._folder, job_id)
        except StoreError:
            return None

    def _cancel(self, array: Array, how: str) -> None:
        try:
            cancel(array.array_id)
        except (QueueError, KeyboardInterrupt, Interrupted) as error:
            how = f"could not be cancelled ({str(error) or 'interrupted'}): scancel {array.array_id}"
        print(f"Slurm array {array.array_id}: {how}", file=sys.stderr, flush=True)

    def _detached(self, cell_ids: Sequence[str], array: Array) -> Outcome:
        study = self._plan.study_id
        self._on_message(
            f"detached: study status {study} tells how far it is, squeue -j {array.array_id} what the queue does; "
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


def _own_choices(settings: SlurmSpec) -> list[str]:
    """The variables of `sbatch` by which a person says what the settings leave open; others would overrule them."""
    return [f"SBATCH_{name.upper()}" for name in ("partition", "account", "qos") if getattr(settings, name) is None]


def _where_it_says(log: Path) -> str:
    if log.exists():
        return f"see {log}"
    return (
        f"it left no {log.name}: do all nodes see {log.parent}, under this name? If not, choose a shared folder with "
        "--store"
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
