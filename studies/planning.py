"""Planning: a validated question becomes cells whose steps, FLOPs and identity are known before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datamodules import DataInfo
from models.tiers import TIERS

from .budget import BranchPlan, Budget, branch_plans, step_multiple, steps_for_epochs, steps_for_flops, train_flops
from .cell import PERMUTED_PATCH, Cell, Seeds
from .errors import PlanError
from .fairness import check_data, check_distinct, check_equal_cost, check_matched, check_seeds
from .grid import Arm, Plan
from .plan_notes import FIXED_RECIPE, augmentation_notes, coverage_notes
from .protocol import PROTOCOL_VERSION, Permutation
from .spec import StudySpec
from .starts import StageStart, Start, StartSource, start_notes
from .tuned import Conditions, Network, Tuning


def make_plan(
    spec: StudySpec,
    data: DataInfo,
    arms: Mapping[str, Arm],
    tuning: Tuning | None = None,
    starts: Mapping[str, StartSource] | None = None,
) -> Plan:
    """Resolves every cell of a study.

    Args:
        arms: by the name the study file gives them.
        tuning: what `recipe.tuning` names.
        starts: by name, what the arms begin from.

    Raises:
        PlanError: the study cannot be run, or its comparison would be unfair; says which field and why.
        ConfigError: the tuning lacks an arm.
    """
    check_data(spec, data)
    check_seeds(spec)
    ordered = tuple(arms[name] for name in spec.families)
    notes = check_matched(spec, ordered)
    costliest = max(arm.forward_flops for arm in ordered)
    sources, cells = starts or {}, []
    for num_train in spec.num_train:
        for arm in ordered:
            steps = _steps(spec, arm, costliest, num_train)
            for replicate in range(spec.num_replicates(arm.name)):
                for start in _starts_of(arm, replicate, sources):
                    cell = _cell(spec, data, arm, num_train, replicate, steps, tuning, start)
                    cells += [_permuted(cell, rung, spec.tier) for rung in spec.rungs]
    cells.sort(key=_complete_replicates_first)
    check_distinct(cells)
    notes = (*notes, *check_equal_cost(spec, cells))
    names = {arm.key: arm.name for arm in ordered}
    used = [(names[cell.arm_key], cell.num_train, cell.steps) for cell in cells]
    recipe_notes = tuning.remarks(Conditions.of(spec, data), used, networks_of(ordered)) if tuning else (FIXED_RECIPE,)
    notes = (*notes, *coverage_notes(spec, data, cells), *augmentation_notes(spec, data), *recipe_notes)
    notes = (*notes, *start_notes(sources, data, [(names[cell.arm_key], cell) for cell in cells]))
    earlier = tuple(source.plan for source in sources.values() if isinstance(source, StageStart))
    return Plan(spec, data, ordered, tuple(cells), notes, tuning.citation if tuning else None, earlier)


def networks_of(arms: Iterable[Arm]) -> dict[str, Network]:
    """What a tuning remembers of its arms, by name."""
    return {arm.name: Network(forward_flops=arm.forward_flops, num_parameters=arm.num_parameters) for arm in arms}


def _starts_of(arm: Arm, replicate: int, sources: Mapping[str, StartSource]) -> list[Start | None]:
    """What a replicate of an arm begins from: nothing, or one start for each size of the earlier stage."""
    if arm.start is None:
        return [None]
    source = sources[arm.start]
    return [source.of(arm.family, arm.variant, size, replicate) for size in source.sizes]


def _complete_replicates_first(cell: Cell) -> tuple[int, int, int]:
    """The order of cells; within a replicate small sets come before large ones."""
    return cell.replicate, cell.num_train, (cell.start.num_pretrain or 0) if cell.start is not None else 0


def _cell(
    spec: StudySpec,
    data: DataInfo,
    arm: Arm,
    num_train: int,
    replicate: int,
    steps: int,
    tuning: Tuning | None,
    start: Start | None,
) -> Cell:
    kinds = ("subset", "order", "initialization", "augmentation")
    recipe = spec.recipe
    if tuning is not None:
        learning_rate, weight_decay = tuning.values(arm.name, num_train)
    else:
        learning_rate = recipe.value("learning_rate", arm.name, arm.family)
        weight_decay = recipe.value("weight_decay", arm.name, arm.family)
    return Cell(
        protocol_version=PROTOCOL_VERSION,
        family=arm.family,
        variant=arm.variant,
        data=data.name,
        data_fingerprint=data.fingerprint,
        image_size=data.image_size,
        in_channels=data.in_channels,
        num_classes=data.num_classes,
        num_train=num_train,
        num_validation=spec.num_validation,
        num_test=data.num_test,
        permutation="none",
        augmentation=spec.augmentation,
        replicate=replicate,
        seeds=Seeds(**{kind: spec.seed + (replicate if kind in spec.vary else 0) for kind in kinds}),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=recipe.label_smoothing,
        precision=recipe.precision,
        batch_size=spec.budget.batch_size,
        steps=steps,
        branches=spec.budget.branches,
        warmup_fraction=spec.budget.warmup_fraction,
        cooldown_fraction=spec.budget.cooldown_fraction,
        forward_flops=arm.forward_flops,
        first_layer_flops=arm.first_layer_flops,
        objective=spec.objective,
        head=spec.head,
        designed_for=arm.designed_for,
        start=start,
    )


def _permuted(cell: Cell, rung: Permutation, tier: str) -> Cell:
    """The cell on permuted images; where a permutation knows patches, they are those of the tier's transformer.

    Raises:
        PlanError: the images are not made of such patches.
    """
    if rung in ("none", "pixels"):
        return cell.model_copy(update={"permutation": rung})
    patch = TIERS[tier].patch_sizes.get(cell.designed_for or cell.image_size, PERMUTED_PATCH)
    if cell.image_size % patch:
        raise PlanError(
            f"permutation: {rung} needs images that are made of whole patches: {cell.image_size} px are no multiple of "
            f"{patch}; resize the images, or leave this rung out"
        )
    return cell.model_copy(update={"permutation": rung, "permutation_patch": patch})


def _steps(spec: StudySpec, arm: Arm, costliest: int, num_train: int) -> int:
    """Steps at C: the same for all arms or, with `allow_unequal_flops`, as many as each can pay.

    Args:
        costliest: forward FLOPs per image of the costliest arm, for which `budget.steps` and `train_flops` are meant.
    """
    budget = spec.budget
    reference = arm.forward_flops if spec.allow_unequal_flops else costliest
    multiple = step_multiple(budget.branches, budget.cooldown_fraction)
    if budget.epochs is not None:
        steps = steps_for_epochs(budget.epochs, num_train, budget.batch_size, multiple=multiple)
    else:
        if budget.steps is not None:
            _branches(budget, budget.steps)  # declared steps are refused and never rounded
        available = budget.train_flops or train_flops(costliest, budget.batch_size * (budget.steps or 0))
        steps = steps_for_flops(available, reference, budget.batch_size, multiple=multiple)
        if steps == 0:
            least = train_flops(reference, multiple * budget.batch_size)
            raise PlanError(
                f"budget.train_flops: {available:.3g} does not pay for the least number of steps, "
                f"{multiple} (every branch must be whole): with batch_size {budget.batch_size} {arm.name} needs "
                f"at least {least:,}"
            )
    plans = _branches(budget, steps)
    if int(budget.warmup_fraction * steps) > plans[0].trunk_steps:
        raise PlanError(
            f"budget.branches: the branch {plans[0].fraction:g} leaves the trunk after {plans[0].trunk_steps} steps, "
            f"before the warm-up of {int(budget.warmup_fraction * steps)} steps has ended"
        )
    return steps


def _branches(budget: Budget, steps: int) -> tuple[BranchPlan, ...]:
    try:
        return branch_plans(steps, budget.branches, budget.cooldown_fraction)
    except ValueError as error:
        raise PlanError(f"budget.branches: {error}") from None
