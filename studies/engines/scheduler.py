"""Which cell is trained when, and what becomes of it; where its workers come from is for each engine to say."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.jobs import Waiting, most_lanes, next_job, program_key
from studies.stopping import Stopped
from studies.store import Store
from studies.tracking import TrackingSpec

from .engine import Outcome
from .worker import Assignment, JobResult

MAX_ATTEMPTS = 3
RECORDED = ("finished", "diverged", "invalid", "failed")
POLL_SECONDS = 0.25
BUSY_SECONDS = 1.0  # between two looks at a cell that another launcher trains


@dataclass
class WorkerHandle:
    """A worker as its launcher sees it; each engine adds how to reach it.

    Attributes:
        device: its device, of which no other worker is told meanwhile.
        job: cells it has not answered for yet.
        first: of these, the one in whose log it writes.
        ready: whether it can be sent a job; where a machine has yet to be found for it, only later.
    """

    device: str
    job: list[str] = field(default_factory=list, init=False)
    first: str = field(default="", init=False)
    ready: bool = field(default=True, init=False)


@dataclass(frozen=True)
class Death:
    """A worker that is no more, and how it went: `its worker was ended by SIGKILL`."""

    how: str


Handle = TypeVar("Handle", bound=WorkerHandle)
Settings = TypeVar("Settings", bound=EngineSpec)


class Scheduler(ABC, Generic[Handle, Settings]):
    """Deals the cells of a locked plan out to workers until each is recorded or given up.

    Args:
        on_poll: called a few times per second with the ids of the cells running in this launcher.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        settings: Settings,
        tracking: TrackingSpec,
        on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    ) -> None:
        self._store = store
        self._plan = plan
        self._settings = settings
        self._tracking = tracking
        self._on_poll = on_poll
        self._devices: Sequence[str] = ()  # known once they are asked for
        self._max_attempts = MAX_ATTEMPTS
        self._keys = {cell.id: program_key(cell) for cell in plan.cells}
        self._not_before: dict[str, float] = {}  # cells that another launcher had when last looked at
        self._alone: set[str] = set()  # cells that were in a job whose worker died
        self._widths: dict[str, int] = {}  # measured by workers, by program key

    @abstractmethod
    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception the workers are killed."""

    @abstractmethod
    def _start_worker(self, device: str) -> Handle:
        """Starts a worker; where it is not `ready` at once, `_receive` sees it become so, or die."""

    @abstractmethod
    def _send(self, worker: Handle, job: tuple[str, ...]) -> None:
        """Sends a worker without a job its next one; raises nothing where it died, which `_receive` tells."""

    @abstractmethod
    def _receive(self, workers: Sequence[Handle]) -> Iterator[tuple[Handle, JobResult | str | Death]]:
        """Waits at most `POLL_SECONDS`; yields what workers answered, what a person should know, and who died."""

    @abstractmethod
    def _stays(self, worker: Handle, *, more: bool) -> bool:
        """Whether a worker that has done its job waits for another; `more`: there are cells that nobody trains yet."""

    @abstractmethod
    def _end(self, worker: Handle) -> None:
        """Lets a worker without a job end, and returns when it has."""

    @abstractmethod
    def _kill(self, workers: Sequence[Handle]) -> None:
        """Ends workers whatever they do, and returns when they have."""

    def _let_save(self, workers: Sequence[Handle]) -> None:  # the last checkpoint may do
        """Gives workers the time to save what they train, before they are killed."""

    def _assignment(self, device: str) -> Assignment:
        """What a worker on a device has to know."""
        return Assignment(
            store=self._store.root.resolve(),
            study_id=self._plan.study_id,
            data=self._plan.spec.data,
            settings=self._settings,
            tracking=self._tracking,
            device=device,
        )

    def _deal(self, cell_ids: Sequence[str], devices: Sequence[str], max_attempts: int = MAX_ATTEMPTS) -> Outcome:
        """Does what `run` says; on `Stopped` the workers save their cells before they are killed.

        Args:
            devices: one per worker.
            max_attempts: times a cell whose worker died, or met a fault of the machine, is tried in one call before it
                is left incomplete.
        """
        self._devices, self._max_attempts = devices, max_attempts
        outcome = Outcome()
        queue = deque(cell_ids)
        attempts = dict.fromkeys(cell_ids, 0)
        idle = deque(self._devices)
        workers: list[Handle] = []
        try:
            while queue or any(worker.job for worker in workers):
                self._dispatch(queue, idle, workers, outcome)
                for result in self._results(workers, idle, outcome):
                    self._settle(result, queue, attempts, outcome)
                for worker in [one for one in workers if one.ready and not one.job]:
                    if not self._stays(worker, more=bool(queue)):
                        self._end(worker)
                        _retire(worker, workers, idle)
                self._on_poll([cell_id for worker in workers for cell_id in worker.job])
        except Stopped:
            self._let_save(workers)
            raise
        finally:
            self._kill(workers)
        return outcome

    def _dispatch(self, queue: deque[str], idle: deque[str], workers: list[Handle], outcome: Outcome) -> None:
        """Sends jobs to all who are free, and has workers started for what is then left.

        While some are still on their way no others are asked for: there is no room for those either.
        """
        places = 0 if any(not worker.ready for worker in workers) else len(idle)
        kept: list[str] = []  # for those who are on their way, each of whom a job is left
        while True:
            free = next((worker for worker in workers if worker.ready and not worker.job), None)
            job = self._next_job(queue, outcome) if free is not None or places else ()
            if not job:
                break
            if free is None:
                free = self._start_worker(idle.popleft())
                workers.append(free)
                places -= 1
            if free.ready:
                free.job, free.first = list(job), job[0]
                self._send(free, job)
            else:
                kept += job
        queue.extendleft(reversed(kept))

    def _next_job(self, queue: deque[str], outcome: Outcome) -> tuple[str, ...]:
        """Takes the cells of the next job off the queue; none where all have to wait."""
        while ready := [cell_id for cell_id in queue if time.monotonic() >= self._not_before.get(cell_id, 0.0)]:
            # Wide programs take long: first, so that at the end no worker waits long for another.
            ready.sort(key=lambda cell_id: self._widths.get(self._keys[cell_id], 1) == 1)
            width = self._width(ready[0])
            waiting = [self._waiting(cell_id) for cell_id in (ready if width > 1 else ready[:1])]
            job = []
            for cell_id in next_job(waiting, width, len(self._devices)):
                state = self._store.state(cell_id)
                if state == "running":  # another launcher has it
                    self._not_before[cell_id] = time.monotonic() + BUSY_SECONDS
                    continue
                queue.remove(cell_id)
                if state in RECORDED:
                    outcome.recorded.append(cell_id)
                else:
                    job.append(cell_id)
            if job:
                return tuple(job)
        return ()

    def _waiting(self, cell_id: str) -> Waiting:
        return Waiting(cell_id, self._keys[cell_id], self._store.place(cell_id), cell_id in self._alone)

    def _width(self, cell_id: str) -> int:
        """Most lanes of a program of such cells: as told, else as a worker has measured, else as many as it may try."""
        most = most_lanes(self._settings, self._devices[0])
        return most if self._settings.lanes != "auto" else self._widths.get(self._keys[cell_id], most)

    def _results(self, workers: list[Handle], idle: deque[str], outcome: Outcome) -> Iterator[JobResult]:
        """Waits a moment for workers to answer or die."""
        if not workers:
            time.sleep(POLL_SECONDS)
            return
        for worker, message in self._receive(tuple(workers)):
            if isinstance(message, Death):
                _retire(worker, workers, idle)
                for cell_id in worker.job:
                    yield JobResult(cell_id, "died", message.how)
            elif isinstance(message, str):
                outcome.warnings.append(message)
            else:
                worker.job.remove(message.cell_id)
                if message.outcome == "returned":
                    self._widths[self._keys[message.cell_id]] = len(worker.job)
                yield message

    def _settle(self, result: JobResult, queue: deque[str], attempts: dict[str, int], outcome: Outcome) -> None:
        cell_id = result.cell_id
        if result.outcome == "recorded" or (result.outcome == "died" and self._store.state(cell_id) in RECORDED):
            outcome.recorded.append(cell_id)
        elif result.outcome == "busy":
            self._not_before[cell_id] = time.monotonic() + BUSY_SECONDS
            queue.append(cell_id)
        elif result.outcome == "returned":
            queue.appendleft(cell_id)
        else:
            self._alone.add(cell_id)  # its next attempts cost no other cell; of a job that died, whichever it was
            attempts[cell_id] += 1
            if attempts[cell_id] < self._max_attempts:
                queue.append(cell_id)
            else:
                outcome.incomplete[cell_id] = f"{result.message} ({self._max_attempts} attempts)"


def _retire(worker: Handle, workers: list[Handle], idle: deque[str]) -> None:
    workers.remove(worker)
    idle.append(worker.device)
