"""Data curves and where they cross, read off the table of records.

Pure functions from a table to a table. They need the columns `arm`, `num_train`, `replicate`, `cell_id`, `status`,
`reason`, `branch`, `selected`, `test_error` and `num_test` (`studies.records.COLUMNS`), and nothing that trains.

What is here is descriptive: per size a mean with a t-interval, per size a paired difference of log errors with its
interval, and the places where the interpolated difference changes sign. `Crossing.decision` applies the rule of
PROTOCOL 6 to these differences; an interval for the crossing itself is an addition that starts from
`paired_differences`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from studies.records import selected_rows

Rule = Literal["selected", "full_budget"]
RULES: tuple[Rule, ...] = ("selected", "full_budget")
Decision = Literal["crosses", "none below N_max", "not resolved"]

CONFIDENCE = 0.95
NUM_TEST_BLOCKS = 20  # PROTOCOL 6: delete-one of 20 blocks of test images

LEFT_OUT_COLUMNS = ["cell_id", "arm", "num_train", "replicate", "reason"]


def log_error(error: np.ndarray, num_test: np.ndarray) -> np.ndarray:
    """Natural logarithm of error rates; no error at all counts as half an error: (0 + 1/2) / (n + 1) (PROTOCOL 3).

    Args:
        error: error rates [n].
        num_test: test images behind each of them [n].
    """
    logs: np.ndarray = np.log(np.where(error > 0, error, 0.5 / (num_test + 1.0)))
    return logs


def curve_points(frame: pd.DataFrame, rule: Rule = "selected") -> pd.DataFrame:
    """One row per cell that enters the curves, with its `log_error`: finished or diverged (at chance), error known."""
    rows = selected_rows(frame, rule)
    rows = rows[rows["test_error"].notna()].reset_index(drop=True)
    error, num_test = rows["test_error"].to_numpy(float), rows["num_test"].to_numpy(float)
    return rows.assign(log_error=log_error(error, num_test))


def left_out_cells(frame: pd.DataFrame, rule: Rule = "selected") -> pd.DataFrame:
    """The cells of the table that do not enter the curves under `rule`, each with the reason why."""
    entered = set(curve_points(frame, rule)["cell_id"])
    rows = []
    for cell_id, cell in frame.groupby("cell_id", sort=False):
        if cell_id in entered:
            continue
        first = cell.iloc[0]
        if first["status"] not in ("finished", "diverged"):
            text = first["reason"] if isinstance(first["reason"], str) else ""
            reason = f"{first['status']}: {text}" if text else str(first["status"])
        elif rule == "full_budget" and not (cell["branch"] == 1.0).any():
            reason = "no branch at the full budget"
        else:
            reason = "no test error for the branch this rule reads"
        rows.append([cell_id, first["arm"], first["num_train"], first["replicate"], reason])
    return pd.DataFrame(rows, columns=LEFT_OUT_COLUMNS)


def data_curves(frame: pd.DataFrame, rule: Rule = "selected", *, confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Test error per arm and size, over replicates.

    Args:
        frame: the table of records, one row per cell and branch.
        rule: `selected` reads the branch chosen on validation, `full_budget` the branch at exactly C (PROTOCOL 3).
        confidence: coverage of the t-intervals.

    Returns:
        Rows sorted by arm and size with `arm`, `family`, `num_train`, `num_replicates`, `mean`, `std`,
        `standard_error` and `half_width` (t-interval of the mean is mean +- half_width), `geometric_mean` with `low`
        and `high` (t-interval of the mean log error, exponentiated), `log_std`, `min`, `max`, `num_diverged`. One
        replicate has no spread: NaN there. Cells that do not enter are in `left_out_cells`.
    """
    rows = []
    for (arm, _), cells in curve_points(frame, rule).groupby(["arm", "num_train"], sort=True):
        error, log = cells["test_error"].to_numpy(float), cells["log_error"].to_numpy(float)
        count = len(error)
        std = float(np.std(error, ddof=1)) if count > 1 else math.nan
        log_std = float(np.std(log, ddof=1)) if count > 1 else math.nan
        quantile = _t_quantile(0.5 + confidence / 2, count - 1)
        log_half_width = quantile * log_std / math.sqrt(count)
        rows.append(
            {
                "arm": arm,
                "family": cells["family"].iloc[0],
                "num_train": int(cells["num_train"].iloc[0]),
                "num_replicates": count,
                "mean": float(error.mean()),
                "std": std,
                "standard_error": std / math.sqrt(count),
                "half_width": quantile * std / math.sqrt(count),
                "geometric_mean": math.exp(log.mean()),
                "low": math.exp(log.mean() - log_half_width),
                "high": math.exp(log.mean() + log_half_width),
                "log_std": log_std,
                "min": float(error.min()),
                "max": float(error.max()),
                "num_diverged": int(cells["diverged"].astype(bool).sum()),
            }
        )
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


CURVE_COLUMNS = [
    "arm",
    "family",
    "num_train",
    "num_replicates",
    "mean",
    "std",
    "standard_error",
    "half_width",
    "geometric_mean",
    "low",
    "high",
    "log_std",
    "min",
    "max",
    "num_diverged",
]


@dataclass(frozen=True)
class SignChange:
    """A place where the interpolated difference of mean log errors changes sign."""

    num_train: float
    error: float  # geometric mean error of the two arms there
    better_below: str  # arm with the lower error at smaller sizes
    better_above: str


@dataclass(frozen=True)
class Crossing:
    """Two data curves compared: d(N) = ln E_a - ln E_b per size, its sign changes, and what may be said.

    Attributes:
        arm_a: first arm; d < 0 where it has the lower error.
        arm_b: second arm.
        rule: which branch of each cell was read.
        differences: the table of `paired_differences`.
        sign_changes: in order of size; a description, not a test.
        decision: PROTOCOL 6. `crosses`: d significantly below 0 at one size and above 0 at another (two-sided
            intervals); `none below N_max`: one-sided evidence of the same sign at every size; else `not resolved`.
        shared_test: all replicates were tested on the same images, so that their spread alone understates the
            uncertainty.
        test_variance: the variance from the choice of test images was added.
    """

    arm_a: str
    arm_b: str
    rule: Rule
    differences: pd.DataFrame
    sign_changes: tuple[SignChange, ...]
    decision: Decision
    shared_test: bool
    test_variance: bool


def observed_crossing(
    frame: pd.DataFrame,
    arm_a: str,
    arm_b: str,
    *,
    rule: Rule = "selected",
    confidence: float = CONFIDENCE,
    blocks: Mapping[str, np.ndarray] | None = None,
) -> Crossing:
    """Compares the data curves of two arms, paired by replicate.

    Args:
        frame: the table of records.
        arm_a: first arm.
        arm_b: second arm.
        rule: which branch of each cell is read.
        confidence: coverage of the intervals per size.
        blocks: `block_counts` per cell id. Used where the test set is shared by all replicates; left out, the
            intervals hold for this test set only, and `Crossing.test_variance` says so.

    Raises:
        ValueError: an arm is not in the table.
    """
    for arm in (arm_a, arm_b):
        if arm not in set(frame["arm"]):
            raise ValueError(f"arm {arm!r} is not in the table: expected one of {sorted(set(frame['arm']))}")
    points = curve_points(frame, rule)
    points = points[points["arm"].isin([arm_a, arm_b])]
    shared = _test_set_is_shared(points)
    used = blocks if shared and blocks is not None and set(points["cell_id"]) <= set(blocks) else None
    differences = paired_differences(points, arm_a, arm_b, confidence=confidence, blocks=used)
    decision = decide(differences, confidence=confidence)
    if decision == "none below N_max" and set(frame["num_train"]) > set(differences["num_train"]):
        decision = "not resolved"  # a size where the two were not compared may hide a crossing
    return Crossing(
        arm_a=arm_a,
        arm_b=arm_b,
        rule=rule,
        differences=differences,
        sign_changes=sign_changes(differences, arm_a, arm_b),
        decision=decision,
        shared_test=shared,
        test_variance=used is not None,
    )


def paired_differences(
    points: pd.DataFrame,
    arm_a: str,
    arm_b: str,
    *,
    confidence: float = CONFIDENCE,
    blocks: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Per size, d = mean over replicates of ln E_a - ln E_b with its interval.

    The standard error is that of the paired differences over replicates, which at a fixed size equals the
    delete-one-replicate jackknife; with `blocks` the delete-one-block jackknife variance over test images is added.
    Both use t with one degree of freedom fewer than replicates.

    Returns:
        `num_train`, `num_pairs`, `difference`, `log_error_a`, `log_error_b` (means over the pairs), `standard_error`,
        `test_standard_error` (its part from the test images; NaN where not counted), `low`, `high`.
    """
    rows = []
    for _, cells in points.groupby("num_train", sort=True):
        pairs = cells[cells["arm"] == arm_a].merge(
            cells[cells["arm"] == arm_b], on="replicate", suffixes=("_a", "_b"), validate="one_to_one"
        )
        count = len(pairs)
        if count == 0:
            continue
        log_a, log_b = pairs["log_error_a"].to_numpy(float), pairs["log_error_b"].to_numpy(float)
        difference = log_a - log_b
        variance = float(np.var(difference, ddof=1)) / count if count > 1 else math.nan
        test_variance = math.nan
        if blocks is not None:
            test_variance = _block_jackknife_variance(
                np.stack([blocks[cell] for cell in pairs["cell_id_a"]]),
                np.stack([blocks[cell] for cell in pairs["cell_id_b"]]),
            )
            variance += test_variance
        standard_error = math.sqrt(variance)
        half_width = _t_quantile(0.5 + confidence / 2, count - 1) * standard_error
        center = float(difference.mean())
        rows.append(
            {
                "num_train": int(cells["num_train"].iloc[0]),
                "num_pairs": count,
                "difference": center,
                "log_error_a": float(log_a.mean()),
                "log_error_b": float(log_b.mean()),
                "standard_error": standard_error,
                "test_standard_error": math.sqrt(test_variance),
                "low": center - half_width,
                "high": center + half_width,
            }
        )
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


DIFFERENCE_COLUMNS = [
    "num_train",
    "num_pairs",
    "difference",
    "log_error_a",
    "log_error_b",
    "standard_error",
    "test_standard_error",
    "low",
    "high",
]


def sign_changes(differences: pd.DataFrame, arm_a: str, arm_b: str) -> tuple[SignChange, ...]:
    """Roots of d(N), interpolated linearly in log N between neighbouring sizes of opposite sign.

    Sizes where d is exactly zero are the root itself (their geometric middle if there are several) when d changes
    sign there.
    """
    log_size = np.log(differences["num_train"].to_numpy(float))
    difference = differences["difference"].to_numpy(float)
    log_error = (differences["log_error_a"].to_numpy(float) + differences["log_error_b"].to_numpy(float)) / 2
    signed = np.flatnonzero(difference != 0)
    changes = []
    for left, right in itertools.pairwise(signed):
        if difference[left] * difference[right] > 0:
            continue
        if right == left + 1:
            weight = difference[left] / (difference[left] - difference[right])
            position = log_size[left] + weight * (log_size[right] - log_size[left])
        else:
            position = (log_size[left + 1] + log_size[right - 1]) / 2
        below, above = (arm_a, arm_b) if difference[left] < 0 else (arm_b, arm_a)
        error = math.exp(float(np.interp(position, log_size, log_error)))
        changes.append(SignChange(math.exp(position), error, better_below=below, better_above=above))
    return tuple(changes)


def decide(differences: pd.DataFrame, *, confidence: float = CONFIDENCE) -> Decision:
    """The rule of PROTOCOL 6 on per-size differences. One replicate at some size can resolve nothing there."""
    if differences.empty:
        return "not resolved"
    if (differences["high"] < 0).any() and (differences["low"] > 0).any():
        return "crosses"
    quantile = np.array([_t_quantile(confidence, count - 1) for count in differences["num_pairs"].to_numpy(int)])
    bound = quantile * differences["standard_error"].to_numpy(float)
    difference = differences["difference"].to_numpy(float)
    if (difference + bound < 0).all() or (difference - bound > 0).all():
        return "none below N_max"
    return "not resolved"


def block_counts(
    predictions: Mapping[str, np.ndarray], branch: float, *, num_blocks: int = NUM_TEST_BLOCKS
) -> np.ndarray:
    """Errors and images per block of test images, from the arrays of `studies.records.read_predictions`.

    Image i belongs to block i mod `num_blocks`, so that a test set sorted by class still gives blocks alike.

    Returns:
        int64 [num_blocks, 2]: errors, images.

    Raises:
        ValueError: the branch is not in the predictions.
    """
    rows = np.flatnonzero(np.isclose(predictions["branch"], branch))
    if len(rows) != 1:
        raise ValueError(f"branch {branch:g} is not in the predictions: they hold {predictions['branch'].tolist()}")
    wrong = predictions["predicted_class"][rows[0]] != predictions["label"]
    block = np.arange(len(wrong)) % num_blocks
    errors, images = np.bincount(block, wrong, num_blocks), np.bincount(block, minlength=num_blocks)
    return np.stack([errors, images], axis=1).astype(np.int64)


def _block_jackknife_variance(counts_a: np.ndarray, counts_b: np.ndarray) -> float:
    """Delete-one-block variance of mean ln E_a - ln E_b; counts are [replicates, blocks, 2]."""

    def mean_log_error(counts: np.ndarray) -> np.ndarray:
        kept = counts.sum(axis=1, keepdims=True) - counts  # [replicates, blocks, 2], one block deleted
        return np.asarray(log_error(kept[..., 0] / kept[..., 1], kept[..., 1]).mean(axis=0))

    deleted = mean_log_error(counts_a) - mean_log_error(counts_b)
    num_blocks = len(deleted)
    return float((num_blocks - 1) / num_blocks * np.sum((deleted - deleted.mean()) ** 2))


def _test_set_is_shared(points: pd.DataFrame) -> bool:
    return points["replicate"].nunique() > 1 and points["test_checksum"].nunique() == 1


def _t_quantile(probability: float, degrees: int) -> float:
    return float(stats.t.ppf(probability, degrees)) if degrees > 0 else math.nan
