"""The rules of a fair tuning, as pure functions on tables of trials (PROTOCOL 4).

A *trial* is one learning rate with one weight decay, for one arm at one train size. Every arm and size begins with the
same grid and may grow to the same number of trials: where the winning rate is at an edge, one more rate beyond it is
tried, with every weight decay, until the winner is inside or the trials are used up.

    grid -> train -> winner -> at an edge? -> extension -> train -> ... -> the winner of each arm and size

`studies.rounds` trains, `studies.tuned` is the file that other studies cite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from .strict import Strict

TUNING_SEED = 2**32
"""Added to every seed of a tuning. Seeds of reported replicates stay below it (`studies.fairness` refuses others): no
tuning of any study shares a seed of images, subsets, orders or initial weights with a replicate that is reported."""

SMALLEST_FACTOR, LARGEST_FACTOR = 2.0, 3.4  # PROTOCOL 4: a factor of 2 to 3; 1, 3, 10 has steps of 3 and 3.33
UNEVEN = 0.15  # rates written with one digit are off their geometric grid by less than this

Pair = tuple[float, float]
"""A learning rate and a weight decay."""


class TuningReplicates(Strict):
    """Replicates of every trial: more of them where validation errors differ most between seeds.

    Attributes:
        min: at the smallest train size.
        others: at every other size.
    """

    min: Annotated[int, Field(ge=3)] = 3
    others: PositiveInt = 1


class TuningSpec(Strict):
    """How a study is tuned; the same for every arm.

    Attributes:
        learning_rates: the grid to begin with, each rate 2 to 3 times the one before.
        weight_decays: each is tried with every rate. The grid of decays is not extended.
        sizes: train sizes to tune at, `all` for every one of the study; by default the smallest, the largest and the
            one in their geometric middle.
        replicates: never reported, and the same for every arm.
        max_trials: most trials of an arm at a size, extensions included.
    """

    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=3)] = (
        0.0003,
        0.001,
        0.003,
        0.01,
    )
    weight_decays: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=2)] = (
        0.02,
        0.2,
    )
    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | Literal["all"] | None = None
    replicates: TuningReplicates = TuningReplicates()
    max_trials: PositiveInt = 16

    @field_validator("learning_rates", "weight_decays", "sizes")
    @classmethod
    def _rising(cls, values: tuple[float, ...] | str | None) -> tuple[float, ...] | str | None:
        if isinstance(values, tuple) and list(values) != sorted(set(values)):
            raise ValueError("must rise from value to value, none twice")
        return values

    @field_validator("learning_rates")
    @classmethod
    def _geometric(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        factors = [above / below for below, above in itertools.pairwise(rates)]
        mean = _factor(rates)
        if not all(SMALLEST_FACTOR * 0.999 <= factor <= LARGEST_FACTOR for factor in factors):
            raise ValueError(
                f"each rate must be 2 to 3 times the one before (up to {LARGEST_FACTOR:g}, for 0.001, 0.003, 0.01); "
                f"here the factors are {', '.join(f'{factor:.3g}' for factor in factors)}"
            )
        if any(abs(factor / mean - 1) > UNEVEN for factor in factors):
            raise ValueError(
                f"must be a geometric grid; here the factors are {', '.join(f'{factor:.3g}' for factor in factors)}"
            )
        return rates

    @model_validator(mode="after")
    def _pays_for_the_grid(self) -> TuningSpec:
        if self.max_trials < len(self.grid):
            raise ValueError(
                f"max_trials {self.max_trials} is below the {len(self.grid)} trials of the grid: "
                f"{len(self.learning_rates)} learning_rates x {len(self.weight_decays)} weight_decays"
            )
        return self

    @property
    def grid(self) -> tuple[Pair, ...]:
        """The trials every arm and size begins with."""
        return tuple(itertools.product(self.learning_rates, self.weight_decays))

    def sizes_of(self, num_train: Sequence[int]) -> tuple[int, ...]:
        """The train sizes to tune at, rising, for a study with these sizes."""
        if self.sizes == "all":
            return tuple(sorted(num_train))
        if self.sizes is not None:
            return self.sizes
        low, high = min(num_train), max(num_train)
        middle = (math.log(low) + math.log(high)) / 2
        nearest = min(sorted(num_train), key=lambda size: round(abs(math.log(size) - middle), 9))
        return tuple(sorted({low, nearest, high}))

    def num_replicates(self, size: int, sizes: Sequence[int]) -> int:
        """Replicates of every trial at one of the tuned `sizes`."""
        return self.replicates.min if size == min(sizes) else self.replicates.others

    def beyond(self, rate: float, *, upwards: bool) -> float:
        """The next rate beyond an edge: a grid step further, to two significant digits."""
        factor = _factor(self.learning_rates)
        return float(f"{rate * factor if upwards else rate / factor:.2g}")


class Trial(Strict):
    """What came out of a learning rate and a weight decay, for one arm at one size.

    Attributes:
        validation_errors: of each replicate, at the full budget; a replicate that diverged counts as chance.
        diverged: how many did.
    """

    learning_rate: float
    weight_decay: float
    validation_errors: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]
    diverged: Annotated[int, Field(ge=0)] = 0

    @property
    def pair(self) -> Pair:
        """Its learning rate and weight decay."""
        return self.learning_rate, self.weight_decay

    def mean_log_error(self, num_validation: int) -> float:
        """Mean over replicates of the log validation error; no error counts as half an error, (1/2) / (V + 1)."""
        logs = [math.log(error or 0.5 / (num_validation + 1)) for error in self.validation_errors]
        return math.fsum(logs) / len(logs)


def winner(trials: Sequence[Trial], num_validation: int) -> Trial:
    """The trial with the smallest mean log validation error; of equals the smaller rate, then the smaller decay.

    Raises:
        ValueError: there is no trial, or they do not all have the same number of replicates.
    """
    if len({len(trial.validation_errors) for trial in trials}) != 1:
        raise ValueError("trials to compare must all have the same number of replicates, and be at least one")
    return min(trials, key=lambda trial: (round(trial.mean_log_error(num_validation), 12), *trial.pair))


def geometric_mean(trial: Trial, num_validation: int) -> float:
    """The validation error that a trial is judged by, to four significant digits."""
    return float(f"{math.exp(trial.mean_log_error(num_validation)):.4g}")


def at_edge(trials: Sequence[Trial], num_validation: int) -> bool:
    """Whether the winning rate is the smallest or the largest that was tried."""
    rates = [trial.learning_rate for trial in trials]
    return winner(trials, num_validation).learning_rate in (min(rates), max(rates))


def extension(trials: Sequence[Trial], rules: TuningSpec, num_validation: int) -> tuple[Pair, ...]:
    """The trials to add to those of an arm at a size: one more rate beyond the edge the winner is at, or none.

    None where the winner is inside, or where the new rate with all its weight decays would exceed `max_trials`.
    """
    if not at_edge(trials, num_validation) or len(trials) + len(rules.weight_decays) > rules.max_trials:
        return ()
    best = winner(trials, num_validation).learning_rate
    rate = rules.beyond(best, upwards=best == max(trial.learning_rate for trial in trials))
    return tuple((rate, decay) for decay in rules.weight_decays)


def interpolate(tuned: dict[int, float], num_train: int) -> float:
    """A hyper-parameter at N, linear in its logarithm over ln N between tuned sizes, constant outside them.

    Args:
        tuned: positive values by train size.

    Returns:
        The tuned value itself at a tuned size; elsewhere four significant digits, so that every machine names the same
        cell.
    """
    if num_train in tuned:
        return tuned[num_train]
    below = max((size for size in tuned if size < num_train), default=None)
    above = min((size for size in tuned if size > num_train), default=None)
    if below is None or above is None:
        edge = above if below is None else below
        assert edge is not None
        return tuned[edge]
    weight = math.log(num_train / below) / math.log(above / below)
    value = math.exp((1 - weight) * math.log(tuned[below]) + weight * math.log(tuned[above]))
    return float(f"{value:.4g}")


def _factor(rates: Sequence[float]) -> float:
    """The step of a geometric grid."""
    return float((rates[-1] / rates[0]) ** (1 / (len(rates) - 1)))
