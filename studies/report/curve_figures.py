"""The figures of the data curves: what was measured, and the forms fitted to it.

Every function takes tables and returns a matplotlib `Figure` that belongs to no window; nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.analysis.answers import Answers
from studies.analysis.crossover import Crossover
from studies.analysis.curve import Array
from studies.analysis.fitted_curve import CurveFit
from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.of_records import Rule, curve_points
from studies.analysis.quantity import quantity
from studies.analysis.summary import data_curves

from .axes import end_labels, error_axis, new_figure, print_style, size_axis
from .card import StudyCard
from .palette import CHANCE, FLOOR, INK, MUTED, Look, looks_of

RULE_NAMES: dict[Rule, str] = {"selected": "branch chosen on validation", "full_budget": "branch at the full budget C"}

BAND_REPLICATES = FEWEST_FOR_INTERVAL
MANY_DOTS = 4000
"""In a figure; more are an image in its SVG: as elements of their own they would be megabytes that a browser draws one
by one."""


def plot_curves(
    frame: pd.DataFrame, card: StudyCard | None = None, *, rule: Rule = "selected", crossover: Crossover | None = None
) -> Figure:
    """Test error against training or pretraining images, both logarithmic.

    Lines are geometric means over replicates, bands their 95% t-intervals from three replicates up, faint dots the
    replicates themselves.

    Args:
        frame: the table of records; not empty after `rule`.
        card: adds chance, Bayes error and lambda.
        rule: which branch of each cell is read.
        crossover: marks where the mean curves of its pair meet, and shades its confidence set.
    """
    x = card.x if card else "num_train"
    curves, points = data_curves(frame, rule, x=x), curve_points(frame, rule).dropna(subset=[x])
    with print_style():
        figure = new_figure(7.2, 4.5)
        axes = figure.add_subplot()
        looks = looks_of(frame)
        sizes = sorted({int(size) for size in points[x] if size > 0})
        jitter = np.linspace(-0.012, 0.012, len(looks)) * math.log(max(sizes) / min(sizes)) if len(looks) > 1 else [0.0]
        ends = []
        for (arm, look), shift in zip(looks.items(), jitter, strict=True):
            curve, cells = curves[curves["arm"] == arm], points[points["arm"] == arm]
            if curve.empty:
                continue
            if not (curve[x] > 0).any():
                ends.append(_level(axes, sizes, float(curve["geometric_mean"].iloc[0]), look))
                continue
            at, y = curve[x].to_numpy(float), curve["geometric_mean"].to_numpy(float)
            banded = curve[["low", "high"]].where(curve["num_replicates"] >= BAND_REPLICATES)
            axes.fill_between(at, banded["low"], banded["high"], color=look.colour, alpha=0.14, linewidth=0, zorder=2)
            dots = cells[x].to_numpy(float) * math.exp(shift), np.exp(cells["log_error"].to_numpy(float))
            many = len(points) > MANY_DOTS
            axes.scatter(*dots, s=9, color=look.colour, alpha=0.38, linewidth=0, zorder=3, rasterized=many)
            axes.plot(at, y, color=look.colour, linestyle=look.line, linewidth=1.8, zorder=4)
            _markers(axes, at, y, look)
            ends.append((at[-1], y[-1], look.label, look.colour))
        size_axis(axes, sizes)
        error_axis(axes, [*np.exp(points["log_error"]), *_reference_errors(card)])
        _reference_lines(axes, card)
        _mark_crossover(axes, crossover)
        end_labels(axes, ends)
        axes.set_xlabel(quantity(x).axis)
        axes.set_ylabel("test error")
        axes.set_title(f"{card.data_name if card else points['data'].iloc[0]}: {RULE_NAMES[rule]}")
        return figure


def _level(axes: Axes, sizes: Sequence[int], error: float, look: Look) -> tuple[float, float, str, str]:
    """An arm trained from scratch, which pretraining does not change: a line across; returns where it ends."""
    axes.axhline(error, color=look.colour, linestyle=look.line, linewidth=1.2, alpha=0.8, zorder=2)
    return float(sizes[-1]), error, f"{look.label} from scratch", look.colour


def plot_fits(answers: Answers, looks: Mapping[str, Look], card: StudyCard | None = None) -> Figure:
    """The fitted form of every arm as a thin line with its 95% band, over the measured means as markers.

    The line is dashed where the form was not fitted to the points, because they are near chance.
    """
    curves = answers.table.curves
    fits = {arm: fit for arm in looks if isinstance(fit := answers.fits.get(arm), CurveFit)}
    with print_style():
        figure = new_figure(7.2, 4.5)
        axes = figure.add_subplot()
        ends, shown = [], []
        for arm, look in looks.items():
            if arm not in curves:
                continue
            curve = curves[arm]
            mean = np.exp(curve.mean)
            shown += mean.tolist()
            _markers(axes, curve.x, mean, look)
            end = float(mean[-1])
            if arm in fits:
                x = np.geomspace(curve.x[0], curve.x[-1], 160)
                end = float(fits[arm].predict(x[-1:])[0])
                _fitted_line(axes, fits[arm], x, look)
            ends.append((float(curve.x[-1]), end, look.label, look.colour))
        size_axis(axes, sorted({int(x) for curve in curves.values() for x in curve.x}))
        error_axis(axes, [*shown, *_reference_errors(card)])
        _reference_lines(axes, card)
        end_labels(axes, ends)
        axes.set_xlabel(next(iter(curves.values())).quantity.axis)
        axes.set_ylabel("test error")
        axes.set_title("Fitted forms over measured means")
        return figure


def _fitted_line(axes: Axes, fit: CurveFit, x: Array, look: Look) -> None:
    low, high = fit.band(x)
    axes.fill_between(x, low, high, facecolor=look.colour, alpha=0.13, linewidth=0, zorder=2)
    inside = x >= fit.x[0] * (1 - 1e-9)
    for part, style in ((inside, "-"), (~inside, (0, (3, 2)))):
        line = np.where(part, fit.predict(x), np.nan)
        axes.plot(x, line, color=look.colour, linestyle=style, linewidth=1.0, zorder=4)


def _markers(axes: Axes, x: Array, y: Array, look: Look) -> None:
    axes.scatter(
        x,
        y,
        marker=look.marker,
        s=34,
        facecolor=look.face,
        edgecolor=look.edge,
        linewidth=1.1 if look.open else 0.7,
        zorder=5,
    )


def _reference_errors(card: StudyCard | None) -> Sequence[float]:
    """Levels that the error axis must contain: chance and lambda; a Bayes error near zero would squeeze the curves."""
    return [] if card is None else [card.chance_error, *([card.floor] if card.floor else [])]


def _reference_lines(axes: Axes, card: StudyCard | None) -> None:
    if card is None:
        return
    lines = [(card.chance_error, "chance", CHANCE, (0, (1, 2)))]
    if card.floor:
        lines.append((card.floor, f"λ = {100 * card.floor:.3g}%, floor of translation invariance", FLOOR, (0, (6, 3))))
    if card.bayes_error:
        lines.append((card.bayes_error, f"Bayes error {100 * card.bayes_error:.2g}%", MUTED, (0, (1, 2))))
    for error, label, colour, style in lines:
        if not axes.get_ylim()[0] <= error <= axes.get_ylim()[1]:
            continue
        axes.axhline(error, color=colour, linestyle=style, linewidth=1.1, zorder=1)
        axes.annotate(
            label,
            (0.008, error),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 2.5),
            textcoords="offset points",
            color=colour,
            fontsize=8,
            va="bottom",
            zorder=1,
        )


def _mark_crossover(axes: Axes, crossover: Crossover | None) -> None:
    """A line where the mean curves meet; the confidence set shaded, without an edge where it is open."""
    if crossover is None:
        return
    if crossover.decision != "none below x_max":
        for part in crossover.told_set:
            low, high = axes.get_xlim()
            low, high = low if part.open_below else part.low, high if part.open_above else part.high
            axes.axvspan(low, high, facecolor=INK, alpha=0.06, linewidth=0, zorder=0)
            for edge, is_open in ((part.low, part.open_below), (part.high, part.open_above)):
                if not is_open:
                    axes.axvline(edge, color=INK, linewidth=0.7, alpha=0.3, zorder=0)
    of = quantity(crossover.column)
    for root in crossover.roots:
        axes.axvline(root.x, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.6, zorder=1)
        text = f"N* = {of.number(root.x)}"
        axes.annotate(
            text if crossover.decision == "crosses" else f"{text}\n({crossover.decision})",
            (root.x, 0.985),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="top",
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
        )
