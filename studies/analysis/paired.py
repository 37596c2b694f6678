"""At each x: which of two families has the lower error? Paired t-tests on log errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .curve import Array, Curve, Interpolation, Pair, interpolate, pair_up
from .finding import Finding, Names, name_of
from .jackknife import Spread, spread, t_quantile, t_two_sided
from .quantity import quantity

SAME_X = 0.05
"""Relative difference up to which both families count as measured at one x; budgets are matched within it."""

TEST_COLUMNS = [
    "x",
    "num_pairs",
    "measured",
    "difference",
    "log_error_first",
    "log_error_second",
    "standard_error",
    "test_standard_error",
    "degrees",
    "low",
    "high",
    "p_value",
    "p_holm",
]


@dataclass(frozen=True, kw_only=True)
class PairedTests(Finding):
    """Two families compared at every x: d(x) = ln E_first - ln E_second, below 0 where the first is better.

    Attributes:
        first: a family.
        second: the other.
        column: name of x.
        confidence: nominal coverage of `low` to `high`, per x.
        tests: a row per x: `x`; `num_pairs` (replicates); `measured` (false where one of the two was interpolated);
            `difference` d; the two mean log errors; `standard_error` and its part from the test images; `degrees`;
            `low`, `high`; `p_value` (two-sided, of d = 0; NaN where one replicate allows no test) and `p_holm`, the
            same corrected by Holm (1979) over the `num_tests` x of this pair that have a test.
    """

    first: str
    second: str
    column: str
    confidence: float
    tests: pd.DataFrame

    @property
    def num_tests(self) -> int:
        """The family of hypotheses that `p_holm` is corrected over."""
        return num_tested(self.tests)

    def better(self, *, corrected: bool = True) -> list[tuple[float, str | None]]:
        """(x, family that is significantly better there or None)."""
        p = self.tests["p_holm" if corrected else "p_value"]
        return [
            (float(x), None if not value <= 1 - self.confidence else self.first if d < 0 else self.second)
            for x, d, value in zip(self.tests["x"], self.tests["difference"], p, strict=True)
        ]

    def sentence(self, names: Names | None = None) -> str:
        """Who is significantly better where, after Holm's correction."""
        first, second = name_of(self.first, names), name_of(self.second, names)
        if self.tests["p_value"].isna().all():
            return f"{first} and {second}: without replicates no difference can be tested."
        of = quantity(self.column)
        where = {family: [x for x, winner in self.better() if winner == family] for family in (self.first, self.second)}
        parts = [
            f"{name_of(family, names)} is significantly better than {second if family == self.first else first} at "
            f"{of.axis} = {', '.join(of.number(x) for x in at)}"
            for family, at in where.items()
            if at
        ]
        if not parts:
            parts = [f"{first} and {second} differ significantly at no {of.axis}"]
        return f"{'; '.join(parts)} (paired t-tests, corrected by Holm over {of.places(self.num_tests)})."


def paired_tests(
    first: Curve, second: Curve, *, confidence: float = 0.95, interpolation: Interpolation = "linear"
) -> PairedTests:
    """Compares two curves at every x of either where both are known.

    Where both were measured, all replicates that have both at this x are used, complete rows or not; where one was not,
    it is interpolated on complete rows. Points nearer than `SAME_X` are one place.
    """
    pair = pair_up(first, second)
    rows = (
        []
        if pair is None
        else [_row(pair, first, second, at, confidence, interpolation) for at in _places(pair, first, second)]
    )
    tests = pd.DataFrame(rows, columns=TEST_COLUMNS)
    tests["p_holm"] = holm(tests["p_value"].to_numpy(float))
    return PairedTests(
        method="paired t-tests on log errors, variance by the jackknife over replicates"
        + (" and over blocks of test images" if tests["test_standard_error"].notna().any() else ""),
        used=describe(first, second, pair),
        left_out=() if pair is None else pair.left_out,
        first=first.family,
        second=second.family,
        column=first.column,
        confidence=confidence,
        tests=tests,
    )


def difference(pair: Pair, at: Array, interpolation: Interpolation) -> Spread:
    """d at ln x = `at` [m] with its variance."""

    def statistic(means: Sequence[Array]) -> Array:
        first = interpolate(pair.first.log_x, means[0], at, interpolation)
        return np.asarray(first - interpolate(pair.second.log_x, means[1], at, interpolation))

    return spread([pair.first, pair.second], statistic)


def local_pair(first: Curve, second: Curve, log_x: float) -> Pair | None:
    """All replicates that have both families at an x where both were measured; None elsewhere."""
    here = [np.isclose(curve.log_x, log_x, rtol=0, atol=1e-12) for curve in (first, second)]
    if not all(places.any() for places in here):
        return None
    return pair_up(first.restricted(first.replicates, here[0]), second.restricted(second.replicates, here[1]))


def holm(p_values: Array) -> Array:
    """Holm's step-down correction over one family of hypotheses, those that have a p-value.

    NaN, of a test that cannot be made, stays NaN and is not counted.
    """
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def num_tested(tests: pd.DataFrame) -> int:
    """How many rows have a test: the size of the family that `holm` corrects over."""
    return int(tests["p_value"].notna().sum())


def describe(first: Curve, second: Curve, pair: Pair | None) -> str:
    """The data behind a comparison, in words."""
    if pair is None:
        return f"{first.family} and {second.family} have no replicate in common at any {first.column}"
    replicates = f"{pair.first.num_replicates} replicate{'s' * (pair.first.num_replicates != 1)}"
    low, high = np.exp(pair.nodes[[0, -1]]) if len(pair.nodes) else (np.nan, np.nan)
    of = first.quantity
    return (
        f"{first.family} and {second.family}, {len(pair.nodes)} values of {first.column} from {of.number(low)} to "
        f"{of.number(high)}, {replicates} of both"
    )


def _places(pair: Pair, first: Curve, second: Curve) -> Array:
    """ln x to compare at: every x that both families have, and points of either within the range of both.

    Points of the two families nearer than `SAME_X` are one place, in their middle: budgets that are equal within it
    must not count twice in a correction over places.
    """
    both = np.intersect1d(first.log_x, second.log_x)
    both = both[[_were_both_measured(first, second, float(at)) for at in both]] if len(both) else both
    low, high = pair.log_range
    others = [at for at in pair.nodes if low <= at <= high and not np.isin(at, both)]
    groups: list[list[float]] = []
    for at in sorted([*both.tolist(), *others]):
        if groups and at - groups[-1][0] <= np.log1p(SAME_X):
            groups[-1].append(at)
        else:
            groups.append([at])
    places = []
    for group in groups:
        exact = [at for at in group if at in both]
        places += exact or [float(np.clip(np.mean(group), low, high))]
    return np.array(places)


def _were_both_measured(first: Curve, second: Curve, log_x: float) -> bool:
    """Whether any replicate has both families at an x that both have."""
    common = first.replicates
    if second.replicates != common:
        common = tuple(name for name in common if name in {*second.replicates})
    known = [
        ~np.isnan(curve.log_error[curve.rows_of(common)][:, curve.log_x == log_x]).any(axis=1)
        for curve in (first, second)
    ]
    return bool((known[0] & known[1]).any())


def _row(
    pair: Pair, first: Curve, second: Curve, at: float, confidence: float, interpolation: Interpolation
) -> dict[str, float | bool]:
    here, kind = local_pair(first, second, at) or pair, interpolation
    spread_here = difference(here, np.array([at]), kind)
    d, se = float(spread_here.value[0]), float(spread_here.standard_error[0])
    half = t_quantile(0.5 + confidence / 2, spread_here.degrees) * se
    nearest = [float(np.min(np.abs(curve.log_x - at))) for curve in (here.first, here.second)]
    return {
        "x": float(np.exp(at)),
        "num_pairs": here.first.num_replicates,
        "measured": max(nearest) <= np.log1p(SAME_X),
        "difference": d,
        "log_error_first": float(interpolate(here.first.log_x, here.first.mean, np.array([at]), kind)[0]),
        "log_error_second": float(interpolate(here.second.log_x, here.second.mean, np.array([at]), kind)[0]),
        "standard_error": se,
        "test_standard_error": float(spread_here.test_standard_error[0]),
        "degrees": spread_here.degrees,
        "low": d - half,
        "high": d + half,
        "p_value": float(t_two_sided(np.array(d), np.array(se), spread_here.degrees)),
        "p_holm": np.nan,
    }
