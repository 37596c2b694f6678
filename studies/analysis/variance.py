"""Where the spread over replicates comes from: one seed at a time (PROTOCOL 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .finding import Finding, LeftOut, Names, name_of
from .of_records import curve_points
from .student import chi_square_quantile

SETTINGS = [
    "data_fingerprint",
    "permutation",
    "augmentation",
    "budget_flops",
    "learning_rate",
    "weight_decay",
    "num_pretrain",
]
"""Cells that differ in one of these are not replicates of each other."""
SEEDS = ("subset_seed", "order_seed", "initialization_seed", "augmentation_seed")
COLUMNS = ["arm", "num_train", "num_pretrain", "varied", "num_groups", "degrees", "log_std", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class VarianceSplit(Finding):
    """Standard deviation of log errors between cells that differ in some seeds only.

    Attributes:
        parts: a row per arm, size, pretraining size (0 from scratch, NaN where it is not known) and set of seeds that
            differ: `varied` (joined by +), `num_groups` of cells that share all other seeds, `degrees` of freedom,
            pooled `log_std` with the 95% chi-square interval `low` to `high`.
    """

    parts: pd.DataFrame

    def sentence(self, names: Names | None = None) -> str:
        """The pooled standard deviation per arm and set of seeds, over all sizes."""
        if self.parts.empty:
            return "The spread over seeds cannot be split: no two cells of an arm and size share any seed."
        told = []
        for (arm, varied), rows in self.parts.groupby(["arm", "varied"], sort=True):
            weight = rows["degrees"].to_numpy(float)
            pooled = np.sqrt(np.sum(weight * rows["log_std"].to_numpy(float) ** 2) / weight.sum())
            told.append(f"{name_of(str(arm), names)}, {str(varied).replace('+', ', ')}: {100 * pooled:.1f}%")
        return f"Relative standard deviation of errors between runs that differ in these seeds: {'; '.join(told)}."


def variance_split(frame: pd.DataFrame, *, confidence: float = 0.95) -> VarianceSplit:
    """Splits the variance over replicates by the seeds that differ.

    A study whose replicates change all seeds at once gives one row, all of them; studies that share the rest and vary
    one seed (`vary=[initialization]`) can be put together in one table and give one row each.

    Args:
        frame: records of one or several studies (`records_frame`, concatenated).
        confidence: of the chi-square intervals, which assume normal log errors.
    """
    points = curve_points(frame).drop_duplicates("cell_id")
    rows, left_out = [], []
    settings = [column for column in SETTINGS if column in points.columns]
    needed = ["arm", "num_train", *settings, *SEEDS, "cell_id", "log_error", "num_pretrain"]
    points = points[[column for column in points.columns if column in needed]]  # groups are copied column by column
    alike = ["arm", "num_train", *settings]
    several = {
        varied: points.duplicated([*alike, *fixed], keep=False) for varied, fixed in _seed_sets().items() if fixed
    }
    for (arm, size, *_), cells in points.groupby(alike, sort=True, dropna=False):
        found = False
        for varied, fixed in _seed_sets().items():
            sharing = cells[several[varied].loc[cells.index]] if fixed else cells
            groups = [group for _, group in sharing.groupby(fixed)] if fixed and len(sharing) else [sharing]
            groups = [_distinct(group, varied) for group in groups if len(group) > 1]
            groups = [group for group in groups if len(group) > 1]
            degrees = sum(len(group) - 1 for group in groups)
            if not degrees:
                continue
            found = True
            squares = sum(float(((g["log_error"] - g["log_error"].mean()) ** 2).sum()) for g in groups)
            bounds = [np.sqrt(squares / chi_square_quantile(0.5 + side * confidence / 2, degrees)) for side in (1, -1)]
            label = "+".join(seed.removesuffix("_seed") for seed in varied)
            pretrained = float(cells["num_pretrain"].iloc[0]) if "num_pretrain" in cells else 0.0
            rows.append([arm, size, pretrained, label, len(groups), degrees, np.sqrt(squares / degrees), *bounds])
        if not found:
            left_out.append(LeftOut(f"{arm} at {size}", "no two of its cells share all seeds but some"))
    return VarianceSplit(
        method="pooled variance of log errors within groups of cells that share all other seeds; chi-square intervals",
        used=f"{len(points)} cells",
        left_out=tuple(left_out),
        parts=pd.DataFrame(rows, columns=COLUMNS),
    )


def _seed_sets() -> dict[tuple[str, ...], list[str]]:
    """Each seed alone, and all of them; which are then the same."""
    return {varied: [seed for seed in SEEDS if seed not in varied] for varied in (*((seed,) for seed in SEEDS), SEEDS)}


def _distinct(cells: pd.DataFrame, seeds: tuple[str, ...]) -> pd.DataFrame:
    """Cells of which no two have one of these seeds in common."""
    cells = cells.sort_values([*SEEDS, "cell_id"], kind="stable")
    for seed in seeds:
        cells = cells.drop_duplicates(seed)
    return cells
