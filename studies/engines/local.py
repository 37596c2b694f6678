"""The local engine: a forkserver and as many workers as the machine has cores or GPUs.

On CPU every job gets a process of its own with one thread; measured, one single-thread process per core trains more
images per second than one process with as many threads. On GPUs one long-lived worker per device pays for CUDA once. A
job is one cell, or several of one architecture that train as lanes of one program.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection as mp_connection
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from studies.engine_spec import EngineSpec
from studies.errors import StudyError
from studies.grid import Plan
from studies.jobs import Waiting, most_lanes, next_job, program_key
from studies.store import Store
from studies.tracking import TrackingSpec

from .engine import Outcome
from .settings import worker_environment
from .worker import PRELOADED, Assignment, JobResult, how_it_ended, work

MAX_ATTEMPTS = 3
"""Times a cell whose worker died, or met a fault of the machine, is tried in one call before it is left incomplete."""
RECORDED = ("finished", "diverged", "invalid", "failed")
POLL_SECONDS = 0.25
BUSY_SECONDS = 1.0  # between two looks at a cell that another launcher trains


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    device: str
    job: list[str] = field(default_factory=list)  # cells not answered for yet
    num_lanes: int = 0  # cells the job had
    first: str = ""  # of them, in whose log the worker writes


class LocalEngine:
    """Runs cells of a locked plan on this machine.

    Args:
        on_poll: called a few times per second with the ids of the cells running in this launcher.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        settings: EngineSpec,
        tracking: TrackingSpec,
        on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    ) -> None:
        self._store = store
        self._plan = plan
        self._settings = settings
        self._tracking = tracking
        self._on_poll = on_poll
        self._devices = devices(settings)
        self._keys = {cell.id: program_key(cell) for cell in plan.cells}
        self._not_before: dict[str, float] = {}  # cells that another launcher had when last looked at
        self._alone: set[str] = set()  # cells that were in a job whose worker died
        self._widths: dict[str, int] = {}  # measured by workers, by program key
        self._context = multiprocessing.get_context("forkserver")

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception the workers are killed."""
        outcome = Outcome()
        queue = deque(cell_ids)
        attempts = dict.fromkeys(cell_ids, 0)
        idle = deque(self._devices)
        workers: list[_Worker] = []
        warm_up()
        try:
            while queue or any(worker.job for worker in workers):
                self._dispatch(queue, idle, workers, outcome)
                for result in self._results(workers, idle, outcome):
                    self._settle(result, queue, attempts, outcome)
                self._on_poll([cell_id for worker in workers for cell_id in worker.job])
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()
        return outcome

    def _dispatch(self, queue: deque[str], idle: deque[str], workers: list[_Worker], outcome: Outcome) -> None:
        while True:
            free = next((worker for worker in workers if not worker.job), None)
            job = self._next_job(queue, outcome) if free is not None or idle else ()
            if not job:
                return
            if free is None:
                free = self._start_worker(idle.popleft())
                workers.append(free)
            free.job, free.num_lanes, free.first = list(job), len(job), job[0]
            with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed by its sentinel
                free.connection.send(job)

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

    def _results(self, workers: list[_Worker], idle: deque[str], outcome: Outcome) -> Iterator[JobResult]:
        """Waits a moment for workers to answer or die; ends those whose work is done."""
        ready = mp_connection.wait([worker.connection for worker in workers], timeout=POLL_SECONDS) if workers else []
        if not workers:
            time.sleep(POLL_SECONDS)
        for worker in list(workers):
            if worker.connection not in ready:
                continue
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._retire(worker, workers, idle)
                if worker.num_lanes > 1:  # whichever of them it was, it costs the others no second time
                    self._alone.update(worker.job)
                log = self._store.cell_folder(worker.first) / "log.txt"
                why = how_it_ended(worker.process.exitcode, log)
                for cell_id in worker.job:
                    yield JobResult(cell_id, "died", why)
                continue
            if isinstance(answer, bool):
                if not answer:
                    outcome.warnings.append(f"the forkserver could not import {PRELOADED}: workers start slowly")
                continue
            if isinstance(answer, str):
                outcome.warnings.append(answer)
                continue
            worker.job.remove(answer.cell_id)
            if answer.outcome == "returned":
                self._widths[self._keys[answer.cell_id]] = len(worker.job)
            yield answer
            if not worker.job and worker.device == "cpu":  # a process per job: nothing leaks from one to the next
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
                worker.process.join()
                self._retire(worker, workers, idle)

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
            self._alone.add(cell_id)  # its next attempts cost no other cell
            attempts[cell_id] += 1
            if attempts[cell_id] < MAX_ATTEMPTS:
                queue.append(cell_id)
            else:
                outcome.incomplete[cell_id] = f"{result.message} ({MAX_ATTEMPTS} attempts)"

    def _start_worker(self, device: str) -> _Worker:
        for _ in range(MAX_ATTEMPTS):
            warm_up()  # anew where it was killed, and in the environment that workers need
            try:
                return self._begin_worker(device)
            except (EOFError, OSError) as error:  # the forkserver died under it
                time.sleep(POLL_SECONDS)
                died = error
        raise StudyError(f"no worker could be started in {MAX_ATTEMPTS} attempts: the forkserver died ({died!r})")

    def _begin_worker(self, device: str) -> _Worker:
        ours, theirs = self._context.Pipe()
        assignment = Assignment(
            store=Path(self._store.root).resolve(),
            study_id=self._plan.study_id,
            data=self._plan.spec.data,
            settings=self._settings,
            tracking=self._tracking,
            device=device,
        )
        # A daemon may not start processes, which a worker with several devices does.
        process = self._context.Process(
            target=work, args=(theirs, assignment), daemon=self._settings.devices_per_cell == 1
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, device)

    def _retire(self, worker: _Worker, workers: list[_Worker], idle: deque[str]) -> None:
        worker.connection.close()
        workers.remove(worker)
        idle.append(worker.device)


def warm_up() -> None:
    """Starts the forkserver, which imports torch while the caller plans; a second call does nothing.

    It and its children inherit `worker_environment`, and hear nothing of Ctrl-C, not while they start either.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    settings = worker_environment()
    saved = {name: os.environ.get(name) for name in settings}
    resource_tracker.ensure_running()  # first, because it unblocks Ctrl-C for whoever started it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(settings)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def devices(settings: EngineSpec) -> list[str]:
    """One entry per worker, the first of its devices: `cpu` for each core, or `cuda:0`, `cuda:1`, ... for each GPU.

    Raises:
        ConfigError: there are not the GPUs that were asked for.
    """
    num_gpus, each = 0 if settings.device == "cpu" else _num_gpus(), settings.devices_per_cell
    if num_gpus and each > 1:
        most = num_gpus // each
        if not most or (settings.workers or 1) > most:
            from studies.errors import ConfigError

            raise ConfigError(
                f"engine.devices_per_cell: {each} GPUs for each of {settings.workers or 1} workers were asked for, "
                f"this machine has {num_gpus}; expected devices_per_cell x workers of at most that"
            )
        return [f"cuda:{index * each}" for index in range(settings.workers or most)]
    if num_gpus and settings.device != "cpu":
        return [f"cuda:{index % num_gpus}" for index in range(settings.workers or num_gpus)]
    if settings.device == "cuda":
        from studies.errors import ConfigError

        raise ConfigError("engine.device: cuda was asked for, but torch sees no GPU on this machine")
    return ["cpu"] * (settings.workers or max(1, len(os.sched_getaffinity(0)) // each))


def _num_gpus() -> int:
    """GPUs torch can use; torch is asked only where the system shows one, and asks NVML, so no context is created."""
    shown = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg"), *Path("/dev").glob("kfd")]
    if not shown:
        return 0
    import torch

    return torch.cuda.device_count()
