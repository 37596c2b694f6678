"""From anybody's table to measured curves: one row per family, x and replicate, with an error.

Nothing is dropped silently: what cannot be used is named in `CurveTable.left_out` with its reason, and what would make
every answer wrong is refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from studies.errors import ConfigError

from .curve import Array, Curve
from .finding import LeftOut
from .traits import Traits
from .values import labels, numbers, refuse, refuse_repeated

MAX_REPLICATES = 1000
"""Of one family; intervals refit every curve without each replicate, which takes many minutes from here on."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what.

    Attributes:
        x: what the error is measured against; positive numbers.
        family: what is compared.
        error: test error, or any other positive loss.
        replicate: which rows of different families and x belong together; without it a family has one row per x.
        num_test: test images behind the error; needed where an error is exactly zero.
        standard_error: of the error, in its own units; used without replicates.
        point: rows of a family with one value here are one point of its curve, at the geometric mean of their x. For an
            x that was measured and therefore differs between replicates, such as seconds.
        block_key: names the row's errors per block of test images.
    """

    x: str = "num_train"
    family: str = "family"
    error: str = "error"
    replicate: str = "replicate"
    num_test: str = "num_test"
    standard_error: str = "standard_error"
    point: str | None = None
    block_key: str | None = None


@dataclass(frozen=True)
class CurveTable:
    """The measured curves of a table.

    Attributes:
        columns: where they were read from.
        curves: by family, in the order of names.
        left_out: rows that are in no curve.
        notes: what a reader of the answers must know of the table.
        traits: by family what it is made of, where that is known; see `traits`.
    """

    columns: Columns
    curves: Mapping[str, Curve]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    traits: Mapping[str, Traits] = field(default_factory=dict)


def log_error(error: np.ndarray, num_test: np.ndarray) -> Array:
    """Natural logarithm of error rates; no error at all counts as half an error: (0 + 1/2) / (n + 1) (PROTOCOL 3).

    Args:
        error: error rates [...].
        num_test: test images behind each of them [...]; only read where the error is zero.
    """
    return np.asarray(np.log(np.where(error > 0, error, 0.5 / (num_test + 1.0))))


def curve_table(
    frame: pd.DataFrame,
    columns: Columns | None = None,
    *,
    blocks: Mapping[Hashable, np.ndarray] | None = None,
) -> CurveTable:
    """Reads the curves of a table.

    Args:
        frame: at least the columns of family, x and error.
        columns: their names.
        blocks: errors and images per block of test images, int64 [B, 2], by the values of `columns.block_key`. Used for
            a family whose every row has them.

    Raises:
        ConfigError: a column is missing, or a value cannot be what its column says; names row, value and what was
            expected.
    """
    names = columns or Columns()
    rows = _checked(frame, names)
    rows, left_out = _usable(rows)
    rows, repeated = _without_repeats(rows)
    _refuse_many(rows, names)
    curves = {str(family): _curve(str(family), group, names, blocks) for family, group in rows.groupby("family")}
    notes = _incomplete_standard_errors(rows, curves)
    if (rows["error"] > 1).any():
        notes.append("Some errors exceed 1: they are read as a loss, not as a rate.")
    if not len(curves):
        notes.append("No row of the table can be used.")
    return CurveTable(names, curves, (*left_out, *repeated), tuple(notes))


def _checked(frame: pd.DataFrame, names: Columns) -> pd.DataFrame:
    """The table under our own names for its columns, with numbers where numbers belong."""
    for meaning, column in (("family", names.family), ("x", names.x), ("error", names.error)):
        if column not in frame.columns:
            raise ConfigError(
                f"the table has no column {column!r} for {meaning}; it has {', '.join(map(str, frame.columns))}"
            )
    refuse_repeated([str(column) for column in frame.columns])
    frame = frame.reset_index(drop=True)
    rows = pd.DataFrame(index=frame.index)
    rows["family"] = labels(frame[names.family]).astype("string")
    for ours, theirs in (
        ("x", names.x),
        ("error", names.error),
        ("num_test", names.num_test),
        ("standard_error", names.standard_error),
    ):
        rows[ours] = numbers(frame, theirs) if theirs in frame.columns else np.nan
    rows["replicate"] = labels(frame[names.replicate]) if names.replicate in frame.columns else "0"
    rows["point"] = frame[names.point] if names.point else rows["x"]
    rows["block_key"] = frame[names.block_key] if names.block_key else None
    refuse((rows["x"] <= 0) | np.isinf(rows["x"]), rows["x"], names.x, "a positive number")
    refuse((rows["error"] < 0) | np.isinf(rows["error"]), rows["error"], names.error, "an error of at least 0")
    few = (rows["num_test"] < 1) | np.isinf(rows["num_test"])
    refuse(few, rows["num_test"], names.num_test, "the number of test images, at least 1, or nothing where not known")
    wrong = (rows["standard_error"] < 0) | np.isinf(rows["standard_error"])
    refuse(wrong, rows["standard_error"], names.standard_error, "a standard error above 0, or nothing where not known")
    if names.replicate not in frame.columns:
        counts = rows.groupby(["family", "point"]).size()
        if (counts > 1).any():
            family, point = counts.index[int((counts > 1).to_numpy().argmax())]
            raise ConfigError(
                f"{family} has {counts.max()} rows at {names.x}={point:g} and the table has no column "
                f"{names.replicate!r}: add one that says which rows of different families and sizes belong together"
            )
    return rows


def _refuse_many(rows: pd.DataFrame, names: Columns) -> None:
    counts = rows.groupby("family")["replicate"].nunique()
    if len(counts) and counts.max() > MAX_REPLICATES:
        raise ConfigError(
            f"{counts.idxmax()} has {counts.max():,} replicates in column {names.replicate!r}, and at most "
            f"{MAX_REPLICATES:,} can be analysed: intervals refit every curve without each of them. Name the column of "
            "replicates (one value per repetition of the whole measurement, not per row), or keep fewer replicates"
        )


def _stated(rows: pd.DataFrame) -> Array:
    """Standard errors of log errors per row, d ln E = dE / E; NaN where none is stated or the error is zero."""
    known = (rows["standard_error"] > 0) & (rows["error"] > 0)
    return (rows["standard_error"].where(known) / rows["error"].where(known)).to_numpy(float)


def _incomplete_standard_errors(rows: pd.DataFrame, curves: Mapping[str, Curve]) -> list[str]:
    """Says whose standard errors are stated in part and therefore not used, and which rows have none."""
    notes = []
    for family, group in rows.groupby("family"):
        known = np.isfinite(_stated(group))
        if curves[str(family)].num_replicates > 1 or known.all() or group["standard_error"].isna().all():
            continue
        lacking = ", ".join(f"{place + 1}" for place in group.index[~known][:5])
        more = "" if (~known).sum() <= 5 else f" and {int((~known).sum()) - 5} more"
        notes.append(
            f"{family} has no intervals: {int((~known).sum())} of its {len(group)} points state no standard error "
            f"above 0 of an error above 0 (rows {lacking}{more})."
        )
    return notes


def _usable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    reasons = pd.Series("", index=rows.index)
    reasons[(rows["error"] == 0) & ~(rows["num_test"] > 0)] = (
        "its error is zero and the number of test images is not known, so that its logarithm is not"
    )
    reasons[rows["error"].isna()] = "it has no error"
    reasons[rows["replicate"].isna()] = "it names no replicate"
    reasons[rows["x"].isna() | rows["point"].isna()] = "it has no x"
    reasons[rows["family"].isna()] = "it names no family"
    bad = reasons != ""
    named = zip(rows[bad].iterrows(), reasons[bad], strict=True)
    left_out = [LeftOut(_title(row), reason) for (_, row), reason in named]
    return rows[~bad], sorted(left_out, key=str)


def _without_repeats(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """One row per family, point and replicate: equal ones count once, contradicting ones not at all."""
    key = ["family", "point", "replicate"]
    repeated = rows.duplicated(key, keep=False)
    kept, left_out = [], []
    for _, group in rows[repeated].groupby(key):
        first = group.iloc[0]
        if group["error"].nunique() == 1 and group["x"].nunique() == 1:
            kept.append(group.index[0])
            left_out.append(LeftOut(_title(first), f"{len(group)} equal rows of it count once"))
        else:
            listed = ", ".join(f"{error:g}" for error in sorted(group["error"]))
            left_out.append(LeftOut(_title(first), f"its {len(group)} rows disagree (errors {listed})"))
    chosen = ~repeated | rows.index.isin(kept)
    return rows[chosen], left_out


def _title(row: pd.Series[float]) -> str:
    x = "?" if pd.isna(row["x"]) else f"{row['x']:g}"
    return f"{row['family']} at {x}, replicate {row['replicate']}"


def _curve(family: str, rows: pd.DataFrame, names: Columns, blocks: Mapping[Hashable, np.ndarray] | None) -> Curve:
    rows = rows.sort_values(["point", "replicate"], kind="stable")  # sums do not depend on the order of a file
    # One point may stand at slightly different x per replicate; points are in the order of their mean.
    x = rows.groupby("point")["x"].agg(_geometric_mean).sort_values(kind="stable")
    replicates = tuple(sorted(set(rows["replicate"]), key=_natural))
    column_of = {point: place for place, point in enumerate(x.index)}
    row_of = {name: place for place, name in enumerate(replicates)}
    at = rows["replicate"].map(row_of).to_numpy(int), rows["point"].map(column_of).to_numpy(int)
    values = np.full((len(replicates), len(x)), np.nan)
    values[at] = log_error(rows["error"].to_numpy(float), rows["num_test"].to_numpy(float))
    stated = _stated(rows)
    standard_error = None
    if len(replicates) == 1 and np.isfinite(stated).all():
        standard_error = np.full(len(x), np.nan)
        standard_error[at[1]] = stated
    block_log_error = None
    if blocks is not None and len(replicates) > 1 and all(key in blocks for key in rows["block_key"]):
        counts = np.stack([blocks[key] for key in rows["block_key"]])  # [cells, B, 2]
        kept = counts.sum(axis=1, keepdims=True) - counts  # one block deleted
        block_log_error = np.full((counts.shape[1], *values.shape), np.nan)
        block_log_error[:, at[0], at[1]] = log_error(kept[..., 0] / kept[..., 1], kept[..., 1]).T
    return Curve(family, names.x, np.asarray(x, dtype=float), values, replicates, standard_error, block_log_error)


def _geometric_mean(x: pd.Series[float]) -> float:
    return float(x.iloc[0]) if x.nunique() == 1 else float(np.exp(np.log(x).mean()))


def _natural(label: str) -> tuple[int, float, str]:
    """Sorts numbers by value before words."""
    try:
        value = float(label)
    except ValueError:
        value = np.nan
    return (0, value, label) if np.isfinite(value) else (1, 0.0, label)
