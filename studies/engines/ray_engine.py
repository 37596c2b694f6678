"""The engine `ray`: an actor per GPU, or per CPU core, of a cluster that Ray holds together.

Ray finds machines and starts processes. Which cell is trained when, and what is tried again, is decided here as for the
local engine; Ray itself restarts and retries nothing. The store, on a file system that all nodes share, alone knows
what is done: an actor that dies loses its locks, and its cells go on from their checkpoints in another.

Ray ends the actors of a driver that has ended, however it went. An actor lives for as long as there is work, and not
for one job: it takes seconds to import what it trains with, and there is no forkserver that has done so before.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.engine_spec import RaySpec
from studies.errors import StudyError
from studies.sources import code_version

from .engine import Outcome
from .lock_witness import launcher_name, witness, witness_folder
from .ray_cluster import connected, places
from .ray_worker import Origin, RayWorker
from .scheduler import POLL_SECONDS, Death, Scheduler, WorkerHandle
from .settings import worker_environment
from .worker import JobResult

MAX_FAILED_STARTS = 3  # one after the other: then it is no accident
FAREWELL_SECONDS = 10.0  # for a killed actor to let go of its locks
MESSAGES = "messages"
"""The concurrency group whose thread hands an actor's messages out while another trains."""


@dataclass
class _Actor(WorkerHandle):
    actor: Any
    answer: Any  # reference to what it will say next: what stands against it, then lists of messages


class RayEngine(Scheduler[_Actor, RaySpec]):
    """Runs cells of a locked plan on a Ray cluster; what is below is known while it runs."""

    _ray: Any  # the module, connected
    _class: Any  # RayWorker, as Ray starts it
    _witness: Path
    _failed_starts: int
    _give_up_at: float | None  # unless an actor has come by then

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception the actors are killed.

        Raises:
            ConfigError: the cluster cannot be reached, or has not what was asked for.
            StudyError: no actor could be started, or one found its node unfit; or the cluster went away.
        """
        settings, folder = self._settings, witness_folder(self._store, self._plan.study_id)
        with connected(settings) as ray, witness(folder, launcher_name()) as own:
            self._ray, self._witness, self._class = ray, own, self._actor_class(ray)
            devices = places(settings, ray.cluster_resources())
            self._failed_starts = 0
            self._give_up_at = time.monotonic() + settings.start_seconds
            try:
                return self._deal(cell_ids, devices, settings.max_restarts + 1)
            except ray.exceptions.RayError as error:
                raise StudyError(f"the Ray cluster failed: {_told(error)}; continue with the same command") from error

    def _actor_class(self, ray: Any) -> Any:  # noqa: ANN401
        """What each actor is, but for its GPU; restarts and retries are decided here, by what the store says."""
        return ray.remote(
            num_cpus=1,
            memory=None if self._settings.memory_gb is None else round(self._settings.memory_gb * 1e9),
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={MESSAGES: 1},
            runtime_env={"env_vars": self._settings.environment | worker_environment()},
        )(RayWorker)

    def _start_worker(self, device: str) -> _Actor:
        actor = self._class.options(num_gpus=0 if device == "cpu" else 1).remote(
            self._assignment(device), Origin(Path.cwd(), self._witness, code_version())
        )
        worker = _Actor(device, actor, actor.prepare.remote())
        worker.ready = False
        return worker

    def _send(self, worker: _Actor, job: tuple[str, ...]) -> None:
        worker.actor.run.remote(job)

    def _receive(self, workers: Sequence[_Actor]) -> Iterator[tuple[_Actor, JobResult | str | Death]]:
        answers = {worker.answer: worker for worker in workers}
        self._ray.wait(list(answers), timeout=POLL_SECONDS)
        ready, _ = self._ray.wait(list(answers), num_returns=len(answers), timeout=0)
        for answer in ready:
            worker = answers[answer]
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                self._ray.kill(worker.actor)  # it may only be out of reach
                if not worker.ready:
                    self._count_failed_start(error)
                yield worker, Death(f"its worker died: {_told(error)}")
                continue
            worker.answer = worker.actor.messages.options(concurrency_group=MESSAGES).remote()
            if worker.ready:
                for message in said:
                    yield worker, message
            elif said is not None:
                raise StudyError(f"the engine ray cannot run there: {said}")
            else:
                worker.ready, self._failed_starts, self._give_up_at = True, 0, None
        if self._give_up_at is not None and time.monotonic() > self._give_up_at:
            raise StudyError(
                f"no actor has started within {self._settings.start_seconds:g} s (engine.start_seconds): the Ray "
                f"cluster has {_counts(self._ray.cluster_resources())}, "
                f"free are {_counts(self._ray.available_resources())}"
            )

    def _stays(self, worker: _Actor, *, more: bool) -> bool:
        return more  # what nobody needs any more is the cluster's again

    def _end(self, worker: _Actor) -> None:
        self._ray.kill(worker.actor)

    def _kill(self, workers: Sequence[_Actor]) -> None:
        for worker in workers:
            with contextlib.suppress(Exception):  # the cluster may be gone, and its actors with it
                self._ray.kill(worker.actor)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for cell_id in [cell_id for worker in workers for cell_id in worker.job]:
            while self._store.is_locked(cell_id) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _count_failed_start(self, error: Exception) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise StudyError(
                f"{self._failed_starts} actors one after the other could not start; the package has to be installed on "
                f"every node of the Ray cluster: {_told(error)}"
            ) from error


def _told(error: Exception) -> str:
    """The sentences of one of Ray's messages, without the ids that it lists and without a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(("\t", "  "))]
    kept = [line for line in lines if not line.startswith(("The actor died", "ray::", "Traceback"))]
    text = " ".join(kept or lines) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"


def _counts(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
