"""What frozen features are worth: mean few-shot errors over replicates, by network, pretraining images and shots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .finding import plain
from .jackknife import t_quantile
from .summary import CONFIDENCE

NUM_SHA256_DIGITS = 64
"""Of the origin of weights that lie in a file; the id of a cell has fewer."""

FEW_SHOT_CURVE_COLUMNS = (
    "arm",
    "family",
    "designed_for",
    "num_pretrain",
    "shots",
    "num_replicates",
    "num_draws",
    "mean",
    "half_width",
    "std_over_draws",
)


@dataclass(frozen=True)
class FewShotAnswers:
    """The few-shot evaluations of a study.

    Attributes:
        frame: a row per network, number of shots and draw; columns as in `studies.few_shot_results`.
        missing: titles of the networks that have no result yet.
        shots: numbers of labelled images per class, ascending.
        draws: of the images, for every replicate.
        vary: the seeds that change with the replicate (`StudySpec.vary`).
    """

    frame: pd.DataFrame
    missing: tuple[str, ...]
    shots: tuple[int, ...]
    draws: int
    vary: tuple[str, ...]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """See `few_shot_curves`."""
        return few_shot_curves(self.frame)

    @property
    def covered(self) -> str:
        """What the intervals over replicates cover, and what they do not, in sentences."""
        training = [seed for seed in self.vary if seed != "subset"]
        seeds, images = "other seeds of training", "other images to learn from"
        if training and "subset" in self.vary:
            told = f"The interval covers {seeds} and {images}"
        elif training:
            told = f"The interval covers {seeds} ({', '.join(training)}), not {images}: replicates have the same draws"
        elif self.vary:
            told = f"The interval covers {images}, not {seeds}"
        else:
            told = f"The interval covers neither {seeds} nor {images}"
        told += "; where replicates share their test images, not other ones of these."
        of_files = self.frame[self.frame["start_origin"].astype(str).str.len() == NUM_SHA256_DIGITS]
        if names := sorted(set(of_files["start"])):
            told += (
                f" What begins from a file ({', '.join(names)}) is one network for all replicates: of it the interval "
                "covers no other training."
            )
        return told

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "shots": list(self.shots),
            "draws": self.draws,
            "confidence": CONFIDENCE,
            "interval": f"95% t-interval of the mean over replicates of the mean over draws. {self.covered}",
            "curves": plain(self.curves),
            "missing": list(self.missing),
        }


def few_shot_curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Test error per network, pretraining images and shots.

    Draws of one replicate share their network, so they are averaged first, and the interval is over replicates.

    Args:
        frame: a row per network, number of shots and draw; columns as in `studies.few_shot_results`.

    Returns:
        Rows sorted by arm, size and shots with `arm`, `family`, `designed_for`, `num_pretrain` (float; 0 untrained, NaN
        unknown), `shots`, `num_replicates`, `num_draws` of a replicate, `mean` and `half_width` of its t-interval
        (NaN with one replicate), and `std_over_draws`, the root mean square over replicates of the standard deviation
        over the draws of one (NaN with one draw).
    """
    rows = []
    known = frame.astype({"num_pretrain": float})
    for _, cells in known.groupby(["arm", "designed_for", "num_pretrain", "shots"], sort=True, dropna=False):
        first = cells.iloc[0]
        by_replicate = cells.groupby("replicate")["test_error"]
        means = by_replicate.mean().to_numpy(float)
        count = len(means)
        std = float(np.std(means, ddof=1)) if count > 1 else math.nan
        rows.append(
            {
                "arm": first["arm"],
                "family": first["family"],
                "designed_for": int(first["designed_for"]),
                "num_pretrain": float(first["num_pretrain"]),
                "shots": int(first["shots"]),
                "num_replicates": count,
                "num_draws": int(by_replicate.size().max()),
                "mean": float(means.mean()),
                "half_width": t_quantile(0.5 + CONFIDENCE / 2, count - 1) * std / math.sqrt(count),
                "std_over_draws": math.sqrt(float(by_replicate.var(ddof=1).mean())),
            }
        )
    return pd.DataFrame(rows, columns=list(FEW_SHOT_CURVE_COLUMNS))
