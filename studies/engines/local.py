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
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection as mp_connection
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from studies.engine_spec import EngineSpec
from studies.errors import StudyError

from .engine import Outcome
from .scheduler import MAX_ATTEMPTS, POLL_SECONDS, Death, Scheduler, WorkerHandle
from .settings import worker_environment
from .standstill import Standstill
from .worker import PRELOADED, JobResult, how_it_ended, work

SAVE_SECONDS = 60.0
"""For how long workers may go on that were asked to end: less than a queueing system waits, which asks 90 s before."""


@dataclass
class _Worker(WorkerHandle):
    process: ForkServerProcess
    connection: Connection
    given_up: bool = False  # it was stopped, and not continued


class LocalEngine(Scheduler[_Worker, EngineSpec]):
    """Runs cells of a locked plan on this machine."""

    _context = multiprocessing.get_context("forkserver")
    _standstill: Standstill

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception the workers are killed.

        Raises:
            ConfigError: this machine has not the devices that were asked for.
        """
        found = devices(self._settings)
        self._standstill = Standstill(self._settings.stall_seconds)
        warm_up()
        with self._without_stopped_forkserver():
            return self._deal(cell_ids, found)

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
        # A daemon may not start processes, which a worker with several devices does.
        process = self._context.Process(
            target=work, args=(theirs, self._assignment(device)), daemon=self._settings.devices_per_cell == 1
        )
        process.start()
        theirs.close()
        return _Worker(device, process, ours)

    def _send(self, worker: _Worker, job: tuple[str, ...] | None) -> None:
        with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed by its connection
            worker.connection.send(job)

    def _receive(self, workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, JobResult | str | Death]]:
        ready = mp_connection.wait([worker.connection for worker in workers], timeout=POLL_SECONDS)
        self._end_stopped(workers)
        for worker in workers:
            if worker.connection not in ready:
                continue
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                worker.connection.close()
                yield worker, Death(self._how_it_ended(worker))
                continue
            if not isinstance(message, bool):
                yield worker, message
            elif not message:
                yield worker, f"the forkserver could not import {PRELOADED}: workers start slowly"

    def _stays(self, worker: _Worker, *, more: bool) -> bool:
        return worker.device != "cpu"  # there a process per job: nothing leaks from one to the next

    def _end(self, worker: _Worker) -> None:
        self._send(worker, None)
        while worker.process.exitcode is None:
            worker.process.join(POLL_SECONDS)
            self._end_stopped([worker])
        worker.connection.close()

    def _end_stopped(self, workers: Sequence[_Worker]) -> None:
        """Kills workers that were stopped for `engine.stall_seconds`: they make no more progress than hanging ones."""
        processes = {worker.process.pid: worker for worker in workers if worker.process.pid is not None}
        for pid in self._standstill.overdue(processes):
            processes[pid].given_up = True
            processes[pid].process.kill()

    @contextlib.contextmanager
    def _without_stopped_forkserver(self) -> Iterator[None]:
        """Meanwhile a thread kills a forkserver that was stopped for `engine.stall_seconds`, and another is begun.

        A stopped one starts no worker and tells of no end, and the launcher waits for both without a limit.
        """
        over, standstill = threading.Event(), Standstill(self._settings.stall_seconds)

        def watch() -> None:
            while not over.wait(POLL_SECONDS):
                pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # told nowhere else
                for stopped in standstill.overdue([pid] if pid is not None else []):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(stopped, signal.SIGKILL)

        watching = threading.Thread(target=watch, daemon=True, name="forkserver-watch")
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _how_it_ended(self, worker: _Worker) -> str:
        if worker.given_up:
            return "its worker was stopped, and ended since nobody continued it for engine.stall_seconds"
        return how_it_ended(worker.process.exitcode, self._store.cell_folder(worker.first) / "log.txt")

    def _let_save(self, workers: Sequence[_Worker]) -> None:
        """A worker saves after the steps it is at and ends; one that takes longer than `SAVE_SECONDS` loses them."""
        left = {worker.connection: list(worker.job) for worker in workers if worker.job}
        processes = {worker.connection: worker.process for worker in workers}
        deadline = time.monotonic() + SAVE_SECONDS
        while left and time.monotonic() < deadline:
            for connection in left:  # again and again: one that starts is deaf at first
                with contextlib.suppress(ProcessLookupError):
                    os.kill(processes[connection].pid or 0, signal.SIGUSR2)
            ready = mp_connection.wait(list(left), timeout=1.0)
            for connection in [one for one in left if one in ready]:
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del left[connection]
                    continue
                if isinstance(message, JobResult):
                    left[connection].remove(message.cell_id)
                    if not left[connection]:
                        del left[connection]

    def _kill(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


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
