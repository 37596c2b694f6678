"""What the probes of a study say, for tables and figures: means over replicates, before and after training.

Layers, heads and settings of one network are no replicates: they are averaged first, and intervals are over replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .finding import plain
from .jackknife import FEWEST_FOR_INTERVAL, t_quantile
from .ladder import unpermuted
from .summary import CONFIDENCE

TRAINED, INITIAL = "trained", "initial"
"""Which weights a network was probed with: those of the full budget, or those it was drawn with."""

PLACE = ("layer", "head", "setting")
"""Where within a network a reading was taken."""

CHANGE_COLUMNS = (
    "arm", "size", "num_replicates", "trained", "trained_half_width", "initial", "initial_half_width", "change",
    "change_half_width",
)  # fmt: skip


@dataclass(frozen=True)
class ProbeArrays:
    """What a probe found of one network that numbers do not say.

    Attributes:
        size: of its training set, in the units of the study's curves.
        weights: `trained` or `initial`.
        arrays: by name; small.
    """

    probe: str
    arm: str
    size: float
    replicate: int
    weights: str
    arrays: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ProbeAnswers:
    """The probes of a study.

    Attributes:
        frame: a row per reading, columns as in `studies.probes.PROBE_COLUMNS`.
        arrays: of single networks.
        x: what the study's curves run over.
    """

    frame: pd.DataFrame
    arrays: tuple[ProbeArrays, ...] = ()
    x: str = "num_train"

    @property
    def shown(self) -> pd.DataFrame:
        """The readings whose value is defined, of networks that saw images as they are, with their `size`."""
        frame = unpermuted(self.frame)
        return frame[frame["value"].notna() & frame[self.x].notna()].assign(size=frame[self.x].astype(float))

    def of(self, quantity: str) -> pd.DataFrame:
        """The readings of one quantity."""
        frame = self.shown
        return frame[frame["quantity"] == quantity].reset_index(drop=True)

    def arrays_of(self, probe: str, name: str, weights: str = TRAINED) -> dict[str, npt.NDArray[np.float32]]:
        """By arm, the array of the first replicate at the largest size that has it."""
        own = [one for one in self.arrays if one.probe == probe and one.weights == weights and name in one.arrays]
        own.sort(key=lambda one: (one.arm, -one.size, one.replicate))
        found: dict[str, npt.NDArray[np.float32]] = {}
        for one in own:
            found.setdefault(one.arm, one.arrays[name])
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: of every quantity the change that training made, by arm and size."""
        quantities = list(dict.fromkeys(self.shown["quantity"]))
        return {
            "confidence": CONFIDENCE,
            "interval": "95% t-interval of the mean over replicates; layers, heads and settings are averaged first",
            "quantities": {name: plain(training_change(self.of(name))) for name in quantities},
        }


def probe_curve(readings: pd.DataFrame, over: Sequence[str]) -> pd.DataFrame:
    """Mean of a quantity over replicates.

    Args:
        readings: of one quantity, as `ProbeAnswers.of` gives them.
        over: columns that are kept apart, such as `depth`, `setting` or `size`; all others are averaged.

    Returns:
        Rows sorted by `arm`, `weights` and `over`, with `num_replicates`, `mean` and `half_width`, that of the
        t-interval of the mean; NaN with fewer than three replicates.
    """
    keys = ["arm", "weights", *over]
    by_network = readings.groupby([*keys, "replicate"], as_index=False)["value"].mean()
    rows = []
    for key, values in by_network.groupby(keys, sort=True)["value"]:
        mean, half_width = _mean(values.to_numpy(float))
        rows.append((*key, len(values), mean, half_width))
    return pd.DataFrame(rows, columns=[*keys, "num_replicates", "mean", "half_width"])


def training_change(readings: pd.DataFrame) -> pd.DataFrame:
    """What training changed of a quantity, by arm and size; columns as in `CHANGE_COLUMNS`.

    `change` is the mean over replicates of trained less initial, with its own paired t-interval; replicates that lack
    one of the two are not in it. Where a network was read before training and after it, only what both were read at
    (layers, heads, settings) is averaged, on both sides: before training, for one, logits are constant and have no
    equivariance.
    """
    keys = ["arm", "size", "replicate", "weights"]
    places = readings.groupby([*keys[:3], *PLACE], dropna=False)["weights"].transform("nunique")
    both = readings.groupby(keys[:3])["weights"].transform("nunique")
    readings = readings[places == both]
    values = readings.groupby(keys)["value"].mean().unstack("weights").reindex(columns=[TRAINED, INITIAL])
    rows = []
    for (arm, size), own in values.groupby(level=["arm", "size"], sort=True):
        if own[TRAINED].isna().all():
            continue
        parts = [_mean(own[weights].dropna().to_numpy(float)) for weights in (TRAINED, INITIAL)]
        change = _mean((own[TRAINED] - own[INITIAL]).dropna().to_numpy(float))
        rows.append((arm, float(str(size)), int(own[TRAINED].notna().sum()), *parts[0], *parts[1], *change))
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """A mean and the half-width of its t-interval, which two values are too few for."""
    count = len(values)
    if not count:
        return math.nan, math.nan
    std = float(np.std(values, ddof=1)) if count >= FEWEST_FOR_INTERVAL else math.nan
    return float(values.mean()), t_quantile(0.5 + CONFIDENCE / 2, count - 1) * std / math.sqrt(count)
