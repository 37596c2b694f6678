"""What `study fit` prints below its statements: curves, comparisons at each x, fits, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from .analysis.answers import Answers
from .analysis.fitted_curve import CurveFit
from .analysis.jackknife import FEWEST_FOR_INTERVAL, t_quantile
from .analysis.paired import PairedTests
from .analysis.quantity import quantity
from .name_table import NameTable


def answer_tables(answers: Answers) -> Iterator[RenderableType]:
    """The tables of an analysis, in the order of reading."""
    if answers.table.curves:
        yield _curves(answers)
    for crossover in answers.crossovers:
        if not crossover.tests.tests.empty:
            yield _tests(crossover.tests)
    if any(isinstance(fit, CurveFit) for fit in answers.fits.values()):
        yield _fits(answers)
    left_out = list(dict.fromkeys(map(str, _left_out(answers))))
    if left_out:
        table = Table("left out, and why", title="Left out", title_justify="left")
        for line in left_out:
            table.add_row(line)
        yield table


def _curves(answers: Answers) -> Table:
    of = quantity(answers.table.columns.x)
    percent = f"{100 * answers.confidence:g}%"
    table = NameTable(
        *("family", of.axis, "replicates", "error", f"{percent} interval"),
        names=("family",),
        title="Curves",
        title_justify="left",
    )
    for family, curve in answers.table.curves.items():
        counts = np.sum(~np.isnan(curve.log_error), axis=0)
        for place, x in enumerate(curve.x):
            count, mean = int(counts[place]), float(curve.mean[place])
            se, degrees = float(curve.log_std[place]) / math.sqrt(count), float(count - 1)
            if curve.standard_error is not None:
                se, degrees = float(curve.standard_error[place]), math.inf
            half = t_quantile(0.5 + answers.confidence / 2, degrees) * se
            useful = degrees >= FEWEST_FOR_INTERVAL - 1 and not math.isnan(half)
            interval = "" if not useful else f"{_exp(mean - half, '.4g')} to {_exp(mean + half, '.4g')}"
            table.add_row(family, of.number(x), str(count), _error(math.exp(mean)), interval)
    return table


def _tests(tests: PairedTests) -> Table:
    of = quantity(tests.column)
    title = f"{tests.first} against {tests.second}: ratio of their errors, below 1 where {tests.first} is better"
    table = Table(
        of.axis,
        "pairs",
        "ratio",
        f"{100 * tests.confidence:g}% interval",
        "p",
        "p (Holm)",
        title=title,
        title_justify="left",
    )
    for row in tests.tests.to_dict("records"):
        useful = not math.isnan(row["low"]) and row["num_pairs"] != FEWEST_FOR_INTERVAL - 1
        interval = "" if not useful else f"{_exp(row['low'], '.3f')} to {_exp(row['high'], '.3f')}"
        shown = of.number(row["x"]) + ("" if row["measured"] else " (interpolated)")
        ratio = f"{math.exp(row['difference']):.3f}"
        table.add_row(shown, str(row["num_pairs"]), ratio, interval, _p(row["p_value"]), _p(row["p_holm"]))
    return table


def _fits(answers: Answers) -> Table:
    table = NameTable(
        *("family", "form", "floor", f"{100 * answers.confidence:g}% interval", "sizes", "cells"),
        names=("family",),
        title="Fitted curves",
        title_justify="left",
    )
    for family, fit in answers.fits.items():
        if isinstance(fit, CurveFit):
            floor = fit.floor
            interval = f"{_error(floor.low)} to {_error(floor.high)}" if floor.has_interval else ""
            table.add_row(
                family, f"{fit.form}: {fit.formula}", _error(floor.value), interval, str(len(fit.x)), str(fit.num_cells)
            )
    return table


def _left_out(answers: Answers) -> Iterator[object]:
    yield from answers.table.left_out
    for finding in answers.findings:
        yield from finding.left_out


def _error(value: float) -> str:
    return f"{value:.4g}"


def _exp(logarithm: float, form: str) -> str:
    """The end of an interval of a logarithm, in units of the errors or of their ratio."""
    with np.errstate(over="ignore", under="ignore"):
        value = float(np.exp(logarithm))
    return "unlimited" if math.isinf(value) else format(value, form if value < 1e6 else ".4g")


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}"
