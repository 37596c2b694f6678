"""The figures of the answers: what the prior is worth in images, and where the curves end.

Every function returns a matplotlib `Figure` that belongs to no window; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from studies.analysis.answers import Answers
from studies.analysis.multiplier import Multiplier

from .axes import error_axis, new_figure, print_style, size_axis
from .fit_tables import hull
from .palette import FLOOR, INK, MUTED, Look

_RATIO_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FINE_RATIO_TICKS = (1, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8)
_TICK_GAP = 0.1  # of the axis: nearer ones would overlap


def plot_multiplier(answer: Multiplier, names: Mapping[str, str]) -> Figure:
    """How many times more images the flexible family needs: k(N) at the sizes of the prior, and k(e) over errors.

    Args:
        answer: with at least one known multiplier away from chance.
        names: labels of the families.
    """
    prior, flexible = names[answer.prior], names[answer.flexible]
    with print_style():
        figure = new_figure(8.4, 3.5)
        left, right = figure.subplots(1, 2, sharey=True)
        by_x, by_error = map(answer.away_from_chance, (answer.by_x, answer.by_error))
        if not answer.has_telling_intervals:
            by_x, by_error = (table.assign(low=np.nan, high=np.nan) for table in (by_x, by_error))
        known = [by_x[["multiplier", "low", "high"]], by_error[["multiplier", "low", "high"]]]
        ratio_axis(left, pd.concat(known).to_numpy(float).ravel())
        left.scatter(by_x["x_prior"], by_x["multiplier"], color=INK, s=26, zorder=4)
        sure = by_x[by_x["low"].notna() & by_x["high"].notna()]
        left.vlines(sure["x_prior"], sure["low"], sure["high"], color=INK, linewidth=1.6, zorder=3)
        size_axis(left, [round(x) for x in answer.by_x["x_prior"]])
        left.set_xlabel("training images N")
        left.set_ylabel("data multiplier k")
        left.set_title(f"at the error {prior} has with N images", fontweight="normal")
        right.fill_between(by_error["error"], by_error["low"], by_error["high"], color=INK, alpha=0.12, linewidth=0)
        right.plot(by_error["error"], by_error["multiplier"], color=INK, linewidth=1.6)
        if len(by_error):
            error_axis(right, by_error["error"].tolist(), which="x")
            right.invert_xaxis()
        right.set_xlabel("test error e")
        right.set_title("at error e", fontweight="normal")
        for panel in (left, right):
            panel.axhline(1, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        title = f"Images {flexible} needs for each image of {prior}"
        figure.suptitle(title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
        return figure


def plot_floors(answers: Answers, looks: Mapping[str, Look], floor: float | None) -> Figure:
    """Fitted floors with their intervals, one line per arm, against lambda where it is known."""
    fits = {arm: hull(own) for arm in looks if (own := answers.floors.get(arm)) is not None and own.by_form}
    with print_style():
        figure = new_figure(6.2, 1.1 + 0.36 * max(len(fits), 1))
        axes = figure.add_subplot()
        heights = np.arange(len(fits))[::-1]
        for height, (arm, estimate) in zip(heights, fits.items(), strict=True):
            look = looks[arm]
            if estimate.has_interval:
                axes.plot([100 * estimate.low, 100 * estimate.high], [height] * 2, color=look.colour, linewidth=2)
            axes.scatter(
                100 * estimate.value,
                height,
                marker=look.marker,
                s=36,
                facecolor=look.face,
                edgecolor=look.edge,
                linewidth=1.1 if look.open else 0.7,
                zorder=5,
                clip_on=False,
            )
        if floor:
            axes.axvline(100 * floor, color=FLOOR, linestyle=(0, (6, 3)), linewidth=1.1, zorder=1)
            axes.annotate(
                f"λ = {100 * floor:.3g}%",
                (100 * floor, 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(3, 2),
                textcoords="offset points",
                color=FLOOR,
                fontsize=8.5,
            )
        axes.set_yticks(heights, [looks[arm].label for arm in fits])
        axes.set_ylim(-0.6, len(fits) - 0.4)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.grid(False, axis="y")
        axes.set_xlabel("fitted floor of the test error")
        return figure


def ratio_axis(axes: Axes, ratios: np.ndarray) -> None:
    """A logarithmic axis of factors around 1."""
    known = ratios[np.isfinite(ratios) & (ratios > 0)]
    low, high = min(known.min() / 1.2, 0.7), max(known.max() * 1.2, 1.4)
    low, high = max(low, 1e-3), min(high, 1e3)  # an interval without end would flatten the rest
    ticks = [tick for tick in _RATIO_TICKS if low <= tick <= high]
    if len(ticks) < 4:
        ticks = []
        for tick in _FINE_RATIO_TICKS:
            gaps = [abs(np.log(tick / other)) for other in ticks]
            if low <= tick <= high and min(gaps, default=np.inf) >= _TICK_GAP * np.log(high / low):
                ticks.append(tick)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
