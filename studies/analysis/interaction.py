"""What belongs to the prior: the difference of two families, with and without the structure that the prior assumes.

Families differ in more than their prior (norm, optimisability, parameters). Permuting all pixels takes the spatial
structure away and leaves the rest: D(x) = d(x) unpermuted - d(x) permuted, with d = ln E_first - ln E_second, is the
part of the difference that rests on the structure (PROTOCOL 1 and 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from studies.counts import counted

from .contrast import contrast_at
from .curve import Curve
from .finding import Finding, LeftOut, Names, name_of
from .fit_points import NEAR_CHANCE
from .paired import holm, num_tested
from .quantity import quantity

COLUMNS = [
    "x",
    "num_replicates",
    "unpermuted",
    "permuted",
    "difference",
    "standard_error",
    "low",
    "high",
    "p_value",
    "p_holm",
    "near_chance",
]


@dataclass(frozen=True, kw_only=True)
class DifferenceOfDifferences(Finding):
    """D(x) per x; below 0 where structure helps the first family more than the second.

    Attributes:
        first: a family, the one with the prior in question.
        second: the other.
        column: name of x.
        confidence: nominal coverage of `low` to `high`, per x.
        tests: a row per x: `unpermuted` and `permuted` d, their `difference` D, `standard_error`, `low`, `high`,
            `p_value` (two-sided t; NaN where one replicate allows no test), `p_holm`, and `near_chance`: one of the
            four errors has little room left to rise, and D is no measure of who lost more: nothing is claimed there.
        num_tests: the family of hypotheses that `p_holm` is corrected over: one at every x that has a test.
        num_pairs: pairs with a test whose hypotheses are counted among them.
    """

    first: str
    second: str
    column: str
    confidence: float
    tests: pd.DataFrame
    num_tests: int
    num_pairs: int = 1

    def sentence(self, names: Names | None = None) -> str:
        """Where the structure of images helps which family."""
        first, second, of = name_of(self.first, names), name_of(self.second, names), quantity(self.column)
        if self.tests.empty:
            return f"{first} and {second}: no size has both families with and without permuted pixels."
        if self.tests["p_value"].isna().all():
            return f"{first} and {second}: without replicates the difference of differences cannot be tested."
        told = self.tests[~self.tests["near_chance"].astype(bool)]
        at_chance = ", ".join(of.number(x) for x in self.tests.loc[self.tests["near_chance"].astype(bool), "x"])
        not_told = f" Not told at {of.axis} = {at_chance}: at chance." if at_chance else ""
        if told.empty:
            return f"Which of {first} and {second} the structure of the images helps more cannot be told: at chance."
        surely = told[told["p_holm"] <= 1 - self.confidence]
        parts = []
        for family, rows in ((first, surely[surely["difference"] < 0]), (second, surely[surely["difference"] > 0])):
            if len(rows):
                at = ", ".join(
                    f"{of.number(row['x'])} (error ratio × {np.exp(-abs(row['difference'])):.2f})"
                    for row in rows.to_dict("records")
                )
                parts.append(f"the structure of the images helps {family} more at {of.axis} = {at}")
        if not parts:
            return (
                f"At no size does the structure of the images help one of {first} and {second} significantly more than "
                f"the other.{not_told}"
            )
        family = of.places(self.num_tests)
        if self.num_pairs > 1:
            family = f"{counted(self.num_tests, 'test')} of {counted(self.num_pairs, 'pair')}"
        tested = f"paired t-tests, corrected by Holm over {family}"
        return f"Compared with permuted pixels, {'; '.join(parts)} ({tested}).{not_told}"


def difference_of_differences(
    first: Curve,
    second: Curve,
    first_permuted: Curve,
    second_permuted: Curve,
    *,
    confidence: float = 0.95,
    chance: float | None = None,
) -> DifferenceOfDifferences:
    """D(x) at every x that all four curves have, paired by replicate.

    Args:
        chance: error of guessing; above 0.8 of it nothing is claimed. None: not known.
    """
    curves = [first, second, first_permuted, second_permuted]
    sizes = sorted(set.intersection(*(set(curve.x.tolist()) for curve in curves)))
    left_out = tuple(
        LeftOut(f"{first.column}={x:g}", "not measured for both families with and without permuted pixels")
        for x in sorted(set.union(*(set(curve.x.tolist()) for curve in curves)) - set(sizes))
    )
    rows = [row for x in sizes if (row := _row(curves, x, confidence, chance)) is not None]
    tests = pd.DataFrame(rows, columns=COLUMNS)
    tests["p_holm"] = holm(tests["p_value"].to_numpy(float))
    return DifferenceOfDifferences(
        method="paired t-tests of the difference of log-error differences, jackknife over replicates and, where they "
        "are shared, blocks of test images",
        used=f"{first.family} and {second.family}, {len(rows)} values of {first.column}",
        left_out=left_out,
        first=first.family,
        second=second.family,
        column=first.column,
        confidence=confidence,
        tests=tests,
        num_tests=num_tested(tests),
    )


def corrected_over_pairs(several: Sequence[DifferenceOfDifferences]) -> tuple[DifferenceOfDifferences, ...]:
    """The same with all tests of all pairs as one family, for pairs that were not declared (PROTOCOL 6)."""
    if not several:
        return ()
    p_values = [one.tests["p_value"].to_numpy(float) for one in several]
    parts = np.split(holm(np.concatenate(p_values)), np.cumsum([len(p) for p in p_values])[:-1])
    num_tests, num_pairs = sum(one.num_tests for one in several), sum(one.num_tests > 0 for one in several)
    return tuple(
        replace(one, tests=one.tests.assign(p_holm=part), num_tests=num_tests, num_pairs=num_pairs)
        for one, part in zip(several, parts, strict=True)
    )


def _row(curves: Sequence[Curve], x: float, confidence: float, chance: float | None) -> dict[str, float] | None:
    found = contrast_at(x, curves, lambda means: (means[0] - means[1]) - (means[2] - means[3]), confidence)
    if found is None:
        return None
    first, second, first_permuted, second_permuted = found.log_errors
    return {
        **found.row("difference"),
        "unpermuted": first - second,
        "permuted": first_permuted - second_permuted,
        "near_chance": chance is not None and np.exp(max(found.log_errors)) > NEAR_CHANCE * chance,
    }
