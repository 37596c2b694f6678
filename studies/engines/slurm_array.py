"""The array of a study: submitted once, and found again by whoever comes next, however the last one ended.

Before anything is submitted, the store notes under which name (`submitting.json`); then which jobs came of it
(`array.json`). A launcher that is killed in between leaves the name, by which the queue is asked. One that is killed
while `sbatch` is still at it leaves that process the lock under which arrays are looked for: the next launcher waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from studies.counts import counted
from studies.errors import ConfigError, StoreError
from studies.files import write_text
from studies.interruption import Interrupted, held_back
from studies.slurm_spec import SlurmSpec

from .slurm_queue import QueueError, cancel, job_states, jobs_named
from .slurm_task import SlurmTask

SIGNAL_SECONDS = 90  # before its time limit a task is told
STANDARD_INPUT = 0  # the descriptor
Noted = TypeVar("Noted")


@dataclass(frozen=True)
class Array:
    """An array that was submitted, as the store remembers it.

    Attributes:
        array_id: of Slurm.
        job_ids: of its jobs, in the order of their tasks.
    """

    array_id: str
    job_ids: tuple[str, ...]

    @classmethod
    def of(cls, job_ids: Sequence[str]) -> Array:
        """The array that has these jobs: 12 of 12_0 and 12_1, and of a single one that is none."""
        return cls(job_ids[0].partition("_")[0], tuple(job_ids))


class StudyArray:
    """The one array that a study may have in the queue.

    Args:
        folder: where batch scripts and the note of what was submitted lie.
        study_id: of the locked plan.
        settings: what is asked of Slurm.
        on_message: called with what a person should know meanwhile.
    """

    def __init__(self, folder: Path, study_id: str, settings: SlurmSpec, on_message: Callable[[str], None]) -> None:
        self._folder, self._study_id, self._settings, self._on_message = folder, study_id, settings, on_message
        self._intent, self._note = folder / "submitting.json", folder / "array.json"

    def found_or_submitted(self, task: SlurmTask) -> tuple[Array, bool]:
        """The array that is there already, or a new one; and whether it is a new one, and thus this launcher's.

        Args:
            task: what each job of a new one does.

        Raises:
            ConfigError: Slurm refused the array.
            StoreError: the folder cannot be written, or the note in it cannot be read.
            QueueError: Slurm cannot be asked whether there is one.
        """
        with self._only_one_submits() as lock:
            if (found := self._found()) is not None:
                self._on_message(
                    f"Slurm array {found.array_id} of this study is queued or running: no other is submitted"
                )
                return found, False
            return self._new([task] * min(self._settings.tasks, len(task.cell_ids)), lock), True

    def _found(self) -> Array | None:
        """The array that was submitted last, if any of its jobs is queued or running."""
        array = self._of_the_dead() or _noted(
            self._note, lambda content: Array(str(content["array_id"]), tuple(map(str, content["job_ids"])))
        )
        states = {} if array is None else job_states(array.array_id)
        return array if any(not state.is_over for state in states.values()) else None

    def _of_the_dead(self) -> Array | None:
        """The array that a launcher has submitted, as far as the queue knows, without living to note it."""
        name = _noted(self._intent, lambda content: str(content["name"]))
        job_ids = [] if name is None else jobs_named(name)
        if not job_ids:
            return None
        self._note_down(array := Array.of(job_ids))
        return array

    def _note_down(self, array: Array) -> None:
        write_text(self._note, json.dumps(asdict(array)))
        self._intent.unlink(missing_ok=True)

    def _new(self, tasks: Sequence[SlurmTask], lock: IO[bytes]) -> Array:
        """Submits an array and notes which; whatever comes between, none is left in the queue that nobody knows of."""
        name = f"study-{self._study_id}-{secrets.token_hex(4)}"
        array: Array | None = None
        try:
            with held_back():
                write_text(self._intent, json.dumps({"name": name}))
                with _inherited(lock):
                    array = Array.of(self._submitted(tasks, name))
                self._note_down(array)
            self._on_message(
                f"Slurm array {array.array_id}: {counted(len(tasks), 'task')} submitted for "
                f"{counted(len(tasks[0].cell_ids), 'cell')}, logs in {self._folder}"
            )
        except BaseException:
            if array is not None:
                cancel_array(array, "cancelled")
            raise
        return array

    def _submitted(self, tasks: Sequence[SlurmTask], name: str) -> list[str]:
        """Ids of the jobs, in the order of the tasks."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env

        wanted = self._settings
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=wanted.requeues)
        executor.update_parameters(**_parameters(wanted, name))
        kept = {name: os.environ[name] for name in ("SLURM_CONF", *_own_choices(wanted)) if name in os.environ}
        try:
            with clean_env():  # from within a job too, whose variables are not those of the array
                os.environ.update(kept)
                jobs = executor.submit_array(tasks)
        except (FailedSubmissionError, FailedJobError) as error:
            told = _last_line(error)
            raise ConfigError(f"engine: Slurm refused the array: {told}; {_withdrawn(name)}") from None
        except OSError as error:  # what submitit writes before `sbatch` and after it
            raise StoreError(f"{self._folder}: {_withdrawn(name)}: {error.strerror or error}") from error
        return [str(job.job_id) for job in jobs]

    @contextlib.contextmanager
    def _only_one_submits(self) -> Iterator[IO[bytes]]:
        """Held while an array is looked for and submitted, so that two launchers do not submit two."""
        path = self._folder / "submit.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"{path}: cannot be locked: {error.strerror}") from error
        with file:
            yield file


def _noted(path: Path, read: Callable[[Any], Noted]) -> Noted | None:
    """What a note says, or None where there is none."""
    try:
        return read(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise StoreError(
            f"{path} does not say what was submitted last: see that none of this study is in the queue "
            "(squeue --me), then remove the file"
        ) from None


def _withdrawn(name: str) -> str:
    """What became of an array that could not be submitted: it may have come into the queue nonetheless."""
    try:
        job_ids = jobs_named(name)
    except QueueError:
        return "nothing was submitted as far as is known; if an array was, the same command finds it"
    if not job_ids:
        return "nothing was submitted"
    cancel_array(Array.of(job_ids), "cancelled")
    return "it was not submitted as it has to be"


def cancel_array(array: Array, how: str) -> None:
    """Cancels an array and prints what became of it, of which there may be nobody else left to tell.

    Args:
        how: it went, if it went well.
    """
    try:
        cancel(array.array_id)
    except (QueueError, KeyboardInterrupt, Interrupted) as error:
        how = f"could not be cancelled ({str(error) or 'interrupted'}): scancel {array.array_id}"
    print(f"Slurm array {array.array_id}: {how}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _inherited(lock: IO[bytes]) -> Iterator[None]:
    """Has what is started meanwhile hold a lock too, until it ends: as its standard input, which `sbatch` leaves be."""
    usual = None
    with contextlib.suppress(OSError):  # a launcher without a standard input
        usual = os.dup(STANDARD_INPUT)
    os.dup2(lock.fileno(), STANDARD_INPUT)
    try:
        yield
    finally:
        if usual is None:
            os.close(STANDARD_INPUT)
        else:
            os.dup2(usual, STANDARD_INPUT)
            os.close(usual)


def _parameters(wanted: SlurmSpec, name: str) -> dict[str, Any]:
    """What submitit writes into the batch script."""
    asked = {"partition": wanted.partition, "account": wanted.account, "qos": wanted.qos, "mem": wanted.memory}
    return {name: value for name, value in asked.items() if value is not None} | {
        "job_name": name,
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


def _own_choices(settings: SlurmSpec) -> list[str]:
    """The variables of `sbatch` by which a person says what the settings leave open; others would overrule them."""
    return [f"SBATCH_{name.upper()}" for name in ("partition", "account", "qos") if getattr(settings, name) is None]


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
