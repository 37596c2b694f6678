"""A contrast of several curves at one x: a difference of their mean log errors, paired by replicate, and its t-test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .curve import Curve
from .jackknife import Statistic, spread, t_two_sided


@dataclass(frozen=True)
class Contrast:
    """What several curves differ in at one x.

    Attributes:
        x: where.
        num_replicates: that all of the curves have there.
        log_errors: mean log error of every curve over these replicates.
        value: the contrast of them.
        standard_error: of the value; NaN of a single replicate.
        low: lower end of its t-interval.
        high: upper end.
        p_value: of value = 0, two-sided t; NaN of a single replicate.
    """

    x: float
    num_replicates: int
    log_errors: tuple[float, ...]
    value: float
    standard_error: float
    low: float
    high: float
    p_value: float

    def row(self, name: str) -> dict[str, float]:
        """As a row of a table of tests, the value under `name`; `p_holm` is NaN until all rows are there."""
        return {
            "x": self.x,
            "num_replicates": self.num_replicates,
            name: self.value,
            "standard_error": self.standard_error,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "p_holm": np.nan,
        }


def contrast_at(x: float, curves: Sequence[Curve], statistic: Statistic, confidence: float) -> Contrast | None:
    """The contrast at one x over the replicates that all curves have there; None without one.

    Args:
        x: a place of every curve.
        curves: by which replicates are paired; the order of names is the first one's.
        statistic: of the mean log errors `[K, 1]` of the curves, one number each `[K, 1]`.
        confidence: nominal coverage of the interval.
    """
    here = [curve.restricted(curve.replicates, curve.x == x) for curve in curves]
    known = [
        {name for name, value in zip(curve.replicates, curve.log_error[:, 0], strict=True) if not np.isnan(value)}
        for curve in here
    ]
    common = tuple(name for name in here[0].replicates if all(name in names for names in known))
    if not common:
        return None
    here = [curve.restricted(common, np.array([True])) for curve in here]
    result = spread(here, lambda means: np.asarray(statistic(means))[:, 0])
    estimate = result.estimate(confidence)
    return Contrast(
        x=x,
        num_replicates=len(common),
        log_errors=tuple(float(curve.mean[0]) for curve in here),
        value=estimate.value,
        standard_error=float(result.standard_error),
        low=estimate.low,
        high=estimate.high,
        p_value=float(t_two_sided(result.value, result.standard_error, result.degrees)),
    )
