"""How long runs train: the budget that a study declares, and the one place for its arithmetic (PROTOCOL 2 and 3).

The cost of a run of S steps at batch B of a network with f forward FLOPs per image is 3 f B S. One trunk serves every
budget fraction c: it is warmed up and held at a constant learning rate, and at 0.8 c a cooldown of 0.2 c branches off
(Hägele et al. 2024, arXiv 2405.18392, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from .strict import Strict

TRAIN_COST = 3
"""Training FLOPs in units of forward FLOPs: one forward, one backward to inputs, one to weights."""

STEP_MULTIPLE = 40
"""Steps are a multiple of this, so that the cooldown of the branch at C/8 (S/40 steps) is whole (`step_multiple`)."""


class Budget(Strict):
    """How long every run trains. Exactly one of `train_flops`, `steps` and `epochs` is given.

    Attributes:
        train_flops: training FLOPs C of one run; the steps follow from the costliest arm, so that nobody exceeds C.
        steps: optimiser steps at C, a multiple of 40; with `allow_unequal_flops` those of the costliest arm.
        epochs: a declared alternative to matched compute: passes over each training set, so that C grows with it.
        batch_size: images per optimiser step, equal for all arms.
        branches: fractions of C at which a cooldown ends; 1 is always among them.
        warmup_fraction: part of C during which the learning rate rises, at most 3% (PROTOCOL 3).
        cooldown_fraction: part of each branch that is its cooldown.
    """

    train_flops: Annotated[float, Field(gt=0)] | None = None
    steps: PositiveInt | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=2)] = 96
    branches: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.125, 0.25, 0.5, 1.0)
    warmup_fraction: Annotated[float, Field(ge=0, le=0.03)] = 0.03
    cooldown_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @field_validator("steps")
    @classmethod
    def _whole_branches(cls, steps: int | None) -> int | None:
        if steps is not None and steps % STEP_MULTIPLE:
            below = steps - steps % STEP_MULTIPLE
            nearest = f"{below} or {below + STEP_MULTIPLE}" if below else f"at least {STEP_MULTIPLE}"
            raise ValueError(f"must be a multiple of {STEP_MULTIPLE} so that every branch is whole: {nearest}")
        return steps

    @field_validator("branches")
    @classmethod
    def _ends_at_full_budget(cls, branches: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in branches:
            raise ValueError("must contain 1.0, the full budget")
        if len(set(branches)) < len(branches):
            raise ValueError("names a fraction twice")
        return tuple(sorted(branches))

    @model_validator(mode="after")
    def _one_length(self) -> Budget:
        given = [name for name in ("train_flops", "steps", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of train_flops, steps and epochs; given: {', '.join(given) or 'none'}")
        return self


@dataclass(frozen=True)
class BranchPlan:
    """One cooldown: it leaves the trunk after `trunk_steps` and takes `cooldown_steps`."""

    fraction: float
    trunk_steps: int
    cooldown_steps: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the branch: its part of the trunk and its cooldown."""
        return self.trunk_steps + self.cooldown_steps


def train_flops(forward_flops: int, examples: int) -> int:
    """Training FLOPs, 3 f per image (PROTOCOL 2)."""
    return TRAIN_COST * forward_flops * examples


def train_flops_exact(forward_flops: int, first_layer_flops: int, examples: int) -> int:
    """Training FLOPs without the input gradient of the first layer, 3 f - f_first per image (PROTOCOL 2)."""
    return (TRAIN_COST * forward_flops - first_layer_flops) * examples


def step_multiple(fractions: tuple[float, ...], cooldown_fraction: float) -> int:
    """The smallest multiple of `STEP_MULTIPLE` whose multiples make every branch and every cooldown whole.

    40 for branches at C/8 and above with a cooldown of 0.2, 80 where one is at C/16.
    """
    shares = [_exact(fraction) for fraction in fractions]
    wholes = [share.denominator for share in shares]
    wholes += [(_exact(cooldown_fraction) * share).denominator for share in shares]
    return math.lcm(STEP_MULTIPLE, *wholes)


def steps_for_flops(budget_flops: float, forward_flops: int, batch_size: int, *, multiple: int = STEP_MULTIPLE) -> int:
    """The most steps, a multiple of `multiple`, that cost at most `budget_flops`; 0 if not even the least fits."""
    affordable = int(Fraction(budget_flops) / train_flops(forward_flops, batch_size))
    return affordable - affordable % multiple


def steps_for_epochs(epochs: float, num_train: int, batch_size: int, *, multiple: int = STEP_MULTIPLE) -> int:
    """The fewest steps, a multiple of `multiple`, that see every image at least `epochs` times."""
    return -int(-Fraction(epochs) * num_train // (batch_size * multiple)) * multiple


@cache
def branch_plans(steps: int, fractions: tuple[float, ...], cooldown_fraction: float) -> tuple[BranchPlan, ...]:
    """Splits every branch of a trunk of `steps` into its trunk part and its cooldown, cheapest first.

    Raises:
        ValueError: a branch or its cooldown is not a whole number of steps, or is empty.
    """
    plans = []
    for fraction in sorted(fractions):
        total = _exact(fraction) * steps
        cooldown = _exact(cooldown_fraction) * total
        if total.denominator != 1 or cooldown.denominator != 1 or cooldown < 1:
            raise ValueError(
                f"branch {fraction:g} of {steps} steps with a cooldown of {cooldown_fraction:g} is "
                f"{float(total):g} steps with {float(cooldown):g} of cooldown; both must be whole and at least 1: "
                f"use a multiple of {step_multiple(fractions, cooldown_fraction)} steps"
            )
        plans.append(BranchPlan(fraction, int(total - cooldown), int(cooldown)))
    return tuple(plans)


def executed_steps(plans: tuple[BranchPlan, ...]) -> int:
    """Optimiser steps really taken: the trunk once, and every cooldown. 1.175 S for branches at 1/8, 1/4, 1/2 and 1."""
    return max(plan.trunk_steps for plan in plans) + sum(plan.cooldown_steps for plan in plans)


def _exact(value: float) -> Fraction:
    """The decimal a person wrote: 0.2 is 1/5, not the nearest binary float."""
    return Fraction(str(value)).limit_denominator(10_000)
