"""The ladder of permutations: what an architecture loses with each part of the structure of images (PROTOCOL 9).

Every arm is trained again on images whose pixels are permuted, in the same way in all of them, at three scopes: within
patches, whole patches, all pixels. What is lost is the change of the log error against the same arm on images as they
are, paired by replicate. A network is indifferent to a permutation that its first layer can undo: a fully connected one
to all three, a ViT with learned positions and an MLP-Mixer to the first two, a convolutional one to none. Two arms are
compared by the difference of their changes, which is the difference of differences of `studies.analysis.interaction`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from studies.protocol import Permutation

from .curve import Curve
from .finding import Finding, LeftOut, Names, name_of, plain
from .interaction import DifferenceOfDifferences, difference_of_differences
from .jackknife import spread, t_quantile, t_two_sided
from .of_records import BRANCH_COLUMNS, Rule, curve_points, records_table
from .paired import holm
from .quantity import Quantity, quantity
from .table import CurveTable

REFERENCE = "none"
"""The rung that the others are compared with."""

SCOPES: Mapping[str, str] = {
    "within_patch": "pixels permuted within patches",
    "patches": "patches permuted",
    "pixels": "all pixels permuted",
}
"""What a rung does to images, in words that follow `with`."""

NEAR_CHANCE = 0.8
"""Of chance: from here on an error has little room left to rise (the same as in PROTOCOL 6)."""

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
            `p_holm`, corrected over all rungs and x of the arm.
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
        num_tests = int(self.tests["p_value"].notna().sum())
        tail = f"paired t, Holm over {num_tests}" if num_tests else "no test without replicates"
        return f"{name} makes this many times its errors on images as they are ({tail}): {'; '.join(told)}."


@dataclass(frozen=True, kw_only=True)
class RungDifference(DifferenceOfDifferences):
    """D(x) at one rung: how much more it costs the second arm than the first; below 0 where it costs the first more.

    Attributes:
        tests: as of `DifferenceOfDifferences`, and `near_chance`: one of the four errors has little room left to rise.
            The factor of such an arm is smaller than what it lost, so that factors are no measure of who lost more:
            nothing is claimed there, and `p_holm` is NaN.
        rung: the permutation that `permuted` in `tests` stands for.
        num_tests: over which `p_holm` is corrected: the tests made at all rungs and x of the pair.
        lacking: arms of the pair and rungs that nothing was measured at, for want of which `tests` is empty.
    """

    rung: str
    num_tests: int
    lacking: tuple[tuple[str, str], ...] = ()

    def sentence(self, names: Names | None = None) -> str:
        """Whose errors the permutation multiplies more, and by how much more."""
        first, second, of = name_of(self.first, names), name_of(self.second, names), quantity(self.column)
        where = SCOPES[self.rung]
        if self.tests.empty:
            return f"With {where}, {first} and {second} cannot be compared: {self._why_empty(names)}."
        at_chance = self.tests["near_chance"].astype(bool)
        untested = ~at_chance & self.tests["p_value"].isna()
        if untested.all():
            return f"With {where}, {first} and {second}: without replicates the two changes cannot be compared."
        untold = []
        if at_chance.any():
            untold.append(f"not told: at chance at {_values(of, self.tests.loc[at_chance, 'x'])}")
        if untested.any():
            untold.append(f"not tested for want of common replicates: {_values(of, self.tests.loc[untested, 'x'])}")
        if (at_chance | untested).all():
            return f"With {where}, which of {first} and {second} loses more is {'; '.join(untold)}."
        claims = self._claims(first, second)
        told = f"{'; '.join(claims)} (ratio of the factors; paired t, Holm over {self.num_tests})"
        if not claims:
            told = f"that the errors of {first} and {second} change by other factors is significant at no size (Holm " \
                f"over {self.num_tests})"  # fmt: skip
        return f"With {where}, {'; '.join([told, *untold])}."

    def _claims(self, first: str, second: str) -> list[str]:
        """Whose errors are significantly multiplied by more, and where."""
        of = quantity(self.column)
        surely = self.tests[self.tests["p_holm"] <= 1 - self.confidence]
        parts = []
        for more, less, sign in ((first, second, -1), (second, first, 1)):
            rows = surely[np.sign(surely["difference"]) == sign]
            if rows.empty:
                continue
            at = ", ".join(
                f"{_factor(sign * row['difference'], *sorted((sign * row['low'], sign * row['high'])))} at "
                f"{of.value(row['x'])}"
                for row in rows.to_dict("records")
            )
            parts.append(f"the errors of {more} are multiplied by more than those of {less}: {at}")
        return parts

    def _why_empty(self, names: Names | None) -> str:
        absent = [f"{name_of(arm, names)} {_images(rung)}" for arm, rung in self.lacking]
        if absent:
            return f"no finished cell of {' and '.join(absent)}"
        return "no replicate of any size has both arms with and without the permutation"


@dataclass(frozen=True)
class Ladder:
    """What every arm loses at every rung.

    Attributes:
        rungs: above the unpermuted one, from the mildest.
        column: name of x.
        confidence: nominal coverage of the intervals.
        errors: a row per arm, rung and x: `arm`, `rung` (with `none`), `x`, `num_replicates`, arithmetic `mean` error
            and `half_width` of its t-interval (NaN with one replicate), and `near_chance`.
        changes: of every arm that was measured at all; without tests where images as they are are missing.
        differences: of the declared pair, one per rung; empty where no pair is declared.
        left_out: arms, rungs and x that nothing was measured at, or no replicate as on images as they are.
    """

    rungs: tuple[str, ...]
    column: str
    confidence: float
    errors: pd.DataFrame
    changes: tuple[PermutationChange, ...]
    differences: tuple[RungDifference, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every answer, the difference of differences first."""
        return (*self.differences, *self.changes)

    @property
    def at_chance(self) -> pd.DataFrame:
        """The permuted rows of `errors` that have little room left to rise."""
        rows = self.errors[self.errors["near_chance"] & (self.errors["rung"] != REFERENCE)]
        return rows.reset_index(drop=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rungs": list(self.rungs),
            "column": self.column,
            "confidence": self.confidence,
            "errors": plain(self.errors),
            "findings": plain(self.findings),
            "left_out": [str(item) for item in self.left_out],
        }


def unpermuted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that curves are of: where some images are permuted and others not, those of images as they are."""
    if "permutation" not in frame or frame["permutation"].nunique() < 2:
        return frame
    return frame[frame["permutation"] == REFERENCE].reset_index(drop=True)


def permutation_ladder(
    frame: pd.DataFrame,
    *,
    pair: tuple[str, str] | None = None,
    x: str = "num_train",
    rule: Rule = "selected",
    blocks: Mapping[Hashable, np.ndarray] | None = None,
    chance: float | None = None,
    confidence: float = 0.95,
) -> Ladder | None:
    """The ladder of a table of records; None where not both permuted and unpermuted images were trained on.

    Args:
        frame: `studies.records.records_frame`.
        pair: the arms whose changes are compared, the stronger prior first.
        x: what the curves run over.
        rule: which branch of each cell is read.
        blocks: `studies.analysis.study.read_blocks`.
        chance: error of guessing, where known.
        confidence: nominal coverage of all intervals; claims are made at 1 - confidence.
    """
    if "permutation" not in frame:
        return None
    found = set(frame["permutation"])
    rungs = tuple(str(rung) for rung in get_args(Permutation) if rung in found and rung != REFERENCE)
    if REFERENCE not in found or not rungs:
        return None
    tables = {
        rung: records_table(frame[frame["permutation"] == rung], rule=rule, x=x, blocks=blocks)
        for rung in (REFERENCE, *rungs)
    }
    errors = _errors(frame, rungs, x, rule, chance, confidence)
    measured = dict.fromkeys(arm for table in tables.values() for arm in table.curves)
    changes = tuple(_change_of(arm, tables, x, confidence) for arm in measured)
    return Ladder(
        rungs=rungs,
        column=x,
        confidence=confidence,
        errors=errors,
        changes=changes,
        differences=() if pair is None else _differences(pair, tables, x, errors, confidence),
        left_out=(*_unmeasured(frame, tables, x), *(item for one in changes for item in one.left_out)),
    )


def _unmeasured(frame: pd.DataFrame, tables: Mapping[str, CurveTable], column: str) -> list[LeftOut]:
    """Arms, rungs and x without a point; over images, every arm is trained on every number of them."""
    of, sizes, found = quantity(column), frame[frame[column] > 0], []
    if column in BRANCH_COLUMNS:  # budgets are no grid: each arm and rung has its own
        sizes = sizes[:0]
    for rung, table in tables.items():
        for arm in dict.fromkeys(frame["arm"]):
            if arm not in table.curves:
                found.append(LeftOut(f"{arm} {_images(rung)}", "no finished cell"))
                continue
            own = sizes if of.counts_images else sizes[sizes["arm"] == arm]
            lacking = sorted(set(own[column].astype(float)) - set(table.curves[arm].x.tolist()))
            if lacking:
                found.append(LeftOut(f"{arm} at {_values(of, lacking)} {_images(rung)}", "no finished cell"))
    return found


def _curve_of(arm: str, table: CurveTable, column: str) -> Curve:
    """The curve of an arm; one without points where nothing was measured."""
    nothing = Curve(arm, column, np.empty(0), np.empty((0, 0)), ())
    return table.curves.get(arm, nothing)


def _change_of(arm: str, tables: Mapping[str, CurveTable], column: str, confidence: float) -> PermutationChange:
    plain_curve = _curve_of(arm, tables[REFERENCE], column)
    rows, left_out = [], []
    for rung, table in tables.items():
        if rung == REFERENCE:
            continue
        permuted = _curve_of(arm, table, column)
        for x in sorted(set(plain_curve.x.tolist()) & set(permuted.x.tolist())):
            if (row := _change_at(x, plain_curve, permuted, confidence)) is not None:
                rows.append({"rung": rung, **row})
                continue
            what = f"{arm} at {quantity(column).value(x)} {_images(rung)}"
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
    here = [curve.restricted(curve.replicates, curve.x == x) for curve in (permuted, plain_curve)]
    known = [
        {name for name, value in zip(curve.replicates, curve.log_error[:, 0], strict=True) if not np.isnan(value)}
        for curve in here
    ]
    common = tuple(name for name in here[0].replicates if name in known[0] & known[1])
    if not common:
        return None
    here = [curve.restricted(common, np.array([True])) for curve in here]
    result = spread(here, lambda means: np.asarray(means[0] - means[1])[:, 0])
    estimate = result.estimate(confidence)
    return {
        "x": x,
        "num_replicates": len(common),
        "unpermuted": float(np.exp(here[1].mean[0])),
        "permuted": float(np.exp(here[0].mean[0])),
        "change": estimate.value,
        "standard_error": float(result.standard_error),
        "low": estimate.low,
        "high": estimate.high,
        "p_value": float(t_two_sided(result.value, result.standard_error, result.degrees)),
        "p_holm": math.nan,
    }


def _differences(
    pair: tuple[str, str], tables: Mapping[str, CurveTable], column: str, errors: pd.DataFrame, confidence: float
) -> tuple[RungDifference, ...]:
    """The difference of differences at every rung, corrected over all rungs and x; none is claimed at chance."""
    made = {
        rung: difference_of_differences(
            *(_curve_of(arm, tables[of], column) for of in (REFERENCE, rung) for arm in pair), confidence=confidence
        )
        for rung in tables
        if rung != REFERENCE
    }
    full = errors[errors["near_chance"]]
    at_chance = set(zip(full["arm"], full["rung"], full["x"], strict=True))
    p_values = np.concatenate([one.tests["p_value"].to_numpy(float) for one in made.values()])
    corrected = np.split(holm(p_values), np.cumsum([len(one.tests) for one in made.values()])[:-1])
    num_tests = int(np.sum(~np.isnan(p_values)))
    found = []
    for (rung, one), p_holm in zip(made.items(), corrected, strict=True):
        errors_of = [(arm, of) for of in (REFERENCE, rung) for arm in pair]
        full_at = [any((*of, x) in at_chance for of in errors_of) for x in one.tests["x"]]
        near_chance = np.array(full_at, dtype=bool)
        values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
        values["tests"] = one.tests.assign(p_holm=np.where(near_chance, np.nan, p_holm), near_chance=near_chance)
        lacking = tuple((arm, of) for arm, of in errors_of if arm not in tables[of].curves)
        found.append(RungDifference(**values, rung=rung, num_tests=num_tests, lacking=lacking))
    return tuple(found)


def _errors(
    frame: pd.DataFrame, rungs: tuple[str, ...], x: str, rule: Rule, chance: float | None, confidence: float
) -> pd.DataFrame:
    points = curve_points(frame, rule)
    order = {rung: place for place, rung in enumerate((REFERENCE, *rungs))}
    rows = []
    for (arm, rung, size), cells in points.groupby(["arm", "permutation", x], sort=True):
        error = cells["test_error"].to_numpy(float)
        count = len(error)
        std = float(np.std(error, ddof=1)) if count > 1 else math.nan
        rows.append(
            {
                "arm": arm,
                "rung": rung,
                "x": float(str(size)),
                "num_replicates": count,
                "mean": float(error.mean()),
                "half_width": t_quantile(0.5 + confidence / 2, count - 1) * std / math.sqrt(count),
                "near_chance": chance is not None and bool(error.mean() > NEAR_CHANCE * chance),
            }
        )
    columns = ["arm", "rung", "x", "num_replicates", "mean", "half_width", "near_chance"]
    errors = pd.DataFrame(rows, columns=columns).astype({"near_chance": bool})
    return errors.sort_values(["arm", "x", "rung"], key=lambda of: of.map(order) if of.name == "rung" else of,
                              kind="stable", ignore_index=True)  # fmt: skip


def _factor_at_rung(row: Mapping[Hashable, Any], confidence: float) -> str:
    """`3.12 (2.20 to 4.43) with patches permuted`, and whether that is no significant change or was not tested."""
    doubt = "" if row["p_holm"] <= 1 - confidence else " (not significant)"
    if math.isnan(row["p_value"]):
        doubt = " (no test)"
    return f"{_factor(row['change'], row['low'], row['high'])} with {SCOPES[row['rung']]}{doubt}"


def _images(rung: str) -> str:
    return "on images as they are" if rung == REFERENCE else f"with {SCOPES[rung]}"


def _values(of: Quantity, several: Iterable[float]) -> str:
    """`128, 512 images`."""
    return f"{', '.join(of.number(x) for x in several)} {of.unit}"


def _factor(change: float, low: float, high: float) -> str:
    text = f"{np.exp(change):.2f}"
    return text if math.isnan(low) else f"{text} ({_bound(low)} to {_bound(high)})"


def _bound(end: float) -> str:
    """An end of an interval of a factor; with few replicates it can be far away."""
    if end > math.log(1000):
        return "more than 1,000"
    return f"{np.exp(end):.2f}" if end > math.log(0.005) else "less than 0.01"
