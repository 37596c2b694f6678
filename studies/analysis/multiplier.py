"""What a prior is worth: how many times more of x the other family needs for the same error.

k(e) = x_flexible(e) / x_prior(e); over training images this is the data multiplier of PROTOCOL 1, over training FLOPs
the compute multiplier. k(x) is k at the error that the prior reaches at x, where it reaches it there first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from .curve import Array, Curve, Interpolation, Pair, interpolate, pair_up
from .finding import Finding, LeftOut, Names, name_of
from .fit_points import NEAR_CHANCE
from .jackknife import FEWEST_FOR_INTERVAL, spread, t_quantile
from .paired import describe
from .quantity import quantity

NUM_ERRORS = 25
PARTS = 64
"""Straight ones, a power of two, that a monotone curve between two measured points is taken for."""
REACHED_THERE = 1e-6
"""Difference of ln x up to which an error counts as first reached at x."""
COLUMNS = ["x_prior", "x_flexible", "error", "multiplier", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class Multiplier(Finding):
    """How many times more x the flexible family needs than the prior one.

    Attributes:
        prior: the family with the stronger assumption.
        flexible: the other.
        column: name of x.
        confidence: nominal coverage of the jackknife-t intervals on ln k.
        by_error: k(e) over the errors that both mean curves reach: `x_prior`, `x_flexible`, `error`, `multiplier`,
            `low`, `high` (NaN where a deletion does not reach the error, or without replicates).
        by_x: the same at the measured x of the prior family, k(x).
        falls_back: families whose mean curve rises again after having reached some error of the table: x(e) is then
            where it is reached first.
        num_replicates: common to both families.
        stated: errors per point were stated, so that intervals need no replicates.
        chance: error of guessing; None where it is not known. Near it curves are flat, and a ratio of sizes says
            nothing: the sentence is about errors of at most `NEAR_CHANCE` x chance.
        differs_in: what the two families differ in: the prior, or the size, the start, ... of one family.
    """

    prior: str
    flexible: str
    column: str
    confidence: float
    by_error: pd.DataFrame
    by_x: pd.DataFrame
    falls_back: tuple[str, ...]
    num_replicates: int = 0
    stated: bool = False
    chance: float | None = None
    differs_in: str = "prior"

    @property
    def has_telling_intervals(self) -> bool:
        """Whether its intervals rest on more than two replicates, or on stated errors."""
        return self.stated or self.num_replicates >= FEWEST_FOR_INTERVAL

    def is_near_chance(self, error: float) -> bool:
        """Whether curves are flat at an error because it is nearly that of guessing."""
        return self.chance is not None and error > NEAR_CHANCE * self.chance

    def away_from_chance(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of `by_x` or `by_error` that have a multiplier, at errors that are not near chance."""
        near = pd.Series([self.is_near_chance(error) for error in rows["error"]], index=rows.index, dtype=bool)
        return rows[rows["multiplier"].notna() & ~near]

    def sentence(self, names: Names | None = None) -> str:
        """What the difference is worth at the smallest and at the largest measured x that can be answered."""
        of, prior, flexible = quantity(self.column), name_of(self.prior, names), name_of(self.flexible, names)
        known = self.by_x[self.by_x["multiplier"].notna()]
        if known.empty:
            return (
                f"The {of.of} multiplier of {prior} over {flexible} cannot be measured: no error that {prior} has at "
                f"measured {of.axis} is reached by both."
            )
        clear = self.away_from_chance(self.by_x)
        if clear.empty:
            return (
                f"The {of.of} multiplier of {prior} over {flexible} is not told: every error that both reach is near "
                f"chance (above {NEAR_CHANCE:g} × chance), where curves are flat."
            )
        told = [clear.iloc[place] for place in sorted({0, len(clear) - 1})]
        parts = [
            (of.number(row["x_prior"]), f"{row['multiplier']:.2f} times as many ({self._interval(row)})")
            for row in told
        ]
        (first_x, first), *rest = parts
        text = f"For the error that {prior} has at {first_x} {of.unit}, {flexible} needs {first}"
        text += "".join(f"; for its error at {x}, {times}" for x, times in rest)
        if self.falls_back:
            again = " and ".join(name_of(family, names) for family in self.falls_back)
            text += f"; the mean curve of {again} is not falling throughout, and the first {of.axis} counts"
        if len(clear) < len(known):
            text += "; errors near chance are not counted"
        return f"{text} ({of.of} multiplier of the {self.differs_in})."

    def _interval(self, row: pd.Series[float]) -> str:
        """The interval of a row in words, or why there is none."""
        if not self.has_telling_intervals:
            why = "two replicates carry no useful one" if self.num_replicates == 2 else "there are no replicates"
            return f"without interval: {why}"
        if math.isnan(row["low"]):
            return "without interval: the error is not reached if one replicate is left out"
        return f"{100 * self.confidence:g}% interval {row['low']:.2f} to {row['high']:.2f}"


def multiplier(
    prior: Curve,
    flexible: Curve,
    *,
    confidence: float = 0.95,
    interpolation: Interpolation = "linear",
    chance: float | None = None,
    differs_in: str = "prior",
) -> Multiplier:
    """Measures k(e) and k(x) on interpolated mean curves, with jackknife-t intervals on ln k.

    Args:
        prior: the curve of the family with the stronger assumption.
        flexible: that of the other.
        confidence: nominal coverage of the intervals.
        interpolation: of mean log errors in ln x.
        chance: error of guessing, near which nothing is told.
        differs_in: what the two differ in, as the sentence calls it.
    """
    pair = pair_up(prior, flexible)
    by_error, by_x = pd.DataFrame(columns=COLUMNS, dtype=float), pd.DataFrame(columns=COLUMNS, dtype=float)
    left_out: list[LeftOut] = []
    if pair is not None:
        left_out += pair.left_out
        levels = _shared_levels(pair)
        by_error = _table(pair, levels, None, confidence, interpolation)
        by_x = _table(pair, None, pair.first.log_x, confidence, interpolation)
        left_out += _unanswered(pair, by_x, interpolation)
    return Multiplier(
        method=f"first x at which each mean curve, interpolated in ln x ({interpolation}), reaches the error; "
        "jackknife-t on ln k",
        used=describe(prior, flexible, pair),
        left_out=tuple(left_out),
        prior=prior.family,
        flexible=flexible.family,
        column=prior.column,
        confidence=confidence,
        by_error=by_error,
        by_x=by_x,
        falls_back=tuple(
            curve.family
            for curve in (() if pair is None else (pair.first, pair.second))
            if (np.diff(curve.mean) > 0).any()
        ),
        num_replicates=0 if pair is None else pair.first.num_replicates,
        stated=pair is not None and all(c.standard_error is not None for c in (pair.first, pair.second)),
        chance=chance,
        differs_in=differs_in,
    )


def multiplier_at(
    prior: Curve,
    flexible: Curve,
    errors: Sequence[float],
    *,
    confidence: float = 0.95,
    interpolation: Interpolation = "linear",
) -> pd.DataFrame:
    """k(e) at given errors, in the columns of `Multiplier.by_error`; NaN where one of the two does not reach it."""
    pair = pair_up(prior, flexible)
    if pair is None:
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    return _table(pair, np.log(np.asarray(errors, dtype=float)), None, confidence, interpolation)


def multiplier_of(prior: Callable[[float], float], flexible: Callable[[float], float]) -> Callable[[float], float]:
    """k as a function of the error, from the inverses of two curves: functions error -> x."""
    return lambda error: flexible(error) / prior(error)


def first_reach(log_x: Array, log_error: Array, level: Array, interpolation: Interpolation) -> Array:
    """Smallest ln x at which curves come down to a level.

    Args:
        log_x: [n].
        log_error: curves [..., n].
        level: log errors asked for [m], or [..., m] for each curve its own.

    Returns:
        [..., m]; NaN where the level is not reached, or where the curve begins below it, so that the place is not
        measured.
    """
    level = np.broadcast_to(level, (*log_error.shape[:-1], level.shape[-1]))
    below = log_error[..., None, :] <= level[..., None]  # [..., m, n]
    place = below.argmax(axis=-1)  # the first measured point below; between points a curve has no minimum
    if interpolation == "monotone" and len(log_x) > 2:
        start, stop, upper, lower = _refined(log_x, log_error, level, place)
    else:
        start, stop, upper, lower = _line_to(log_x, log_error, place)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 at the first point, which is not interpolated
        step = np.where(place > 0, (upper - level) / (upper - lower), 0.0)
    found = start + step * (stop - start)
    reached = below.any(axis=-1) & ((place > 0) | (lower == level))
    return np.where(reached, found, np.nan)


def _refined(
    log_x: Array, log_error: Array, level: Array, place: npt.NDArray[np.intp]
) -> tuple[Array, Array, Array, Array]:
    """As lines from (start, upper) to (stop, lower): the parts of monotone curves that reach their levels.

    Args:
        log_x: [n].
        log_error: [..., n].
        level: [..., m].
        place: of the measured point [..., m] before which the level is reached; 0 where it is that point itself.
    """
    gaps = [np.linspace(a, b, PARTS, endpoint=False) for a, b in itertools.pairwise(log_x)]
    fine = np.concatenate([*gaps, log_x[-1:]])
    between = interpolate(log_x, log_error, fine, "monotone")
    between[..., ::PARTS] = log_error  # without rounding: a level may be that of a measured point
    left = PARTS * np.maximum(place - 1, 0)
    right = np.where(place > 0, left + PARTS, 0)
    for _ in range(PARTS.bit_length() - 1):  # the curve falls all the way from the point before to that below
        middle = (left + right) // 2
        below = np.take_along_axis(between, middle, axis=-1) <= level
        left, right = np.where(below, left, middle), np.where(below, middle, right)
    return _line_to(fine, between, right)


def _line_to(log_x: Array, log_error: Array, right: npt.NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
    """ln x at both ends of the line that ends at a point [..., m] of a curve, then the log errors there."""
    left = np.maximum(right - 1, 0)
    upper, lower = (np.take_along_axis(log_error, at, axis=-1) for at in (left, right))
    return log_x[left], log_x[right], upper, lower


def _unanswered(pair: Pair, by_x: pd.DataFrame, interpolation: Interpolation) -> list[LeftOut]:
    """Why k(x) has no value where it has none."""
    prior, flexible = pair.first, pair.second
    before = first_reach(prior.log_x, prior.mean, prior.mean, interpolation)
    left_out = []
    for log_x, first, unknown in zip(prior.log_x, before, by_x["multiplier"].isna(), strict=True):
        if not unknown:
            continue
        reason = f"{flexible.family} does not reach the error of {prior.family} there, or is below it from its first x"
        if abs(first - log_x) >= REACHED_THERE:
            reason = f"{prior.family} has reached its error there before, at {math.exp(first):.4g}"
        left_out.append(LeftOut(f"k at {prior.column}={math.exp(log_x):g}", reason))
    return left_out


def _shared_levels(pair: Pair) -> Array:
    """Log errors that both mean curves pass through, evenly spaced."""
    highest = min(pair.first.mean[0], pair.second.mean[0])
    lowest = max(pair.first.mean.min(), pair.second.mean.min())
    return np.linspace(highest, lowest, NUM_ERRORS) if lowest < highest else np.zeros(0)


def _table(
    pair: Pair, levels: Array | None, log_x: Array | None, confidence: float, interpolation: Interpolation
) -> pd.DataFrame:
    """k at fixed log errors, or at the errors that the prior has at fixed ln x; one of the two is given."""

    def log_places(means: Sequence[Array]) -> Array:
        """ln x of both families [K, 2, m]."""
        first, second = means[0], means[1]
        at = levels if log_x is None else interpolate(pair.first.log_x, first, log_x, interpolation)
        assert at is not None
        reached = [
            first_reach(curve.log_x, means_of, at, interpolation)
            for curve, means_of in ((pair.first, first), (pair.second, second))
        ]
        return np.stack(reached, axis=1)

    curves = [pair.first, pair.second]
    places = log_places([curve.mean[None] for curve in curves])[0]
    here = spread(curves, lambda means: np.asarray(np.diff(log_places(means), axis=1)[:, 0]))
    half = t_quantile(0.5 + confidence / 2, here.degrees) * here.standard_error
    if log_x is None:
        assert levels is not None
        own, at, answered = places[0], levels, np.full(len(levels), True)
    else:
        own, at = log_x, interpolate(pair.first.log_x, pair.first.mean, log_x, interpolation)
        answered = np.abs(places[0] - log_x) < REACHED_THERE
    answers = np.where(answered, [here.value, here.value - half, here.value + half], np.nan)
    with np.errstate(over="ignore"):
        columns = np.exp([own, np.where(answered, places[1], np.nan), at, *answers])
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
