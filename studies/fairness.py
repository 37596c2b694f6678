"""Fairness: what a comparison must have to be worth running, refused by field and value where it has not."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules import DataInfo

from .cell import Cell
from .errors import PlanError
from .grid import Arm
from .spec import StudySpec
from .tuning import TUNING_SEED

MATCHED = 0.02
"""Largest relative difference of forward FLOPs between the arms of a study (PROTOCOL 2)."""
MATCHED_FOR_A_REASON = 0.05
"""The same where the network's own granularity forbids better; the plan then says so."""
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
    """Seeds from `TUNING_SEED` on belong to tunings: what chose the hyper-parameters is never reported."""
    last = spec.seed + max(map(spec.num_replicates, spec.families)) - 1
    if last >= TUNING_SEED:
        raise PlanError(
            f"seed: {spec.seed} makes seeds up to {last}, but those from 2**32 = {TUNING_SEED} on belong to tunings; "
            "give a smaller one"
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
        return (
            f"allow_unequal_flops is on: every arm takes its own number of steps at the same budget; {difference}.",
        )
    if spread > MATCHED_FOR_A_REASON:
        raise PlanError(
            f"families: {difference}. At equal steps that is not a matched comparison (at most "
            f"{MATCHED_FOR_A_REASON:.0%}): choose arms of one tier, or declare allow_unequal_flops=true to give each "
            "arm its own number of steps at the same budget"
        )
    notes = [f"{difference[0].upper()}{difference[1:]}."] if spread > MATCHED else []
    ratios = {arm.name: (3 * arm.forward_flops - arm.first_layer_flops) / arm.forward_flops for arm in arms}
    if max(ratios.values()) / min(ratios.values()) - 1 > MATCHED_FOR_A_REASON:
        listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        notes.append(
            f"Exact training cost, without the input gradient of the first layer, differs by more than 5% between arms "
            f"(in units of forward FLOPs: {listed}); budgets are matched at 3."
        )
    return tuple(notes)


def check_distinct(cells: Sequence[Cell]) -> None:
    """Refuses two arms that are the same runs."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.id, cell)) is not cell:
            raise PlanError(
                f"families: {cell.title} and {other.title} are one and the same run: their starts do not differ; leave "
                "one of the two arms out"
            )
