"""What the probes of a study say in few numbers: means over replicates with intervals, and a value for every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.analysis.jackknife import FEWEST_FOR_INTERVAL, t_quantile
from studies.analysis.summary import CONFIDENCE

from .catalogue import KINDS, ProbeKind, Shown

SUMMARY_COLUMNS = (
    "probe",
    "quantity",
    "unit",
    "arm",
    "permutation",
    "size",
    "weights",
    "num_replicates",
    "mean",
    "half_width",
)
_NETWORK = ["arm", "permutation", "num_train", "num_pretrain", "replicate", "weights", "cell_id"]


@dataclass(frozen=True)
class Told:
    """A mean with the half-width of its interval; NaN without replicates."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half_width) else f" ± {self.half_width:.3f}")


def network_values(frame: pd.DataFrame, shown: Shown) -> pd.DataFrame:
    """One number of every network: its readings of a quantity, averaged over layers, heads and settings.

    Args:
        frame: readings of one probe, columns as in `PROBE_COLUMNS`.
        shown: which readings.

    Returns:
        Columns `arm`, `permutation`, `num_train`, `num_pretrain`, `replicate`, `weights`, `cell_id`, `unit`, `value`;
        networks of which the quantity is not defined are left out.
    """
    of = frame[frame["quantity"] == shown.quantity]
    if shown.setting is not None:
        of = of[of["setting"] == shown.setting]
    if shown.layer is not None:
        of = of[of["layer"] == shown.layer]
    values = of.groupby([*_NETWORK, "unit"], dropna=False)["value"].mean()
    return values.dropna().reset_index()


def probe_summary(
    frame: pd.DataFrame, x: str = "num_train", kinds: Sequence[ProbeKind] = tuple(KINDS.values())
) -> pd.DataFrame:
    """Means over replicates with 95% t intervals, by arm, permutation of the images, size and weights.

    Args:
        frame: `probe_frame` of a study.
        x: the axis of the study.
        kinds: of which probes.

    Returns:
        Columns as in `SUMMARY_COLUMNS`; `half_width` is NaN with fewer than three replicates.
    """
    rows = []
    for kind in kinds:
        of_kind = frame[frame["probe"] == kind.name]
        for shown in kind.shown:
            values = network_values(of_kind, shown)
            points = values.groupby(["arm", "permutation", x, "weights", "unit"], dropna=False)
            for (arm, permutation, size, weights, unit), one in points:
                found, count = one["value"].to_numpy(float), len(one)
                std = float(np.std(found, ddof=1)) if count >= FEWEST_FOR_INTERVAL else math.nan
                half_width = t_quantile(0.5 + CONFIDENCE / 2, count - 1) * std / math.sqrt(count)
                point = (arm, permutation, size, weights, count, float(found.mean()), half_width)
                rows.append((kind.name, shown.name, unit, *point))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def run_values(
    frame: pd.DataFrame, kinds: Sequence[ProbeKind] = tuple(KINDS.values())
) -> Mapping[str, dict[str, float]]:
    """For every cell the numbers a dashboard shows of it: `probe/<probe>/<quantity>/<weights>` -> value."""
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        of_kind = frame[frame["probe"] == kind.name]
        for shown in kind.shown:
            values = network_values(of_kind, shown)
            for cell_id, weights, value in zip(values["cell_id"], values["weights"], values["value"], strict=True):
                found.setdefault(cell_id, {})[f"probe/{kind.name}/{shown.name}/{weights}"] = float(value)
    return found
