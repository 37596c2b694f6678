"""The grid: a validated question becomes cells whose steps, FLOPs and identity are known before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from datamodules import DataInfo
from models.families import Head

from .budget import (
    STEP_MULTIPLE,
    BranchPlan,
    branch_plans,
    executed_steps,
    steps_for_epochs,
    steps_for_flops,
    train_flops,
)
from .errors import PlanError
from .protocol import PROTOCOL_VERSION, ObjectiveName, Permutation
from .recipe import LABEL_PRESERVING
from .spec import StudySpec
from .starts import START_LABELS, StageStart, Start, StartSource, start_notes
from .tuned import Citation, Conditions, Network, Tuning
from .tuning import TUNING_SEED

MATCHED = 0.02
"""Largest relative difference of forward FLOPs between the arms of a study (PROTOCOL 2)."""
MATCHED_FOR_A_REASON = 0.05
"""The same where the network's own granularity forbids better; the plan then says so."""
YOUNGER_CELL_FIELDS = ("reads_test", "objective", "head", "designed_for", "start")
"""Fields of a cell that are younger than the ids of protocol 1: at their default they must not move one."""
YOUNGER_SPEC_FIELDS = ("x", "objective", "head", "designed_for")
"""The same of a study."""
LEAST_PER_CLASS = 10
"""Smallest training set, in images per class (PROTOCOL 5)."""
FIXED_RECIPE = (
    "Fixed recipe: learning rates and weight decays were set beforehand and not tuned for each arm and train size "
    "(recipe.tuning is null). A difference between arms may be one of hyper-parameters."
)
"""The note of a study without a tuning (the fixed-recipe mode of PROTOCOL 4)."""


ArmKey = tuple[str, str, str | None]
"""Family, variant and start."""


@dataclass(frozen=True)
class Arm:
    """What is compared: a network and its cost per image.

    Attributes:
        name: as the study file names it.
        forward_flops: forward FLOPs per image, multiply-add = 2.
        first_layer_flops: the part of the first layer, which needs no input gradient.
        start: name of what it begins from; None where it is trained from scratch.
        designed_for: pixels of the images it is sized for, where these are not the study's.
    """

    name: str
    family: str
    variant: str
    forward_flops: int
    first_layer_flops: int
    num_parameters: int
    start: str | None = None
    designed_for: int | None = None

    @property
    def key(self) -> ArmKey:
        """What tells the cells of one arm from those of another."""
        return self.family, self.variant, self.start


class Seeds(BaseModel):
    """The four seeds of a replicate; each changes only its own thing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subset: int
    order: int
    initialization: int
    augmentation: int


class Cell(BaseModel):
    """One trunk training, fully resolved. Its id is a hash of everything below that can change its result.

    Attributes:
        reads_test: false in a tuning, whose cells end with their validation: they never see the test split, and their
            ids are those of no reported cell.
        objective: what is learnt and measured.
        head: the last layer or layers.
        designed_for: pixels of the images the network is sized for, where it is applied to others.
        start: what its weights begin from; None where they are drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol_version: str
    family: str
    variant: str
    data: str
    data_fingerprint: str
    image_size: int
    in_channels: int
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int
    permutation: Permutation
    augmentation: tuple[str, ...]
    replicate: int
    seeds: Seeds
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    precision: str
    batch_size: int
    steps: int
    branches: tuple[float, ...]
    warmup_fraction: float
    cooldown_fraction: float
    forward_flops: int
    first_layer_flops: int
    reads_test: bool = True
    objective: ObjectiveName = "classification"
    head: Head = "linear"
    designed_for: int | None = None
    start: Start | None = None

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits; names that label without changing the result do not enter."""
        left_out: dict[str, Any] = {"data": True, "replicate": True}
        for name in YOUNGER_CELL_FIELDS:
            if getattr(self, name) == type(self).model_fields[name].default:
                left_out[name] = True
        if self.start is not None:
            left_out["start"] = set(START_LABELS)
        return _digest(self.model_dump(mode="json", exclude=left_out))[:16]

    @property
    def arm_key(self) -> ArmKey:
        """Which arm it belongs to."""
        return self.family, self.variant, None if self.start is None else self.start.name

    @property
    def title(self) -> str:
        """A name for people; never parsed."""
        title = f"{self.family} {self.variant} {self.data} N={self.num_train} r={self.replicate}"
        if self.start is not None:
            title += f" from {self.start.name}" + (f" of {self.start.num_pretrain}" if self.start.num_pretrain else "")
        return title if self.reads_test else f"{title} lr={self.learning_rate:g} decay={self.weight_decay:g}"

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        return int(self.warmup_fraction * self.steps)

    @property
    def branch_plans(self) -> tuple[BranchPlan, ...]:
        """The cooldowns, cheapest first."""
        return branch_plans(self.steps, self.branches, self.cooldown_fraction)

    @property
    def executed_steps(self) -> int:
        """Optimiser steps of trunk and all cooldowns."""
        return executed_steps(self.branch_plans)

    @property
    def executed_flops(self) -> int:
        """Training FLOPs really spent on the trunk and all cooldowns."""
        return train_flops(self.forward_flops, self.batch_size * self.executed_steps)


@dataclass(frozen=True)
class Plan:
    """A study with every cell resolved.

    Attributes:
        notes: what a reader must know about the fairness of the comparison; repeated in the report.
        tuning: the finished tuning that learning rates and weight decays were taken from.
        pretraining: the earlier stages whose weights its cells begin from; each an ordinary study, run before.
    """

    spec: StudySpec
    data: DataInfo
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    tuning: Citation | None = None
    pretraining: tuple[Plan, ...] = ()

    @property
    def stages(self) -> tuple[Plan, ...]:
        """Everything that is run, in order; the plan itself is the last."""
        return (*self.pretraining, self)

    @property
    def protocol_version(self) -> str:
        """Version of the protocol the plan was made under."""
        return self.cells[0].protocol_version

    @cached_property
    def hash(self) -> str:
        """Hash of all that was declared, so that none of it can change after the fact.

        Where the data and the file of a tuning lie, what the study is said to cost and what others published are left
        out: none changes the study. A tuning counts by the hash of its content, an earlier stage by that of its plan, a
        file of weights by that of its content.
        """
        left_out: dict[str, Any] = {"data": True, "cost": True, "published": True, "recipe": {"tuning"}}
        left_out["pretraining"] = True
        for name in YOUNGER_SPEC_FIELDS:
            if getattr(self.spec, name) == StudySpec.model_fields[name].default:
                left_out[name] = True
        return _digest(
            {
                "spec": self.spec.model_dump(mode="json", exclude=left_out),
                "data": _data_json(self.data),
                "arms": [_arm_json(arm) for arm in self.arms],
                "cells": [cell.id for cell in self.cells],
                "notes": self.notes,
                "protocol_version": self.protocol_version,
                **self._tuning_json,
                **({"pretraining": [stage.hash for stage in self.pretraining]} if self.pretraining else {}),
            }
        )

    @property
    def is_tuning(self) -> bool:
        """Whether its cells are trials of a tuning, which never read the test split."""
        return not any(cell.reads_test for cell in self.cells)

    @property
    def _tuning_json(self) -> dict[str, Any]:
        return {} if self.tuning is None else {"tuning": self.tuning.model_dump(mode="json")}

    @property
    def study_id(self) -> str:
        """Folder of the study in the store, and its group in W&B."""
        return f"{self.spec.name}.{self.hash[:8]}"

    @property
    def executed_flops(self) -> int:
        """Training FLOPs of all cells, trunks and cooldowns."""
        return sum(cell.executed_flops for cell in self.cells)

    def arm(self, cell: Cell) -> Arm:
        """The arm a cell belongs to."""
        return next(arm for arm in self.arms if arm.key == cell.arm_key)

    def to_json(self) -> dict[str, Any]:
        """The plan as it is locked in the store."""
        return {
            "study_id": self.study_id,
            "plan_hash": self.hash,
            "protocol_version": self.protocol_version,
            "spec": self.spec.model_dump(mode="json"),
            "data": _data_json(self.data),
            "arms": [_arm_json(arm) for arm in self.arms],
            "cells": [{"id": cell.id} | cell.model_dump(mode="json") for cell in self.cells],
            "notes": list(self.notes),
            **self._tuning_json,
            "pretraining": [stage.to_json() for stage in self.pretraining],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Reads a locked plan back.

        Raises:
            PlanError: the file was altered: a cell or the whole no longer has the hash it was locked with.
        """
        cells = tuple(Cell.model_validate({k: v for k, v in cell.items() if k != "id"}) for cell in content["cells"])
        plan = cls(
            spec=StudySpec.model_validate(content["spec"]),
            data=DataInfo(**(content["data"] | {"class_names": tuple(content["data"]["class_names"])})),
            arms=tuple(Arm(**arm) for arm in content["arms"]),
            cells=cells,
            notes=tuple(content["notes"]),
            tuning=Citation.model_validate(content["tuning"]) if "tuning" in content else None,
            pretraining=tuple(cls.from_json(stage) for stage in content.get("pretraining", ())),
        )
        if [cell.id for cell in cells] != [cell["id"] for cell in content["cells"]] or plan.hash != content[
            "plan_hash"
        ]:
            raise PlanError(
                f"plan.json of {content['study_id']} was altered: its content no longer has the hash it was locked with"
            )
        return plan


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
    _check_data(spec, data)
    _check_seeds(spec)
    ordered = tuple(arms[name] for name in spec.families)
    notes = _check_matched(spec, ordered)
    costliest = max(arm.forward_flops for arm in ordered)
    sources, cells = starts or {}, []
    for num_train in spec.num_train:
        for arm in ordered:
            reference = arm.forward_flops if spec.allow_unequal_flops else costliest
            steps = _steps(spec, reference, num_train, arm.name)
            for replicate in range(spec.num_replicates(arm.name)):
                for start in _starts_of(arm, replicate, sources):
                    cells.append(_cell(spec, data, arm, num_train, replicate, steps, tuning, start))
    cells.sort(key=_complete_replicates_first)
    _check_distinct(cells)
    names = {arm.key: arm.name for arm in ordered}
    used = [(names[cell.arm_key], cell.num_train, cell.steps) for cell in cells]
    recipe_notes = tuning.remarks(Conditions.of(spec, data), used, networks_of(ordered)) if tuning else (FIXED_RECIPE,)
    notes = (*notes, *_coverage_notes(spec, data, cells), *_augmentation_notes(spec, data), *recipe_notes)
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


def _check_distinct(cells: Sequence[Cell]) -> None:
    """Refuses two arms that are the same runs."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.id, cell)) is not cell:
            raise PlanError(
                f"families: {cell.title} and {other.title} are one and the same run: their starts do not differ; leave "
                "one of the two arms out"
            )


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
        permutation=spec.permutation,
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


def _check_data(spec: StudySpec, data: DataInfo) -> None:
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
    refused = set(spec.augmentation) - set(spec.data.label_preserving)
    if refused:
        raise PlanError(
            f"recipe.augmentation: {sorted(refused)} would change labels of {data.name}; "
            f"augmentations that keep them true: {list(spec.data.label_preserving) or 'none'}"
        )


def _check_seeds(spec: StudySpec) -> None:
    """Seeds from `TUNING_SEED` on belong to tunings: what chose the hyper-parameters is never reported."""
    last = spec.seed + max(map(spec.num_replicates, spec.families)) - 1
    if last >= TUNING_SEED:
        raise PlanError(
            f"seed: {spec.seed} makes seeds up to {last}, but those from 2**32 = {TUNING_SEED} on belong to tunings; "
            "give a smaller one"
        )


def _check_matched(spec: StudySpec, arms: tuple[Arm, ...]) -> tuple[str, ...]:
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


def _steps(spec: StudySpec, forward_flops: int, num_train: int, arm: str) -> int:
    budget = spec.budget
    if budget.steps is not None:
        steps = budget.steps
    elif budget.epochs is not None:
        steps = steps_for_epochs(budget.epochs, num_train, budget.batch_size)
    else:
        assert budget.train_flops is not None
        steps = steps_for_flops(budget.train_flops, forward_flops, budget.batch_size)
        if steps == 0:
            least = train_flops(forward_flops, STEP_MULTIPLE * budget.batch_size)
            raise PlanError(
                f"budget.train_flops: {budget.train_flops:.3g} does not pay for the least number of steps, "
                f"{STEP_MULTIPLE} (every branch must be whole): with batch_size {budget.batch_size} {arm} needs at "
                f"least {least:,}"
            )
    try:
        plans = branch_plans(steps, budget.branches, budget.cooldown_fraction)
    except ValueError as error:
        raise PlanError(f"budget.branches: {error}") from None
    if int(budget.warmup_fraction * steps) > plans[0].trunk_steps:
        raise PlanError(
            f"budget.branches: the branch {plans[0].fraction:g} leaves the trunk after {plans[0].trunk_steps} steps, "
            f"before the warm-up of {int(budget.warmup_fraction * steps)} steps has ended"
        )
    return steps


def _augmentation_notes(spec: StudySpec, data: DataInfo) -> tuple[str, ...]:
    if spec.recipe.augmentation != (LABEL_PRESERVING,):
        return ()
    if not spec.augmentation:
        return (f"No augmentation keeps the labels of {data.name} true: the shared recipe augments nothing here.",)
    return (f"Augmentation: {', '.join(spec.augmentation)}, all that keep the labels of {data.name} true.",)


def _coverage_notes(spec: StudySpec, data: DataInfo, cells: list[Cell]) -> list[str]:
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
        notes.append(f"Branches that see fewer images than N once: {listed}.")
    return notes


def _data_json(data: DataInfo) -> dict[str, Any]:
    return vars(data) | {"class_names": list(data.class_names)}


def _arm_json(arm: Arm) -> dict[str, Any]:
    """An arm as it is hashed: fields younger than protocol 1 only where they say something."""
    return {name: value for name, value in vars(arm).items() if value is not None}


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
