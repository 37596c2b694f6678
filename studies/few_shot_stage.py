"""Evaluates the frozen features of what a study's arms begin from, once everything is trained.

One network at a time: k images per class are drawn from all training images that are not held out, the regularisation
is chosen on the study's validation images, and the test split is read once. Features are of the images as they are
fine-tuned on (size, permutation, normalisation), by the weights resized as fine-tuning begins from them, in fp32. A
network that cannot be evaluated is told and costs no other; one that another launcher is at is waited for. What is on
disk is kept, and computed again only if it is damaged, or of weights that are other ones by now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import numpy as np
import torch

from datamodules import carve_validation

from .counts import counted
from .course import batches_of
from .environment import environment, now
from .errors import PlanError, StudyError
from .few_shot import FewShot, evaluate_few_shot
from .few_shot_networks import FrozenNetwork
from .few_shot_results import EVALUATIONS, Draw, FewShotResult, waiting_networks, why_outdated
from .grid import Plan
from .job_data import JobData
from .kept_results import Arrays, BusyError
from .kept_weights import give_start
from .program import initial_network
from .store import Store
from .threads import one_thread

BUSY_SECONDS = 1.0  # between two looks at a network that another launcher evaluates


def check_shots(plan: Plan) -> None:
    """Refuses more images per class than the rarest class has, counted; the plan could only bound it.

    Generated images have classes of equal probability, and are other ones in every replicate: nothing is counted there.

    Raises:
        PlanError: says which class has how many.
    """
    spec = plan.spec
    if spec.few_shot is None or spec.data.fresh_per_replicate:
        return
    labels = spec.data.load("train").labels
    for seed in sorted({cell.seeds.subset for cell in plan.cells}):
        pool, _ = carve_validation(labels, spec.num_validation, seed=seed)
        counts = np.bincount(labels[pool], minlength=plan.data.num_classes)
        if counts.min() < max(spec.few_shot.shots):
            raise PlanError(
                f"few_shot.shots: {max(spec.few_shot.shots)} images per class were asked for, but {plan.data.name} has "
                f"{counts.min()} training images of class {plan.data.class_names[int(counts.argmin())]!r} besides the "
                f"validation images: give at most {counts.min()}"
            )


def evaluate_frozen(
    plan: Plan, store: Store, device: str = "cpu", on_message: Callable[[str], None] = lambda message: None
) -> dict[str, str]:
    """Evaluates every network of `frozen_networks` that has no result yet.

    Args:
        plan: of the last stage; the earlier ones are trained.
        device: `cpu`, where one thread is used, or `cuda:<index>`.
        on_message: called with what a person should know meanwhile.

    Returns:
        Title of a network -> why it could not be evaluated.
    """
    waiting, faults = waiting_networks(plan, store), dict[str, str]()
    if not waiting or plan.spec.few_shot is None:
        return faults
    shots = ", ".join(map(str, plan.spec.few_shot.shots))
    on_message(
        f"few-shot: ridge regression on the frozen features of {counted(len(waiting), 'network')}, {shots} images per "
        f"class, {counted(plan.spec.few_shot.draws, 'draw')} each"
    )
    with one_thread():
        left = _evaluate_free(waiting, plan, store, device, on_message, faults)
        if left:
            on_message(f"few-shot: {counted(len(left), 'network')} another launcher is at, which is waited for")
        while left:
            time.sleep(BUSY_SECONDS)
            left = _evaluate_free(left, plan, store, device, on_message, faults)
    return faults


def _evaluate_free(
    waiting: Sequence[FrozenNetwork],
    plan: Plan,
    store: Store,
    device: str,
    on_message: Callable[[str], None],
    faults: dict[str, str],
) -> list[FrozenNetwork]:
    """Evaluates those that nobody else is at, or takes what is there by now; returns the others, notes faults."""
    busy = []
    for _, of_replicate in groupby(waiting, key=lambda network: network.cell.seeds.subset):
        data = JobData(plan.spec.data)
        for network in of_replicate:
            try:
                make = partial(_evaluated, network, plan, data, store, device)
                outdated = partial(why_outdated, network, store)
                EVALUATIONS.compute(store, network.id, network.title, make, on_message, outdated=outdated)
            except BusyError:
                busy.append(network)
            except (StudyError, ValueError) as error:
                faults[network.title] = str(error)
            except Exception as error:
                faults[network.title] = f"{type(error).__name__}: {error}"
    return busy


def _evaluated(
    network: FrozenNetwork, plan: Plan, data: JobData, store: Store, device: str
) -> tuple[FewShotResult, Arrays]:
    started, cell, num_images = time.monotonic(), network.cell, 0
    module = initial_network(cell)
    sha256 = give_start(module, cell, store) if network.start is not None else ""

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal num_images
        num_images += len(inputs[0])

    module.register_forward_pre_hook(count)
    batches = batches_of(cell, data, device, pooled=False)
    try:
        test = data.test_split(cell.seeds.subset)
        found = evaluate_few_shot(
            module.to(device),
            batches,
            pool=data.pool(cell),
            validation=data.rows(cell)[1],
            test=test,
            num_classes=cell.num_classes,
            shots=network.spec.shots,
            draws=network.spec.draws,
            seed=network.first_seed,
        )
    finally:
        batches.close()
    result = FewShotResult(
        evaluation_id=network.id,
        identity=network.identity,
        study=plan.study_id,
        plan_hash=plan.hash,
        weights_sha256=sha256,
        train_checksum=batches.split.checksum,
        test_checksum=test.checksum,
        evaluation_flops=num_images * cell.forward_flops,
        evaluation_seconds=time.monotonic() - started,
        finished_at=now(),
        environment=environment(device),
        draws=tuple(draw for one in found for draw in _draws(one, network.first_seed, len(test))),
    )
    return result, {}


def _draws(found: FewShot, first_seed: int, num_test: int) -> Iterator[Draw]:
    for draw, (accuracy, strength) in enumerate(zip(found.accuracies, found.regularizations, strict=True)):
        wrong = num_test - round(accuracy * num_test)
        yield Draw(
            shots=found.shots,
            draw=draw,
            seed=first_seed + draw,
            regularization=strength,
            test_error=wrong / num_test,
        )
