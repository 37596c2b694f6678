"""The local engine: a forkserver and as many workers as the machine has cores or GPUs.

On CPU every cell gets a process of its own with one thread; measured, one single-thread process per core trains more
images per second than one process with as many threads. On GPUs one long-lived worker per device pays for CUDA once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection as mp_connection
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from studies.planning import Plan
from studies.spec import EngineSpec
from studies.store import Store
from studies.tracking import TrackingSpec

from .worker import PRELOADED, Assignment, JobResult, work

MAX_ATTEMPTS = 3
"""Times a cell whose worker died, or met a fault of the machine, is tried in one call before it is left incomplete."""
RECORDED = ("finished", "diverged", "invalid", "failed")
POLL_SECONDS = 0.25
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread per numerical library."""
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184"
"""How workers hold memory: in huge pages, and kept for the next step instead of handed back to the system.

A step frees what it allocated, and fresh pages cost more than many a kernel: one core took 1.06 times (Mixer) to 1.6
times (LSTM) as many steps. Other C libraries than glibc ignore it; a user's own GLIBC_TUNABLES come after and win.
"""
BUSY_SECONDS = 1.0  # between two looks at a cell that another launcher trains


@dataclass
class Outcome:
    """What an engine's run came to.

    Attributes:
        recorded: cells that have a record now.
        incomplete: cell id -> why it has none; they continue at the next call.
        warnings: what a person should know of the run itself.
    """

    recorded: list[str] = field(default_factory=list)
    incomplete: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    device: str
    cell_id: str | None = None


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
        self._context = multiprocessing.get_context("forkserver")

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception the workers are killed."""
        outcome = Outcome()
        queue = deque(cell_ids)
        attempts = dict.fromkeys(cell_ids, 0)
        not_before: dict[str, float] = {}
        idle = deque(self._devices)
        workers: list[_Worker] = []
        warm_up()
        try:
            while queue or any(worker.cell_id for worker in workers):
                self._dispatch(queue, not_before, idle, workers, outcome)
                for result in self._results(workers, idle, outcome):
                    self._settle(result, queue, attempts, not_before, outcome)
                self._on_poll([worker.cell_id for worker in workers if worker.cell_id])
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()
        return outcome

    def _dispatch(
        self,
        queue: deque[str],
        not_before: dict[str, float],
        idle: deque[str],
        workers: list[_Worker],
        outcome: Outcome,
    ) -> None:
        for _ in range(len(queue)):
            free = next((worker for worker in workers if worker.cell_id is None), None)
            if free is None and not idle:
                return
            cell_id = queue.popleft()
            if time.monotonic() < not_before.get(cell_id, 0.0):
                queue.append(cell_id)
                continue
            state = self._store.state(cell_id)
            if state == "running":  # another launcher has it
                not_before[cell_id] = time.monotonic() + BUSY_SECONDS
                queue.append(cell_id)
                continue
            if state in RECORDED:
                outcome.recorded.append(cell_id)
                continue
            if free is None:
                free = self._start_worker(idle.popleft())
                workers.append(free)
            free.cell_id = cell_id
            with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed by its sentinel
                free.connection.send(cell_id)

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
                if worker.cell_id is not None:
                    code = worker.process.exitcode
                    yield JobResult(worker.cell_id, "died", f"its worker ended with exit code {code}")
                continue
            if isinstance(answer, bool):
                if not answer:
                    outcome.warnings.append(f"the forkserver could not import {PRELOADED}: workers start slowly")
                continue
            worker.cell_id = None
            yield answer
            if worker.device == "cpu":  # a process per cell: nothing leaks from one to the next
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
                worker.process.join()
                self._retire(worker, workers, idle)

    def _settle(
        self,
        result: JobResult,
        queue: deque[str],
        attempts: dict[str, int],
        not_before: dict[str, float],
        outcome: Outcome,
    ) -> None:
        cell_id = result.cell_id
        if result.outcome == "recorded" or (result.outcome == "died" and self._store.state(cell_id) in RECORDED):
            outcome.recorded.append(cell_id)
        elif result.outcome == "busy":
            not_before[cell_id] = time.monotonic() + BUSY_SECONDS
            queue.append(cell_id)
        else:
            attempts[cell_id] += 1
            if attempts[cell_id] < MAX_ATTEMPTS:
                queue.append(cell_id)
            else:
                outcome.incomplete[cell_id] = f"{result.message} ({MAX_ATTEMPTS} attempts)"

    def _start_worker(self, device: str) -> _Worker:
        ours, theirs = self._context.Pipe()
        assignment = Assignment(
            store=Path(self._store.root).resolve(),
            study_id=self._plan.study_id,
            data=self._plan.spec.data,
            settings=self._settings,
            tracking=self._tracking,
            device=device,
        )
        process = self._context.Process(target=work, args=(theirs, assignment), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, device)

    def _retire(self, worker: _Worker, workers: list[_Worker], idle: deque[str]) -> None:
        worker.connection.close()
        workers.remove(worker)
        idle.append(worker.device)


def warm_up() -> None:
    """Starts the forkserver, which imports torch while the caller plans; a second call does nothing.

    Its children inherit `WORKER_ENVIRONMENT` and `ALLOCATOR`, which libraries read once, as they load.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    allocator = ":".join(filter(None, (ALLOCATOR, os.environ.get("GLIBC_TUNABLES"))))
    settings = WORKER_ENVIRONMENT | {"GLIBC_TUNABLES": allocator}
    saved = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def devices(settings: EngineSpec) -> list[str]:
    """One entry per worker: `cpu` for each core, or `cuda:0`, `cuda:1`, ... for each GPU."""
    num_gpus = 0 if settings.device == "cpu" else _num_gpus()
    if num_gpus and settings.device != "cpu":
        return [f"cuda:{index % num_gpus}" for index in range(settings.workers or num_gpus)]
    if settings.device == "cuda":
        from studies.errors import ConfigError

        raise ConfigError("engine.device: cuda was asked for, but torch sees no GPU on this machine")
    return ["cpu"] * (settings.workers or len(os.sched_getaffinity(0)))


def _num_gpus() -> int:
    """GPUs torch can use; torch is asked only where the system shows one, and asks NVML, so no context is created."""
    shown = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg"), *Path("/dev").glob("kfd")]
    if not shown:
        return 0
    import torch

    return torch.cuda.device_count()
