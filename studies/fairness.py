"""Fairness: what a comparison must have to be worth running, refused by field and value where it has not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from datamodules import DataInfo

from .arms import arm_name
from .budget import STEP_MULTIPLE, step_multiple, steps_for_flops, train_flops
from .cell import Cell
from .errors import PlanError
from .grid import Arm
from .spec import StudySpec
from .stages import PRETRAINING_SEED
from .tuning import TUNING_SEED

MATCHED = 0.02
"""Largest relative difference of forward FLOPs between the arms of a study (PROTOCOL 2)."""
MATCHED_FOR_A_REASON = 0.05
"""The same where the network's own granularity forbids better; the plan then says so."""
OWN_STEPS = "every arm takes its own number of steps at the same budget"
LEAST_PER_CLASS = 10
"""Smallest training set, in images per class (PROTOCOL 5)."""


def check_data(spec: StudySpec, data: DataInfo) -> None:
    """Refuses sizes that the data cannot fill, too few images per class, and augmentations that change labels."""
    available = data.num_train - spec.num_validation
    if max(spec.num_train) > available:
        raise PlanError(
            f"num_train: {max(spec.num_train)} images were asked for, but {data.name} has {data.num_train} training "
            f"images and num_validation takes {spec.num_validation} of them: at most {available}"
        )
    least = LEAST_PER_CLASS * data.num_classes
    if min(spec.num_train) < least:
        raise PlanError(
            f"num_train: {min(spec.num_train)} is below {least}, {LEAST_PER_CLASS} images for each of the "
            f"{data.num_classes} classes of {data.name}"
        )
    if spec.num_validation < data.num_classes:
        raise PlanError(
            f"num_validation: {spec.num_validation} is below the {data.num_classes} classes of {data.name}: "
            "give at least one image per class"
        )
    if spec.few_shot is not None:
        spec.few_shot.check_pool(available, data.num_classes, data.name)
    refused = set(spec.augmentation) - set(spec.data.label_preserving)
    if refused:
        raise PlanError(
            f"recipe.augmentation: {sorted(refused)} would change labels of {data.name}; "
            f"augmentations that keep them true: {list(spec.data.label_preserving) or 'none'}"
        )


def check_seeds(spec: StudySpec) -> None:
    """Refuses seeds that are not the study's own.

    Those from `PRETRAINING_SEED` on draw the images of earlier stages, which no fine-tuning sees; those from
    `TUNING_SEED` on belong to tunings: what chose the hyper-parameters is never reported.
    """
    last = spec.seed + max(map(spec.num_replicates, spec.families)) - 1
    if last >= PRETRAINING_SEED:
        raise PlanError(
            f"seed: {spec.seed} makes seeds up to {last}, but those from 2**31 = {PRETRAINING_SEED} on belong to "
            f"earlier stages, and from 2**32 = {TUNING_SEED} on to tunings; give a smaller one"
        )


def check_matched(spec: StudySpec, arms: tuple[Arm, ...]) -> tuple[str, ...]:
    """Refuses an unfair comparison; returns what must be said about a fair one."""
    low, high = (extreme(arms, key=lambda arm: arm.forward_flops) for extreme in (min, max))
    spread = (high.forward_flops - low.forward_flops) / low.forward_flops
    difference = (
        f"forward FLOPs per image differ by {spread:.1%}: "
        f"{low.name} {low.forward_flops:,}, {high.name} {high.forward_flops:,}"
    )
    if spec.allow_unequal_flops:
        meaning = "epochs, not FLOPs, are equal" if spec.budget.epochs is not None else OWN_STEPS
        return (f"allow_unequal_flops is on: {meaning}; {difference}.", *_exact_cost(arms))
    if spread > MATCHED_FOR_A_REASON:
        raise PlanError(
            f"families: {difference}. At equal steps that is not a matched comparison (at most "
            f"{MATCHED_FOR_A_REASON:.0%}): choose arms of one tier, or declare allow_unequal_flops=true to give each "
            "arm its own number of steps at the same budget"
        )
    notes = [f"{difference[0].upper()}{difference[1:]}."] if spread > MATCHED else []
    return (*notes, *_exact_cost(arms))


def _exact_cost(arms: Sequence[Arm]) -> tuple[str, ...]:
    """What must be said where arms of equal nominal cost differ in what their training exactly costs."""
    ratios = {arm.name: (3 * arm.forward_flops - arm.first_layer_flops) / arm.forward_flops for arm in arms}
    if max(ratios.values()) / min(ratios.values()) - 1 <= MATCHED_FOR_A_REASON:
        return ()
    listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return (
        f"Exact training cost, without the input gradient of the first layer, differs by more than 5% between arms "
        f"(in units of forward FLOPs: {listed}); budgets are matched at 3.",
    )


def check_equal_cost(spec: StudySpec, cells: Sequence[Cell]) -> tuple[str, ...]:
    """Refuses runs whose training FLOPs differ because steps are whole; returns what must be said of a difference.

    Where every arm takes its own number of steps, these are rounded down to a multiple of 40 or, where branches need
    it, of more, which weighs the more the fewer they are. A budget in epochs is a declared alternative and not matched
    in FLOPs.
    """
    if spec.budget.epochs is not None:
        return ()
    # steps do not depend on the train size
    of_arms = {(cell.arm_key, cell.designed_for): cell for cell in cells}.values()
    multiple = step_multiple(spec.budget.branches, spec.budget.cooldown_fraction)
    low, high = (extreme(of_arms, key=_cost) for extreme in (min, max))
    spread = _cost(high) / _cost(low) - 1
    told = (
        f"in whole multiples of {multiple} steps, training FLOPs of a run differ by {spread:.1%}: "
        f"{_name(low, spec)} {_cost(low):.4g} in {low.steps:,} steps, "
        f"{_name(high, spec)} {_cost(high):.4g} in {high.steps:,}"
    )
    if spec.allow_unequal_flops and spread > MATCHED_FOR_A_REASON:
        batch = spec.budget.batch_size
        forward = [cell.forward_flops for cell in of_arms]
        fitting = matched_budget(forward, batch, at_least=_cost(high), multiple=multiple)
        hint = (
            f"give budget.train_flops={_readable(fitting)} (and budget.steps=null)" if fitting else "raise the budget"
        )
        raise PlanError(
            f"budget: {told} (at most {MATCHED_FOR_A_REASON:.0%}): {hint}, or a smaller batch_size than {batch}"
        )
    return (f"{told[0].upper()}{told[1:]}.",) if spec.allow_unequal_flops and spread > MATCHED else ()


def matched_budget(
    forward_flops: Sequence[int], batch_size: int, *, at_least: float, multiple: int = STEP_MULTIPLE
) -> int | None:
    """The smallest training FLOPs from `at_least` on that all networks spend within 2%, in whole multiples of steps.

    None if there are none up to a hundred times as many.
    """
    costliest = train_flops(max(forward_flops), multiple * batch_size)
    first = -int(-at_least // costliest)
    for budget in range(first * costliest, 100 * first * costliest, costliest):
        steps = [steps_for_flops(budget, forward, batch_size, multiple=multiple) for forward in forward_flops]
        costs = [train_flops(forward, batch_size * of) for forward, of in zip(forward_flops, steps, strict=True)]
        if max(costs) <= (1 + MATCHED) * min(costs):
            return budget
    return None


def _readable(budget: int) -> int:
    """The smallest whole number from `budget` on that a study file, which reads floats, keeps."""
    read = float(budget)
    return int(read) if read >= budget else int(math.nextafter(read, math.inf))


def _name(cell: Cell, spec: StudySpec) -> str:
    """The arm of a cell as its study names it."""
    family, variant, start = cell.arm_key
    return arm_name(family, variant, start, spec.tier)


def _cost(cell: Cell) -> int:
    return train_flops(cell.forward_flops, cell.batch_size * cell.steps)


def check_distinct(cells: Sequence[Cell]) -> None:
    """Refuses two arms that are the same runs."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.id, cell)) is not cell:
            raise PlanError(
                f"families: {cell.title} and {other.title} are one and the same run: their starts do not differ; leave "
                "one of the two arms out"
            )
