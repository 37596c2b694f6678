"""How sure a number is that was computed from measured curves.

The variance of any statistic of mean curves is the delete-one-replicate jackknife, a replicate being its whole row (all
x, all families), plus, where all replicates share their test images, the delete-one jackknife over blocks of test
images (PROTOCOL 6: without the second part, the coverage of a 95% interval fell to .70 at five replicates). Without
replicates but with an error stated per point, the variance is propagated from these by central differences. With
neither there is no variance, and it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .curve import Array, Curve
from .student import t_below, t_quantiles

FEWEST_FOR_INTERVAL = 3
"""Replicates from which an interval is told: that of two reaches 12.7 standard errors to each side and says nothing."""

Statistic = Callable[[Sequence[Array]], Array]
"""From mean log errors, one array [K, n] per curve, to K values of a statistic [K, ...]."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the number.
        low: lower end of the interval; NaN where there is none.
        high: upper end.
        confidence: nominal coverage.
        degrees: degrees of freedom of the t quantile; infinite where errors per point were stated, 0 without interval.
    """

    value: float
    low: float
    high: float
    confidence: float
    degrees: float

    @property
    def has_interval(self) -> bool:
        """Whether anything is known of its uncertainty."""
        return not (np.isnan(self.low) or np.isnan(self.high))

    @property
    def is_telling(self) -> bool:
        """Whether the interval rests on more than two replicates, or on stated errors."""
        return self.has_interval and self.degrees >= FEWEST_FOR_INTERVAL - 1

    def exponentiated(self) -> Estimate:
        """The same of exp(value)."""
        with np.errstate(over="ignore"):  # an end beyond all numbers is an infinite one
            value, low, high = (float(np.exp(number)) for number in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.confidence, self.degrees)


@dataclass(frozen=True)
class Spread:
    """A statistic with its variance.

    Attributes:
        value: from all data [...].
        standard_error: [...]; NaN where no variance can be computed.
        degrees: of freedom: replicates - 1, infinite where errors per point were stated, 0 with neither.
        deleted: its values with one replicate, then with one block deleted [K, ...].
        test_standard_error: the part from the choice of test images [...]; NaN where not counted.
    """

    value: Array
    standard_error: Array
    degrees: float
    deleted: Array
    test_standard_error: Array

    def estimate(self, confidence: float) -> Estimate:
        """The t-interval of a scalar statistic."""
        half = t_quantile(0.5 + confidence / 2, self.degrees) * float(self.standard_error)
        value = float(self.value)
        return Estimate(value, value - half, value + half, confidence, self.degrees)


def spread(curves: Sequence[Curve], statistic: Statistic) -> Spread:
    """The variance of a statistic of mean curves.

    Args:
        curves: with the same replicates, in the same order; an x may lack replicates, but none may lack all.
        statistic: vectorised over its first axis. A NaN for some deletion makes the standard error NaN.
    """
    value = statistic([curve.mean[None] for curve in curves])[0]
    nothing = np.full(np.shape(value), np.nan)
    num_replicates = curves[0].num_replicates
    if num_replicates > 1:
        deleted = statistic([_without_each_replicate(curve) for curve in curves])
        variance, test_variance = jackknife_variance(deleted), nothing
        if all(curve.block_log_error is not None for curve in curves):
            without_block = statistic([_without_each_block(curve) for curve in curves])
            test_variance = jackknife_variance(without_block)
            variance = variance + test_variance
            deleted = np.concatenate([deleted, without_block])
        return Spread(value, np.sqrt(variance), num_replicates - 1, deleted, np.sqrt(test_variance))
    if all(curve.standard_error is not None for curve in curves):
        return Spread(value, np.sqrt(_propagated(curves, statistic)), np.inf, nothing[None][:0], nothing)
    return Spread(value, nothing, 0, nothing[None][:0], nothing)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t; the normal one for infinitely many degrees of freedom, NaN for none."""
    return float(t_quantiles(probability, degrees)) if degrees > 0 else float("nan")


def t_two_sided(value: Array, standard_error: Array, degrees: float) -> Array:
    """Two-sided p-values of value = 0. Without any spread, 0 where the value is not zero, 1 where it is."""
    if degrees <= 0:
        return np.full(np.shape(value), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t_below(-np.abs(value) / standard_error, degrees)
    exact = np.where(value == 0, 1.0, 0.0)
    return np.asarray(np.where(standard_error == 0, exact, p))


def _without_each_replicate(curve: Curve) -> Array:
    """Mean curves with one replicate deleted [R, n]; an x that only it has keeps its value."""
    known = ~np.isnan(curve.log_error)
    total, count = np.nansum(curve.log_error, axis=0), known.sum(axis=0)
    own = np.where(known, curve.log_error, 0.0)
    left = count - known
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(left > 0, (total - own) / left, curve.mean))


def _without_each_block(curve: Curve) -> Array:
    assert curve.block_log_error is not None
    return np.asarray(np.nanmean(curve.block_log_error, axis=1))


def jackknife_variance(deleted: Array) -> Array:
    """Variance of a statistic from its values with one of K parts deleted, [K, ...] -> [...]."""
    count = len(deleted)
    return np.asarray((count - 1) / count * np.sum((deleted - deleted.mean(axis=0)) ** 2, axis=0))


def _propagated(curves: Sequence[Curve], statistic: Statistic) -> Array:
    """Sum over all points of (half the change of the statistic when the point moves by +- its standard error)^2."""
    means = [curve.mean for curve in curves]
    variance = np.zeros(np.shape(statistic([mean[None] for mean in means])[0]))
    for which, curve in enumerate(curves):
        assert curve.standard_error is not None
        moved = np.diag(curve.standard_error)  # [n, n]: one point at a time
        ends = []
        for sign in (1, -1):
            shifted = [np.repeat(mean[None], len(curve.x), axis=0) for mean in means]
            shifted[which] = shifted[which] + sign * moved
            ends.append(statistic(shifted))
        variance = variance + np.sum(((ends[0] - ends[1]) / 2) ** 2, axis=0)
    return variance
