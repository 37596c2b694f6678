"""The cell: one training, fully resolved, and its identity."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from models.families import Head

from .budget import BranchPlan, branch_plans, executed_steps, train_flops
from .digest import digest
from .protocol import ObjectiveName, Permutation
from .starts import START_LABELS, Start
from .strict import Strict

YOUNGER_CELL_FIELDS = ("reads_test", "objective", "head", "designed_for", "start", "permutation_patch")
"""Fields of a cell that are younger than the ids of protocol 1: at their default they must not move one."""

PERMUTED_PATCH = 4
"""Pixels along a side of the patches of a permutation, in every tier for images up to 32 px."""

ArmKey = tuple[str, str, str | None]
"""Family, variant and start."""


class Seeds(Strict):
    """The four seeds of a replicate; each changes only its own thing."""

    subset: int
    order: int
    initialization: int
    augmentation: int


class Cell(Strict):
    """One trunk training, fully resolved. Its id is a hash of everything below that can change its result.

    Attributes:
        reads_test: false in a tuning, whose cells end with their validation: they never see the test split, and their
            ids are those of no reported cell.
        objective: what is learnt and measured.
        head: the last layer or layers.
        designed_for: pixels of the images the network is sized for, where it is applied to others.
        start: what its weights begin from; None where they are drawn.
        permutation_patch: pixels along a side of the patches that `permutation` knows, where it knows any.
    """

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
    permutation_patch: int = PERMUTED_PATCH

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits; names that label without changing the result do not enter."""
        left_out: dict[str, Any] = {"data": True, "replicate": True}
        for name in YOUNGER_CELL_FIELDS:
            if getattr(self, name) == type(self).model_fields[name].default:
                left_out[name] = True
        if self.start is not None:
            left_out["start"] = set(START_LABELS)
        return digest(self.model_dump(mode="json", exclude=left_out))[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; another cell has another id, which is not taken over."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)
        return copied

    @property
    def arm_key(self) -> ArmKey:
        """Which arm it belongs to."""
        return self.family, self.variant, None if self.start is None else self.start.name

    @property
    def title(self) -> str:
        """A name for people; never parsed."""
        title = f"{self.family} {self.variant} {self.data} N={self.num_train} r={self.replicate}"
        if self.permutation != "none":
            title += f" permuted={self.permutation}"
        if self.start is not None:
            title += f" from {self.start.name}" + (f" of {self.start.num_pretrain}" if self.start.num_pretrain else "")
        return title if self.reads_test else f"{title} lr={self.learning_rate:g} decay={self.weight_decay:g}"

    @property
    def network_arguments(self) -> dict[str, Any]:
        """What `models.build_network` is called with for its network."""
        names = ("family", "variant", "image_size", "in_channels", "num_classes", "designed_for", "head")
        return {name: getattr(self, name) for name in names}

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
