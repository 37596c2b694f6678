"""Probes applied to the networks of a finished study, one result at a time; the same command continues.

Networks are probed on validation images, by the weights of the full budget and by those drawn for the replicate. A
probe that has nothing to measure on a network, or fails on it, leaves a result that says so, and costs no other. A
fault of the machine, or weights that are not there, leave none: they are told, and a later call goes on from there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from datamodules import DataConfig, DataError
from models.checkpoints import WeightsError, read_weights
from studies.cell import Cell
from studies.engines.local import warm_up
from studies.environment import environment, now
from studies.errors import StudyError
from studies.grid import Plan
from studies.job_data import JobData
from studies.kept_results import Arrays
from studies.kept_weights import START_BRANCH, why_not_kept
from studies.lifetime import end_with_parent
from studies.program import initial_network
from studies.store import Store
from studies.threads import one_thread

from .applied import apply
from .held_out import HeldOut
from .probe import ProbeError
from .probe_results import PROBED, ProbeResult, StatedWeights, StoredReading, defined
from .subjects import Subject, once

MACHINE_FAULTS = (OSError, MemoryError, torch.OutOfMemoryError, DataError)
"""What says nothing of a network: no result is left, and the probe can be tried again."""


@dataclass(frozen=True)
class Job:
    """Probes that share their networks, with what is needed to apply them; picklable.

    Attributes:
        data: the images of the study.
        retry_failed: whether a result that says failed is computed anew.
    """

    store: Path
    study_id: str
    plan_hash: str
    data: DataConfig
    device: str
    subjects: tuple[Subject, ...]
    retry_failed: bool


@dataclass
class Probing:
    """What a call came to.

    Attributes:
        computed: results computed now.
        without_weights: cell id -> why its trained network cannot be probed.
        faults: title of a probe and its network -> why there is no number: recorded as failed, or a machine's fault.
        inapplicable: title -> why there is nothing to measure.
        messages: what a person should know besides.
    """

    computed: int = 0
    without_weights: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    inapplicable: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, other: Probing) -> None:
        """Counts in what another part of the call came to."""
        self.computed += other.computed
        for name in ("without_weights", "faults", "inapplicable"):
            getattr(self, name).update(getattr(other, name))
        self.messages += other.messages


def probe_networks(
    plan: Plan,
    store: Store,
    asked: Sequence[Subject],
    *,
    devices: Sequence[str] = ("cpu",),
    retry_failed: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probing:
    """Applies every probe that has no result yet.

    Args:
        plan: of the study.
        store: where its weights and results lie.
        asked: `subjects` of the plan.
        devices: one per process; on `cpu` each has one thread.
        retry_failed: probe again what failed before.
        on_progress: called with the results that are there and all that are asked for.
    """
    found, wanted, stated = Probing(), once(asked), StatedWeights(store)
    jobs: dict[object, list[Subject]] = {}
    for subject in wanted:
        known = stated.current(subject)
        if known is not None and not (retry_failed and known.outcome == "failed"):
            _book(subject, known, found)
        elif not (reasons := _without_weights(subject, store)):
            key = (subject.cell.seeds.subset, [cell.id for cell in subject.cells], subject.weights)
            jobs.setdefault(str(key), []).append(subject)
        else:
            found.without_weights |= reasons
    parts = [
        Job(store.root.resolve(), plan.study_id, plan.hash, plan.spec.data, devices[0], tuple(jobs[key]), retry_failed)
        for key in sorted(jobs, key=lambda key: jobs[key][0].cell.seeds.subset)
    ]
    total = sum(map(len, jobs.values()))
    on_progress(0, total)
    done = 0
    for job, part in _run(parts, len(devices) if devices[0] == "cpu" else 1):
        found.add(part)
        done += len(job.subjects)
        on_progress(done, total)
    return found


def run_job(job: Job) -> Probing:
    """Applies the probes of a job, whose networks are built once."""
    found, store = Probing(), Store(job.store)
    with one_thread(), contextlib.ExitStack() as stack:
        networks = cache(partial(_networks, store, job))
        held = cache(partial(_held, job, stack))
        for subject in job.subjects:
            make = partial(_measured, subject, job, networks, held, store)
            try:
                known = PROBED.compute(
                    store,
                    subject.id,
                    subject.title,
                    make,
                    found.messages.append,
                    lambda result: job.retry_failed and result.outcome == "failed",
                    partial(StatedWeights(store).why_outdated, subject),
                )
            except (StudyError, WeightsError, *MACHINE_FAULTS) as error:
                found.faults[subject.title] = str(error) or type(error).__name__
                continue
            found.computed += 1
            _book(subject, known, found)
    return found


def _run(jobs: Sequence[Job], num_processes: int) -> Iterator[tuple[Job, Probing]]:
    """Every job with what it came to, in this process or in several, which end with this one."""
    if num_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, run_job(job)
        return
    warm_up()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(num_processes, len(jobs)), context, _begin_worker) as pool:
        waiting: dict[Future[Probing], Job] = {pool.submit(run_job, job): job for job in jobs}
        try:
            for future in as_completed(waiting):
                job = waiting[future]
                try:
                    yield job, future.result()
                except Exception as error:
                    why = f"its process ended: {type(error).__name__}: {error}"
                    yield job, Probing(faults={subject.title: why for subject in job.subjects})
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C reaches the launcher, which ends its workers once they have written what they are at."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _without_weights(subject: Subject, store: Store) -> dict[str, str]:
    """Cell id -> why its trained network is not there."""
    if subject.weights == "initial":
        return {}
    reasons = {}
    for cell in subject.cells:
        try:
            reason = None if _diverged(cell, store) else why_not_kept(cell.id, store)
        except StudyError as error:
            reason = str(error)
        if reason is not None:
            reasons[cell.id] = reason
    return reasons


def _diverged(cell: Cell, store: Store) -> bool:
    """Whether there are no final weights and never will be."""
    record = store.record(cell.id)
    return record is not None and bool(record.branches) and record.branches[-1].diverged


def _measured(
    subject: Subject,
    job: Job,
    networks: Callable[[], _Networks],
    held: Callable[[], HeldOut],
    store: Store,
) -> tuple[ProbeResult, Arrays]:
    """One result, whatever the probe comes to.

    Raises:
        OSError: a fault of the machine, of which no result is left, as of those of `MACHINE_FAULTS`.
    """
    started, images, counted = time.monotonic(), held(), _Counted()
    readings: tuple[StoredReading, ...] = ()
    arrays: Arrays = {}
    sha256 = StatedWeights(store).sha256(subject)
    outcome, reason = "measured", ""
    try:
        loaded = networks()
        sha256, reason = loaded.weights_sha256, loaded.left_out
        with counted.on(list(loaded.modules.values())):
            probed, cell_ids = apply(subject, loaded.modules, images)
        arrays = probed.arrays
        readings = tuple(
            StoredReading(**vars(reading) | {"value": defined(reading.value), "cell_id": cell_id})
            for reading, cell_id in zip(probed.readings, cell_ids, strict=True)
        )
    except ProbeError as error:
        outcome, reason = "inapplicable", str(error)
    except (WeightsError, StudyError, *MACHINE_FAULTS):
        raise
    except Exception as error:
        outcome, reason = "failed", f"{type(error).__name__}: {error}"
    result = ProbeResult(
        result_id=subject.id,
        identity=subject.identity,
        study=job.study_id,
        plan_hash=job.plan_hash,
        outcome=outcome,  # type: ignore[arg-type]  # one of the three
        reason=reason,
        weights_sha256=sha256,
        train_checksum=images.checksum,
        evaluation_flops=counted.num_images * subject.cell.forward_flops,
        seconds=time.monotonic() - started,
        finished_at=now(),
        environment=environment(job.device),
        readings=readings,
    )
    return result, arrays


class _Counted:
    """Counts the images that pass through networks."""

    num_images = 0

    @contextlib.contextmanager
    def on(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """For as long as the context lasts."""
        hooks = [module.register_forward_pre_hook(self._count) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.num_images += len(inputs[0])


@dataclass(frozen=True)
class _Networks:
    """The networks that the subjects of a job share.

    Attributes:
        modules: by id of their cell; those whose training diverged are not among them.
        weights_sha256: of the files they came from, in the same order; empty for drawn weights.
        left_out: which are not among them and why; empty where all are.
    """

    modules: dict[str, nn.Module]
    weights_sha256: tuple[str, ...]
    left_out: str


def _networks(store: Store, job: Job) -> _Networks:
    """The networks of a job's first subject, which all of them share.

    Raises:
        ProbeError: the training diverged, so that there are none; of several, of all but one at most.
        StudyError: they are not there, or not what the record of their cell says.
    """
    subject = job.subjects[0]
    trained = subject.weights == "trained"
    modules, sums, diverged = {}, [], []
    for cell, size in zip(subject.cells, subject.sizes, strict=True):
        if trained and _diverged(cell, store):
            diverged.append(f"{cell.title} (size {size})")
            continue
        module = initial_network(cell)
        if trained:
            sums.append(_give_trained(module, cell, store))
        modules[cell.id] = module.to(job.device).eval()
    told = f"the training of {', '.join(diverged)} diverged: there are no weights to probe" if diverged else ""
    if len(modules) < min(2, len(subject.cells)):
        raise ProbeError(told)
    return _Networks(modules, tuple(sums), f"left out: {told}" if told else "")


def _give_trained(module: nn.Module, cell: Cell, store: Store) -> str:
    """Gives a network the final weights of its cell's full budget; returns the SHA-256 of their file.

    Raises:
        StudyError: they are not there, or not what the record of the cell says.
    """
    if reason := why_not_kept(cell.id, store):
        raise StudyError(reason)
    record = store.record(cell.id)
    assert record is not None
    weights = read_weights(store.weights_path(cell.id, START_BRANCH), sha256=record.kept_sha256)
    module.load_state_dict(weights.state)
    return record.kept_sha256


_latest: dict[tuple[str, int], JobData] = {}


def _data(config: DataConfig, seed: int) -> JobData:
    """The images of a replicate, read once for the jobs of a process that follow each other."""
    key = (config.model_dump_json(), seed)
    if key not in _latest:
        _latest.clear()
        _latest[key] = JobData(config)
    return _latest[key]


def _held(job: Job, stack: contextlib.ExitStack) -> HeldOut:
    cell = job.subjects[0].cell
    held = HeldOut(cell, _data(job.data, cell.seeds.subset), job.device)
    stack.callback(held.close)
    return held


def _book(subject: Subject, result: ProbeResult, found: Probing) -> None:
    outcomes: Mapping[str, dict[str, str]] = {"failed": found.faults, "inapplicable": found.inapplicable}
    if result.outcome in outcomes:
        outcomes[result.outcome][subject.title] = result.reason
    elif result.reason:
        found.messages.append(f"{subject.title}: {result.reason}")
