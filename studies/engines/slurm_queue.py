"""What Slurm says of the jobs of an array: a few commands, and no more of them than a queue should have to answer."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from studies.errors import StudyError

COMMAND_SECONDS = 60.0
SEPARATOR = "|"

OVER = frozenset(
    """BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT
    ENDED""".split()  # noqa: SIM905
)
"""States in which a job has ended and will not begin again (`squeue`, JOB STATE CODES; ENDED is our own word)."""
UNTOLD = frozenset({"", "None", "Resources", "Priority", "BeginTime", "Cleaning", "JobArrayTaskLimit"})
"""Reasons for waiting that are the ordinary course of things."""


class QueueError(StudyError):
    """Slurm refused, or could not be asked."""


@dataclass(frozen=True)
class JobState:
    """What the queue says of one job.

    Attributes:
        name: such as PENDING or OUT_OF_MEMORY.
        reason: why it waits, or why it ended.
        nodes: where it runs or ran.
    """

    name: str
    reason: str = ""
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.name in OVER


FORGOTTEN = JobState("ENDED", "forgotten by the queue")
"""A job that no longer is in the queue, nor in an accounting: it ended, and nobody can say how."""


def job_states(array_id: str) -> dict[str, JobState]:
    """The jobs that Slurm knows of an array, running, waiting or ended lately; none where it has forgotten them.

    Args:
        array_id: of the array, or of a job that is none.

    Raises:
        QueueError: the controller cannot be reached.
    """
    try:
        return _queued(f"--jobs={array_id}")
    except QueueError as error:
        if "Invalid job id" not in str(error):
            raise
        return {}


def jobs_named(name: str) -> list[str]:
    """Ids of the jobs of the array that goes by this name, in the order of its tasks; none where there is no such one.

    Raises:
        QueueError: the controller cannot be reached.
    """
    return sorted(_queued(f"--name={name}"), key=lambda job_id: [int(part) for part in job_id.split("_")])


def recorded_states(array_id: str) -> dict[str, JobState]:
    """The same from the accounting, which not every cluster has, of jobs that the queue has forgotten."""
    columns = "--format=JobID,State,Reason,NodeList"
    try:
        return _parsed(_ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={array_id}", columns))
    except QueueError:
        return {}


def cancel(array_id: str, *, only_waiting: bool = False) -> None:
    """Ends the jobs of an array; one that runs saves what it trains.

    Raises:
        QueueError: says why it could not be done.
    """
    _ask("scancel", *(["--state=PENDING"] if only_waiting else []), array_id)


def told_state(job_id: str, state: JobState) -> str:
    """A job's state in words: `task 12_3 is waiting (QOSMaxJobsPerUserLimit)`."""
    where = f" on {state.nodes}" if state.nodes else ""
    why = f" ({state.reason})" if state.reason not in UNTOLD else ""
    return f"task {job_id}: {state.name}{why}{where}"


def unusual_waits(states: Mapping[str, JobState]) -> dict[str, str]:
    """Reason -> one of the jobs that wait for it, where it is more than their turn that they wait for."""
    found: dict[str, str] = {}
    for job_id, state in states.items():
        if state.name in ("PENDING", "SPECIAL_EXIT", "REQUEUE_HOLD") and state.reason not in UNTOLD:
            found.setdefault(state.reason, job_id)
    return found


def _queued(which: str) -> dict[str, JobState]:
    """The jobs of the queue that an option of `squeue` picks out."""
    return _parsed(_ask("squeue", "--noheader", "--array", "--states=all", which, "--format=%i|%T|%r|%N"))


def _parsed(lines: list[str]) -> dict[str, JobState]:
    found = {}
    for line in lines:
        job_id, name, reason, nodes = (*line.split(SEPARATOR), "", "", "")[:4]
        if job_id and name:  # "CANCELLED by 1000" is how the accounting says who did it
            found[job_id] = JobState(name.split()[0].rstrip("+"), reason, nodes)
    return found


def _ask(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        raise QueueError(f"{command[0]} was not found: is this a machine of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{command[0]} has not answered for {COMMAND_SECONDS:g} s") from None
    if done.returncode:
        raise QueueError(f"{command[0]}: {done.stderr.strip() or f'it ended with exit code {done.returncode}'}")
    return done.stdout.splitlines()
