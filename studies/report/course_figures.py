"""The figures of how a study went: error against cost, validation against test, training loss, what runs cost.

Every function returns a matplotlib `Figure` that belongs to no window; nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from studies.analysis.curve import Curve
from studies.analysis.of_records import curve_points
from studies.analysis.student import t_quantiles
from studies.analysis.table import CurveTable

from .axes import error_axis, flops_axis, new_figure, print_style
from .curve_figures import BAND_REPLICATES, MANY_DOTS
from .palette import MUTED, Look, looks_of
from .tables import size_heading

MAX_PANELS = 6
COST_AXES = {
    "train_flops": "training FLOPs (3 × forward × images seen)",
    "train_seconds": "seconds of training (packed runs)",
}


def plot_error_against_cost(tables: Mapping[int, CurveTable], looks: Mapping[str, Look]) -> Figure:
    """Test error of every branch against what it cost, one panel per training-set size; a single one has bands.

    Args:
        tables: curves over one cost by number of training images, at most `MAX_PANELS` of them.
        looks: of every arm.
    """
    column = next(iter(tables.values())).columns.x
    with print_style():
        columns = min(3, len(tables))
        num_rows = math.ceil(len(tables) / columns)
        alone = len(tables) == 1
        figure = new_figure(7.2, 4.2) if alone else new_figure(2.6 * columns + 1.2, 2.5 * num_rows + 0.5)
        panels = figure.subplots(num_rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, (size, table) in zip(panels, tables.items(), strict=False):
            for arm, look in looks.items():
                if arm not in table.curves:
                    continue
                curve = table.curves[arm]
                if alone:
                    low, high = _band(curve)
                    panel.fill_between(curve.x, low, high, color=look.colour, alpha=0.14, linewidth=0, zorder=1)
                panel.plot(
                    curve.x,
                    np.exp(curve.mean),
                    color=look.colour,
                    linestyle=look.line,
                    marker=look.marker,
                    markersize=4.8,
                    markerfacecolor=look.face,
                    markeredgecolor=look.edge,
                    markeredgewidth=1 if look.open else 0.5,
                    linewidth=1.5,
                    label=look.label,
                )
            panel.set_title(f"N = {size:,}")
        curves = [curve for table in tables.values() for curve in table.curves.values()]
        if column == "train_flops":
            points = max(curves, key=lambda curve: len(curve.x))
            flops_axis(panels[0], points.x.tolist())
        else:
            _seconds_axis(panels[0], np.concatenate([curve.x for curve in curves]))
        for index in range(len(tables), len(panels)):
            panels[index].set_axis_off()
            panels[index - columns].tick_params(labelbottom=True)
        error_axis(panels[0], np.concatenate([np.exp(curve.mean) for curve in curves]).tolist())
        figure.supxlabel(COST_AXES[column], fontsize=9.5)
        figure.supylabel("test error", fontsize=9.5)
        _legend_of(figure, list(panels))
        return figure


def _band(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """95% t-interval of the geometric mean error at every x [n]; NaN below `BAND_REPLICATES` replicates."""
    counts = np.sum(~np.isnan(curve.log_error), axis=0)
    enough = counts >= BAND_REPLICATES
    quantile = t_quantiles(0.975, np.where(enough, counts - 1, 1))
    half = np.where(enough, quantile * curve.log_std / np.sqrt(counts), np.nan)
    return np.exp(curve.mean - half), np.exp(curve.mean + half)


def _seconds_axis(axes: Axes, seconds: np.ndarray) -> None:
    """A logarithmic axis of seconds with ticks at 1, 2, 5 and their tens."""
    low, high = float(seconds.min()) / 1.2, float(seconds.max()) * 1.2
    ticks = [digit * 10.0**power for power in range(-3, 8) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plot_validation_against_test(frame: pd.DataFrame) -> Figure:
    """Validation error, which chose the branch, against the test error it stands for; a dot per cell."""
    rows = curve_points(frame, "selected")
    with print_style():
        figure = new_figure(5.6, 4.3)
        axes = figure.add_subplot()
        for arm, look in looks_of(frame).items():
            cells = rows[rows["arm"] == arm]
            axes.scatter(
                cells["validation_error"].clip(lower=1e-5),
                np.exp(cells["log_error"]),
                facecolor=look.face,
                s=26,
                marker=look.marker,
                alpha=0.75,
                edgecolor=look.edge,
                linewidth=1 if look.open else 0.5,
                label=look.label,
                zorder=3,
                rasterized=len(rows) > MANY_DOTS,
            )
        both = [*rows["validation_error"].clip(lower=1e-5), *np.exp(rows["log_error"])]
        error_axis(axes, both)
        error_axis(axes, both, which="x")
        axes.axline((0.1, 0.1), (0.2, 0.2), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xlabel("validation error of the chosen branch")
        axes.set_ylabel("test error")
        _legend_of(figure, [axes])
        return figure


def plot_training_loss(table: pd.DataFrame, x: str = "num_train") -> Figure:
    """Training loss of the trunk against training FLOPs at three sizes, mean over replicates.

    Args:
        table: `TrunkLosses.frame`.
        x: which size the panels are for.
    """
    sizes = at_most(sorted(table["size"].unique()), 3)
    with print_style():
        figure = new_figure(2.6 * len(sizes) + 1.2, 3.0)
        panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False).ravel()
        for panel, size in zip(panels, sizes, strict=True):
            for arm, look in looks_of(table).items():
                entries = table[(table["size"] == size) & (table["arm"] == arm)]
                trace = entries.groupby("train_flops")["loss"].mean()
                if not trace.empty:
                    panel.plot(
                        trace.index, trace, color=look.colour, linestyle=look.line, linewidth=1.5, label=look.label
                    )
            panel.set_title(size_heading(size, x))
            panel.xaxis.set_major_locator(MaxNLocator(4))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        figure.supxlabel("training FLOPs of the trunk", fontsize=9.5)
        figure.supylabel("training loss (nats)", fontsize=9.5)
        _legend_of(figure, list(panels))
        return figure


def plot_cost(frame: pd.DataFrame) -> Figure:
    """What matched compute leaves unmatched: parameters, exact training FLOPs and packed seconds per arm."""
    rows = curve_points(frame, "full_budget")
    looks = {arm: look for arm, look in looks_of(frame).items() if arm in set(rows["arm"])}
    means = (
        rows.assign(
            forward=rows["forward_flops"] / 1e6,
            parameters=rows["num_parameters"] / 1e6,
            exact=rows["train_flops_exact"] / rows["train_flops"],
        )
        .groupby("arm")[["forward", "exact", "parameters", "train_seconds"]]
        .mean()
    )
    titles = [
        "forward\nMFLOP per image",
        "exact / nominal\ntraining FLOPs",
        "parameters\n(millions)",
        "seconds per cell\n(packed)",
    ]
    with print_style():
        figure = new_figure(8.4, 0.9 + 0.36 * len(looks))
        panels = figure.subplots(1, 4, sharey=True)
        heights = np.arange(len(looks))[::-1]
        for panel, column, title in zip(panels, means.columns, titles, strict=True):
            values = means[column].reindex(list(looks)).to_numpy(float)
            for height, look, value in zip(heights, looks.values(), values, strict=True):
                panel.barh(height, value, color=look.colour, height=0.62, alpha=0.85)
                panel.annotate(
                    f"{value:.3g}",
                    (value, height),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                )
            panel.set_title(title, fontsize=9.5, fontweight="normal")
            panel.set_xlim(0, 1.32 * max(means[column].max(), 1e-9))
            panel.set_xticks([])
            panel.grid(False)
            panel.spines["bottom"].set_visible(False)
            panel.tick_params(left=False)
        panels[0].set_yticks(heights, [look.label for look in looks.values()])
        return figure


def at_most(sizes: list[int], count: int) -> list[int]:
    """`count` of the sizes, evenly spread, ends included."""
    if len(sizes) <= count:
        return sizes
    return [sizes[round(index)] for index in np.linspace(0, len(sizes) - 1, count)]


def _legend_of(figure: Figure, panels: Sequence[Axes]) -> None:
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9)
