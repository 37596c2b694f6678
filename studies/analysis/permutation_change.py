"""What one architecture loses where the pixels of its images are permuted, at every rung of the ladder."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .contrast import contrast_at
from .curve import Curve
from .finding import Finding, LeftOut, Names, name_of
from .paired import holm, num_tested
from .quantity import quantity
from .rungs import REFERENCE, SCOPES, curve_of, factor_text, on_images
from .table import CurveTable

CHANGE_COLUMNS = [
    "rung",
    "x",
    "num_replicates",
    "unpermuted",
    "permuted",
    "change",
    "standard_error",
    "low",
    "high",
    "p_value",
    "p_holm",
]


@dataclass(frozen=True, kw_only=True)
class PermutationChange(Finding):
    """What one arm loses: c(x) = ln E permuted - ln E unpermuted, above 0 where the permutation costs.

    Attributes:
        family: the arm.
        column: name of x.
        confidence: nominal coverage of `low` to `high`, each by itself.
        tests: a row per rung and x: `rung`, `x`, `num_replicates` that have both; geometric mean errors `unpermuted`
            and `permuted` of these; `change` c, `standard_error`, `low`, `high`; `p_value` (two-sided t, of c = 0) and
            `p_holm`, corrected by Holm over all rungs and x of the arm that have a test.
    """

    family: str
    column: str
    confidence: float
    tests: pd.DataFrame

    def sentence(self, names: Names | None = None) -> str:
        """The factor of errors at every rung, and which of them are significant."""
        name, of = name_of(self.family, names), quantity(self.column)
        if self.tests.empty:
            return f"{name}: no size has errors both with and without a permutation."
        told = []
        for x, rows in self.tests.groupby("x", sort=True):
            factors = [_factor_at_rung(row, self.confidence) for row in rows.to_dict("records")]
            told.append(f"at {of.value(float(str(x)))}, {', '.join(factors)}")
        num_tests = num_tested(self.tests)
        tail = f"paired t, Holm over {num_tests}" if num_tests else "no test without replicates"
        return f"{name} makes this many times its errors on images as they are ({tail}): {'; '.join(told)}."


def permutation_change(arm: str, tables: Mapping[str, CurveTable], column: str, confidence: float) -> PermutationChange:
    """The change of an arm's log error at every rung and x at which it was measured with and without the permutation.

    Args:
        arm: name of the arm.
        tables: curves by rung, those of images as they are among them.
        column: name of x.
        confidence: nominal coverage of every interval.
    """
    plain_curve = curve_of(arm, tables[REFERENCE], column)
    rows, left_out = [], []
    for rung, table in tables.items():
        if rung == REFERENCE:
            continue
        permuted = curve_of(arm, table, column)
        for x in sorted(set(plain_curve.x.tolist()) & set(permuted.x.tolist())):
            if (row := _change_at(x, plain_curve, permuted, confidence)) is not None:
                rows.append({"rung": rung, **row})
                continue
            what = f"{arm} at {quantity(column).value(x)} {on_images(rung)}"
            left_out.append(LeftOut(what, "no replicate in common with images as they are"))
    tests = pd.DataFrame(rows, columns=CHANGE_COLUMNS)
    tests["p_holm"] = holm(tests["p_value"].to_numpy(float))
    return PermutationChange(
        method="paired t-tests of log errors with and without the permutation, jackknife over replicates and, where "
        "they are shared, blocks of test images",
        used=f"{arm}, {tests['rung'].nunique()} permutations, {tests['x'].nunique()} values of {column}",
        left_out=tuple(left_out),
        family=arm,
        column=column,
        confidence=confidence,
        tests=tests,
    )


def _change_at(x: float, plain_curve: Curve, permuted: Curve, confidence: float) -> dict[str, float] | None:
    found = contrast_at(x, [permuted, plain_curve], lambda means: means[0] - means[1], confidence)
    if found is None:
        return None
    of_permuted, of_plain = found.log_errors
    return {**found.row("change"), "unpermuted": float(np.exp(of_plain)), "permuted": float(np.exp(of_permuted))}


def _factor_at_rung(row: Mapping[Hashable, Any], confidence: float) -> str:
    """`3.12 (2.20 to 4.43) with patches permuted`, and whether that is no significant change or was not tested."""
    doubt = "" if row["p_holm"] <= 1 - confidence else " (not significant)"
    if math.isnan(row["p_value"]):
        doubt = " (no test)"
    return f"{factor_text(row['change'], row['low'], row['high'])} with {SCOPES[row['rung']]}{doubt}"
