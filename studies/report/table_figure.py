"""One figure of an analysed table: measured and fitted curves over any x, and where the pair in question crosses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.analysis.answers import Answers
from studies.analysis.curve import Curve
from studies.analysis.finding import name_of
from studies.analysis.fitted_curve import CurveFit
from studies.analysis.jackknife import t_quantile
from studies.analysis.quantity import quantity
from studies.errors import ConfigError
from studies.files import write_atomically

from .axes import end_labels, error_axis, flops_axis, new_figure, png_bytes, print_style, size_axis, svg_bytes
from .palette import MUTED, Look, arm_looks


def plot_answers(answers: Answers, names: Mapping[str, str] | None = None) -> Figure:
    """Errors over x, both logarithmic.

    Dots are replicates, large markers geometric means with t-intervals from three replicates up (or from stated
    errors), thin lines fitted curves. The confidence set of the crossover of the first pair is shaded where the
    analysis calls it a crossing.
    """
    curves = answers.table.curves
    looks = arm_looks({family: family for family in curves})
    of = quantity(answers.table.columns.x)
    with print_style():
        figure = new_figure(7.2, 4.5)
        axes = figure.add_subplot()
        for family, curve in curves.items():
            _draw(axes, curve, looks[family], answers)
        every_x = sorted({x for curve in curves.values() for x in curve.x.tolist()})
        if of.grouped:
            size_axis(axes, every_x)
        else:
            flops_axis(axes, every_x)
        known = np.concatenate([curve.log_error[~np.isnan(curve.log_error)] for curve in curves.values()])
        error_axis(axes, np.exp(known))
        if answers.crossovers and answers.crossovers[0].decision == "crosses":
            for stretch in answers.crossovers[0].told_set:
                axes.axvspan(stretch.low, stretch.high, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
        ends = [
            (curve.x[-1], float(np.exp(curve.mean[-1])), name_of(family, names), looks[family].colour)
            for family, curve in curves.items()
        ]
        end_labels(axes, ends)
        axes.set_xlabel(of.axis)
        axes.set_ylabel("error")
        return figure


def write_figure(answers: Answers, path: Path, names: Mapping[str, str] | None = None) -> None:
    """Writes `plot_answers` as .png or .svg, by the ending of the path.

    Raises:
        ConfigError: the table has no curve, or the ending is another.
    """
    if not answers.table.curves:
        raise ConfigError("there is nothing to draw: no row of the table can be used")
    make = {".png": png_bytes, ".svg": svg_bytes}.get(path.suffix.lower())
    if make is None:
        raise ConfigError(f"the figure is {path}; expected a name that ends in .png or .svg")
    content = make(plot_answers(answers, names))
    write_atomically(path, lambda file: file.write(content))


def _draw(axes: Axes, curve: Curve, look: Look, answers: Answers) -> None:
    fit = answers.fits.get(curve.family)
    mean = curve.mean
    if isinstance(fit, CurveFit):
        fine = np.geomspace(curve.x[0], curve.x[-1], 200)
        axes.plot(fine, fit.predict(fine), color=look.colour, linewidth=1.0, alpha=0.6, zorder=2)
    axes.plot(curve.x, np.exp(mean), color=look.colour, linestyle=look.line, linewidth=1.6, zorder=4)
    repeated = np.repeat(curve.x[None], curve.num_replicates, axis=0)
    axes.scatter(repeated, np.exp(curve.log_error), s=9, color=look.colour, alpha=0.38, linewidth=0, zorder=3)
    count = np.sum(~np.isnan(curve.log_error), axis=0)
    half = np.full(len(curve.x), np.nan)
    if curve.standard_error is not None:
        half = t_quantile(0.5 + answers.confidence / 2, np.inf) * curve.standard_error
    elif (count > 2).any():
        quantiles = np.array([t_quantile(0.5 + answers.confidence / 2, n - 1) if n > 2 else np.nan for n in count])
        half = quantiles * curve.log_std / np.sqrt(count)
    axes.fill_between(
        curve.x, np.exp(mean - half), np.exp(mean + half), color=look.colour, alpha=0.14, linewidth=0, zorder=1
    )
    axes.scatter(
        curve.x,
        np.exp(mean),
        marker=look.marker,
        s=34,
        facecolor=look.face,
        edgecolor=look.edge,
        linewidth=0.7,
        zorder=5,
    )
