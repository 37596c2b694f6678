"""What is known of a table before its analysis: its curves, its control, and the question that was declared with it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from studies.errors import ConfigError

from .of_records import BRANCH_COLUMNS, records_table
from .reading import understand
from .table import CurveTable, curve_table

EXPORTED = frozenset({"cell_id", "status", "arm", "num_train", "replicate", "branch", "selected", "test_error"})
"""Columns by which the export of a study is recognised."""

CONTROL = "pixels"
"""The permutation that takes all spatial structure away."""


@dataclass(frozen=True)
class Measured:
    """Curves and what belongs to them.

    Attributes:
        table: the curves in question.
        control: the same families on images with permuted pixels, where the source has them.
        pair: the declared pair, the stronger prior first.
        chance: error of guessing, where known.
        names: what families are called in sentences.
    """

    table: CurveTable
    control: CurveTable | None = None
    pair: tuple[str, str] | None = None
    chance: float | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def measured_table(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    family: str | None = None,
    error: str | None = None,
    replicate: str | None = None,
) -> Measured:
    """The curves of anybody's table; see `reading.understand` for its columns."""
    understood = understand(frame, x=x, family=family, error=error, replicate=replicate)
    table = curve_table(understood.frame, understood.columns)
    return Measured(replace(table, notes=(*understood.notes, *table.notes, *_without_replicates(table))))


def is_export(frame: pd.DataFrame) -> bool:
    """Whether a table is what `study export` writes."""
    return set(frame.columns) >= EXPORTED


def measured_export(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    num_train: int | None = None,
    blocks: Mapping[Hashable, np.ndarray] | None = None,
    pair: tuple[str, str] | None = None,
    chance: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Measured:
    """The curves of records, as `records_frame` makes them and `study export` writes them.

    Rows with permuted pixels are the control of the others; if all are permuted in one way, they are the curves.

    Args:
        frame: a row per cell and branch.
        x: a column; `num_train` if None.
        num_train: only cells of this size; needed where x belongs to a branch, as `train_flops` does.
        blocks: `read_blocks`.
        pair: the declared pair; dropped where an arm of it has no curve.
        chance: error of guessing.
        names: what arms are called.

    Raises:
        ConfigError: the rows belong to several data sets, or the column does not exist.
    """
    frame = _plain_types(frame)
    if "data_fingerprint" in frame and frame["data_fingerprint"].nunique() > 1:
        listed = ", ".join(sorted(map(str, frame["data"].unique())))
        raise ConfigError(f"the table holds cells of several data sets ({listed}); fit the rows of one at a time")
    column = x or "num_train"
    if column not in frame:
        raise ConfigError(f"--x: the table has no column {column!r}; it has {', '.join(frame.columns)}")
    sizes = sorted(int(size) for size in frame["num_train"].dropna().unique())
    if num_train is not None and num_train not in sizes:
        raise ConfigError(f"--num-train: no cell has {num_train:,} training images; there are {_listed(sizes)}")
    if column in BRANCH_COLUMNS and num_train is None and len(sizes) > 1:
        raise ConfigError(f"--x {column}: say at which size with --num-train; there are {_listed(sizes)}")
    permutation = frame["permutation"] if "permutation" in frame else pd.Series("none", index=frame.index)
    kinds = sorted(permutation.unique())
    shown = kinds[0] if len(kinds) == 1 else "none"
    table = records_table(frame[permutation == shown], x=column, num_train=num_train, blocks=blocks)
    notes = [] if shown == "none" else [f"All images are permuted ({shown})."]
    notes += [f"Cells with permutation {kind} are not analysed." for kind in kinds if kind not in (shown, CONTROL)]
    control = None
    if CONTROL in kinds and shown != CONTROL:
        control = records_table(frame[permutation == CONTROL], x=column, num_train=num_train, blocks=blocks)
    table = replace(table, notes=(*notes, *table.notes, *_without_replicates(table)))
    known = pair if pair is not None and set(pair) <= set(table.curves) else None
    return Measured(table, control, known, chance, names or {})


def _listed(sizes: list[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _plain_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers with gaps as floats with NaN: parquet files come with pandas' own missing value."""
    numbers = frame.select_dtypes("number")
    gaps = [
        name
        for name in numbers.columns[numbers.isna().any()]
        if isinstance(frame[name].dtype, pd.api.extensions.ExtensionDtype)
    ]
    return frame.astype(dict.fromkeys(gaps, float))


def _without_replicates(table: CurveTable) -> list[str]:
    single = [curve for curve in table.curves.values() if curve.num_replicates == 1]
    if not single or len(single) < len(table.curves):
        return []
    if all(curve.standard_error is not None for curve in single):
        return ["There are no replicates: intervals rest on the standard errors that the table states."]
    if any(curve.standard_error is not None for curve in single):
        return ["There are no replicates: only families with a standard error at every point have intervals."]
    return ["There are no replicates and no complete standard errors: no interval and no test is possible."]
