"""One job of probing: the probes that share their networks and images, applied to them one after the other.

A probe that has nothing to measure on a network, or fails on it, leaves a result that says so, and costs no other. A
fault of the machine, or weights that are not there, leave none: they are told, and a later call goes on from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from datamodules import DataConfig, DataError
from models.weights_error import WeightsError
from studies.environment import environment, now
from studies.errors import StudyError
from studies.job_data import JobData
from studies.kept_results import Arrays, BusyError
from studies.store import Store
from studies.threads import one_thread

from .applied import apply
from .held_out import HeldOut
from .networks import Networks, networks_of
from .probe import ProbeError
from .probe_results import PROBED, ProbeResult, StatedWeights, StoredReading, defined
from .subjects import Subject

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
        busy: what another process is at.
    """

    computed: int = 0
    without_weights: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    inapplicable: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    busy: list[Subject] = field(default_factory=list)

    def book(self, subject: Subject, result: ProbeResult) -> None:
        """Takes down what one result says besides its numbers."""
        outcomes: Mapping[str, dict[str, str]] = {"failed": self.faults, "inapplicable": self.inapplicable}
        if result.outcome in outcomes:
            outcomes[result.outcome][subject.title] = result.reason
        elif result.reason:
            self.messages.append(f"{subject.title}: {result.reason}")

    def add(self, other: Probing) -> None:
        """Counts in what another part of the call came to."""
        self.computed += other.computed
        for name in ("without_weights", "faults", "inapplicable"):
            getattr(self, name).update(getattr(other, name))
        self.messages += other.messages
        self.busy += other.busy


def run_job(job: Job) -> Probing:
    """Applies the probes of a job, whose networks are built once."""
    found, store = Probing(), Store(job.store)
    with one_thread(), contextlib.ExitStack() as stack:
        networks = cache(partial(networks_of, job.subjects[0], store, job.device))
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
            except BusyError:
                found.busy.append(subject)
                continue
            except (StudyError, WeightsError, *MACHINE_FAULTS) as error:
                found.faults[subject.title] = str(error) or type(error).__name__
                continue
            found.computed += 1
            found.book(subject, known)
    return found


def _measured(
    subject: Subject,
    job: Job,
    networks: Callable[[], Networks],
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
