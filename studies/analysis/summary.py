"""Data curves as a table: per arm and size the mean error over replicates with its spread."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .jackknife import t_quantile
from .of_records import Rule, curve_points

CONFIDENCE = 0.95

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


def data_curves(
    frame: pd.DataFrame, rule: Rule = "selected", *, x: str = "num_train", confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Test error per arm and size, over replicates.

    Args:
        frame: the table of records, one row per cell and branch.
        rule: `selected` reads the branch chosen on validation, `full_budget` the branch at exactly C (PROTOCOL 3).
        x: the size: `num_train`, or `num_pretrain`, 0 where an arm is trained from scratch.
        confidence: coverage of the t-intervals.

    Returns:
        Rows sorted by arm and size with `arm`, `family`, the size by the name of `x`, `num_replicates`, `mean`, `std`,
        `standard_error` and `half_width` (t-interval of the mean is mean +- half_width), `geometric_mean` with `low`
        and `high` (t-interval of the mean log error, exponentiated), `log_std`, `min`, `max`, `num_diverged`. One
        replicate has no spread: NaN there. Cells that do not enter are in `left_out_cells`.
    """
    rows = []
    for (arm, _), cells in curve_points(frame, rule).groupby(["arm", x], sort=True):
        error, log = cells["test_error"].to_numpy(float), cells["log_error"].to_numpy(float)
        count = len(error)
        std = float(np.std(error, ddof=1)) if count > 1 else math.nan
        log_std = float(np.std(log, ddof=1)) if count > 1 else math.nan
        quantile = t_quantile(0.5 + confidence / 2, count - 1)
        log_half_width = quantile * log_std / math.sqrt(count)
        rows.append(
            {
                "arm": arm,
                "family": cells["family"].iloc[0],
                x: int(cells[x].iloc[0]),
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
    return pd.DataFrame(rows, columns=[x if column == "num_train" else column for column in CURVE_COLUMNS])
