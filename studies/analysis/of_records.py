"""From records to measured curves: which branch of which cell enters, and what the test images add to the variance."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from studies.records import selected_rows

from .finding import LeftOut
from .table import Columns, CurveTable, curve_table, log_error
from .traits import TRAIT_COLUMNS, traits_of

Rule = Literal["selected", "full_budget"]
RULES: tuple[Rule, ...] = ("selected", "full_budget")

NUM_TEST_BLOCKS = 20  # PROTOCOL 6: delete-one of 20 blocks of test images

LEFT_OUT_COLUMNS = ["cell_id", "arm", "num_train", "replicate", "reason"]

BRANCH_COLUMNS = ("train_flops", "train_flops_exact", "epochs", "train_seconds")
"""What differs between the branches of a cell and can be x: every branch is then a point of the curve."""

READ_COLUMNS = (
    *("cell_id", "arm", "num_train", "num_pretrain", "replicate", "branch", "status", "reason", "selected", "diverged"),
    *("test_error", "num_test", "test_checksum", "train_flops", "executed_train_flops", "train_seconds"),
)
"""What curves are made from; a table of records has many columns more, and copying them takes longer."""

BlockKey = tuple[str, float]
"""A cell and one of its branches."""


def rules_that_differ(frame: pd.DataFrame) -> tuple[Rule, ...]:
    """The rules by which cells are worth reading: with a single branch each, both would read the same one."""
    return RULES if (frame.groupby("cell_id")["branch"].nunique() > 1).any() else RULES[:1]


def curve_points(frame: pd.DataFrame, rule: Rule = "selected") -> pd.DataFrame:
    """One row per cell that enters the curves, with its `log_error`: finished or diverged (at chance), error known."""
    rows = selected_rows(frame, rule)
    if rows["test_error"].isna().any():
        rows = rows[rows["test_error"].notna()].reset_index(drop=True)
    error, num_test = rows["test_error"].to_numpy(float), rows["num_test"].to_numpy(float)
    return rows.assign(log_error=log_error(error, num_test))


def left_out_cells(frame: pd.DataFrame, rule: Rule = "selected") -> pd.DataFrame:
    """The cells of the table that do not enter the curves under `rule`, each with the reason why."""
    entered = set(curve_points(frame, rule)["cell_id"])
    rows = []
    for cell_id, cell in frame[~frame["cell_id"].isin(entered)].groupby("cell_id", sort=False):
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


def records_table(
    frame: pd.DataFrame,
    *,
    rule: Rule = "selected",
    x: str = "num_train",
    num_train: int | None = None,
    blocks: Mapping[Hashable, np.ndarray] | None = None,
) -> CurveTable:
    """The measured curves of a table of records.

    Args:
        frame: `studies.records.records_frame`.
        rule: which branch of a cell is read, where x is the same for all branches of a cell.
        x: `num_train`, `num_pretrain`, `num_parameters` or another column of a cell; or a column of its branches,
            `train_flops`, `train_flops_exact`, `epochs` or `train_seconds`: then every branch is a point of the curve.
        num_train: only cells of this size; needed for columns of branches, where a curve is one of budgets.
        blocks: `block_counts` by (cell id, branch). Used where all replicates were tested on the same images.

    Raises:
        ConfigError: the column does not exist, or holds no numbers.
    """
    read = [column for column in frame.columns if column in {*READ_COLUMNS, *TRAIT_COLUMNS, x}]
    of_size = frame[read] if num_train is None else frame.loc[frame["num_train"] == num_train, read]
    of_size, scratch = _without_scratch(of_size, x)
    by_branch = x in BRANCH_COLUMNS
    rows = _branch_points(of_size) if by_branch else curve_points(of_size, rule)
    shared = rows["replicate"].nunique() > 1 and rows["test_checksum"].nunique() == 1
    block_key = None
    if shared and blocks:
        block_key = "block_key"
        keys = list(zip(rows["cell_id"], rows["branch"], strict=True))
        rows = rows.assign(block_key=pd.Series(keys, index=rows.index, dtype=object))
    columns = Columns(x=x, family="arm", error="test_error", point="branch" if by_branch else None, block_key=block_key)
    table = curve_table(rows, columns, blocks=blocks if block_key else None)
    absent = left_out_cells(of_size, rule)
    left_out = [
        LeftOut(f"{row['arm']} at {row['num_train']}, replicate {row['replicate']}", row["reason"])
        for row in absent.to_dict("records")
    ]
    counted = all(curve.block_log_error is not None for curve in table.curves.values())
    notes = list(table.notes)
    if shared and not counted:
        notes.append("All replicates share their test images, and the variance from choosing these is not counted.")
    if num_diverged := int(rows.loc[rows["diverged"].astype(bool), "cell_id"].nunique()):
        notes.append(f"Diverged cells enter at chance: {num_diverged}.")
    if x == "train_seconds":
        notes.append("Seconds are of runs packed on one machine, not of isolated ones.")
    return replace(
        table, left_out=(*table.left_out, *scratch, *left_out), notes=tuple(notes), traits=traits_of(of_size)
    )


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


def _without_scratch(frame: pd.DataFrame, x: str) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Over pretraining images, what was trained from scratch has no place on a curve."""
    if x != "num_pretrain" or x not in frame.columns:
        return frame, []
    scratch = frame["num_pretrain"] == 0
    reason = "it is trained from scratch: without pretraining images it is no point of a curve over them"
    return frame[~scratch], [LeftOut(str(arm), reason) for arm in sorted(set(frame.loc[scratch, "arm"]))]


def _branch_points(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per branch with a test error; seconds are the cell's, in proportion to the branch's FLOPs."""
    rows = frame[frame["status"].isin(["finished", "diverged"]) & frame["test_error"].notna()].reset_index(drop=True)
    share = rows["train_flops"].astype(float) / rows["executed_train_flops"].astype(float)
    return rows.assign(train_seconds=rows["train_seconds"].astype(float) * share)
