"""What a plan says of itself: what its reader must know of budgets, subsets, augmentation and recipe."""

from __future__ import annotations

from datamodules import DataInfo

from .cell import Cell
from .recipe import LABEL_PRESERVING
from .spec import StudySpec

FIXED_RECIPE = (
    "Fixed recipe: learning rates and weight decays were set beforehand and not tuned for each arm and train size "
    "(recipe.tuning is null). A difference between arms may be one of hyper-parameters."
)
"""The note of a study without a tuning (the fixed-recipe mode of PROTOCOL 4)."""


def coverage_notes(spec: StudySpec, data: DataInfo, cells: list[Cell]) -> list[str]:
    """Where budgets grow with N, subsets overlap, or branches do not see all of their images."""
    notes = []
    if spec.budget.epochs is not None:
        notes.append("Budgets are equal in epochs, not in FLOPs: compute grows with the number of training images.")
    pool = data.num_train - spec.num_validation
    if not spec.data.fresh_per_replicate and max(spec.num_train) > pool / 2:
        notes.append(
            f"Sizes above {pool // 2} are more than half the pool of {pool}: the replicates' subsets overlap there, "
            "and statements are conditional on this pool."
        )
    unseen = sorted(
        {
            (plan.fraction, cell.num_train)
            for cell in cells
            for plan in cell.branch_plans
            if plan.steps * cell.batch_size < cell.num_train
        }
    )
    if unseen:
        listed = ", ".join(f"{fraction:g} C at N={size}" for fraction, size in unseen)
        notes.append(f"Branches that end before each of the N images was seen once: {listed}.")
    return notes


def augmentation_notes(spec: StudySpec, data: DataInfo) -> tuple[str, ...]:
    """What `label_preserving` means for these data."""
    if spec.recipe.augmentation != (LABEL_PRESERVING,):
        return ()
    if not spec.augmentation:
        return (f"No augmentation keeps the labels of {data.name} true: the shared recipe augments nothing here.",)
    return (f"Augmentation: {', '.join(spec.augmentation)}, all that keep the labels of {data.name} true.",)
