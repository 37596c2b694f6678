"""The ladder of permutations: its table, its figure, and what they say."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from studies.analysis.finding import name_of
from studies.analysis.ladder import Ladder
from studies.analysis.permutation_change import PermutationChange
from studies.analysis.quantity import quantity
from studies.analysis.rungs import REFERENCE, SCOPES

from .answer_figures import ratio_axis
from .axes import new_figure, print_style
from .card import StudyCard
from .palette import CHANCE, INK, MUTED, Look
from .tables import Table, percent

RUNG_LABELS: Mapping[str, str] = {
    REFERENCE: "as they are",
    "within_patch": "within patches",
    "patches": "patches",
    "pixels": "all pixels",
}
_RUNG_COLOURS: Mapping[str, str] = {
    REFERENCE: "#d9dee4",
    "within_patch": "#9ec5e0",
    "patches": "#4a90c2",
    "pixels": "#12477a",
}
_FARTHEST = math.log(1000)
"""Ends of intervals are drawn up to here."""


def ladder_table(ladder: Ladder, names: Mapping[str, str]) -> Table:
    """Error at every rung, and its change against images as they are."""
    tests = {(one.family, row["rung"], row["x"]): row for one in ladder.changes for row in one.tests.to_dict("records")}
    of = quantity(ladder.column)
    arms = set(ladder.errors["arm"])
    rows = []
    for arm in (name for name in names if name in arms):
        for row in ladder.errors[ladder.errors["arm"] == arm].to_dict("records"):
            test = tests.get((arm, row["rung"], row["x"]))
            chance = " ‡" if row["near_chance"] else ""
            rows.append(
                (
                    names[arm],
                    RUNG_LABELS[row["rung"]],
                    of.number(row["x"]),
                    percent(row["mean"], row["half_width"]) + chance,
                    "–" if test is None else _ratio(test["change"], test["low"], test["high"]),
                    "–" if test is None or math.isnan(test["p_holm"]) else f"{test['p_holm']:.2g}",
                    str(row["num_replicates"]),
                )
            )
    note = (
        "Error: mean over replicates ± half-width of its 95% t-interval. Factor: geometric mean error against that of "
        "the same arm on images as they are, paired by replicate, with a 95% t-interval on log errors; p corrected by "
        "Holm over all permutations and sizes of the arm. One permutation serves for all images and replicates: the "
        "intervals do not cover others."
    )
    if ladder.errors["near_chance"].any():
        note += " ‡ Above 0.8 of chance: it has little room to rise, and its factor is the smaller for it."
    if ladder.left_out:
        note += f" Left out: {'; '.join(map(str, ladder.left_out))}."
    return Table(
        name="ladder",
        title="What permutations of the images cost each arm",
        columns=("Arm", "Permuted", of.heading, "Error %", "Factor (95%)", "p (Holm)", "Replicates"),
        rows=tuple(rows),
        note=note,
        num_label_columns=2,
    )


def ladder_difference_table(ladder: Ladder, names: Mapping[str, str]) -> Table:
    """The difference of differences of the declared pair at every rung."""
    first, second = (name_of(arm, names) for arm in (ladder.differences[0].first, ladder.differences[0].second))
    rows = []
    for one in ladder.differences:
        for row in one.tests.to_dict("records"):
            sign = -1 if row["difference"] < 0 else 1
            low, high = sorted((sign * row["low"], sign * row["high"]))
            p_text = "–" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}"
            rows.append(
                (
                    RUNG_LABELS[one.rung],
                    quantity(one.column).number(row["x"]),
                    _ratio(row["unpermuted"], math.nan, math.nan),
                    _ratio(row["permuted"], math.nan, math.nan),
                    first if sign < 0 else second,
                    _ratio(sign * row["difference"], low, high) + (" ‡" if row["near_chance"] else ""),
                    "not told: at chance" if row["near_chance"] else p_text,
                    str(row["num_replicates"]),
                )
            )
    note = (
        f"Error ratio: errors of {first} over those of {second} (geometric means). Ratio of the factors: how many "
        "times more the permutation multiplies the errors of the arm named before it than those of the other; what the "
        "two differ in besides (norm, optimisability, parameters) is in both error ratios, and cancels as far as it "
        "acts alike in both. 95% t-interval, paired by replicate; p corrected by Holm over all permutations and sizes."
    )
    if any(one.tests["near_chance"].any() for one in ladder.differences):
        note += (
            " ‡ An arm is above 0.8 of chance: its factor is smaller than what it lost, and the ratio says nothing of "
            "who lost more."
        )
    return Table(
        name="ladder_difference",
        title=f"Difference of differences of {first} and {second}",
        columns=(
            "Permuted", quantity(ladder.column).heading, "Error ratio as they are", "Error ratio permuted",
            "Larger factor", "Ratio of the factors (95%)", "p (Holm)", "Replicates",
        ),
        rows=tuple(rows),
        note=note,
    )  # fmt: skip


def ladder_statements(ladder: Ladder, names: Mapping[str, str]) -> list[str]:
    """The difference of differences of the declared pair, then what every arm loses."""
    ranked = {name: place for place, name in enumerate(names)}
    changes = sorted(ladder.changes, key=lambda one: ranked.get(one.family, len(ranked)))
    return [one.sentence(names) for one in (*ladder.differences, *changes)]


def ladder_remarks(ladder: Ladder, names: Mapping[str, str]) -> list[str]:
    """What must be known of the rungs."""
    told = []
    for rung, rows in ladder.at_chance.groupby("rung", sort=False):
        arms = [names[arm] for arm in names if arm in set(rows["arm"])]
        told.append(
            f"With {SCOPES[str(rung)]}, {', '.join(arms)} {'is' if len(arms) == 1 else 'are'} above 0.8 of chance: "
            "an error that cannot rise further says how much is lost at least, not how much."
        )
    told += [f"{item}." for item in ladder.left_out]
    return told


def plot_ladder(ladder: Ladder, looks: Mapping[str, Look], card: StudyCard) -> Figure:
    """Errors at every rung as bars, and their factors against images as they are, at the largest size."""
    x = float(ladder.errors["x"].max())
    errors = ladder.errors[ladder.errors["x"] == x]
    arms = [arm for arm in looks if arm in set(errors["arm"])]
    rungs = (REFERENCE, *ladder.rungs)
    of = quantity(ladder.column)
    with print_style():
        figure = new_figure(9.6, 4.3)
        left, right = figure.subplots(1, 2)
        _error_bars(left, errors, arms, rungs, card)
        _factor_bars(right, ladder.changes, arms, ladder.rungs, x)
        for axes in (left, right):
            axes.set_xticks(range(len(arms)), [textwrap.fill(looks[arm].label, 11) for arm in arms])
            axes.grid(False, axis="x")
            axes.tick_params(axis="x", length=0)
        patches = [Patch(facecolor=_RUNG_COLOURS[rung], edgecolor=MUTED, linewidth=0.5) for rung in rungs]
        figure.legend(
            patches, [RUNG_LABELS[rung] for rung in rungs], loc="outside lower center", ncols=len(rungs),
            title="pixels of the images permuted",
        )  # fmt: skip
        left.set_title(f"{card.data_name}: test error, {of.axis} = {of.number(x)}")
        right.set_title("errors as a multiple of those on images as they are")
        return figure


def _error_bars(axes: Axes, errors: pd.DataFrame, arms: list[str], rungs: tuple[str, ...], card: StudyCard) -> None:
    width = 0.84 / len(rungs)
    for place, rung in enumerate(rungs):
        own = errors[errors["rung"] == rung].set_index("arm").reindex(arms)
        at = np.arange(len(arms)) + (place - (len(rungs) - 1) / 2) * width
        mean, half = 100 * own["mean"].to_numpy(float), 100 * own["half_width"].to_numpy(float)
        axes.bar(at, mean, 0.92 * width, color=_RUNG_COLOURS[rung], edgecolor=MUTED, linewidth=0.5, zorder=2)
        low = np.fmin(half, mean)  # an error is not below zero
        axes.errorbar(at, mean, [low, half], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.2, zorder=3)
    chance = 100 * card.chance_error
    axes.axhline(chance, color=CHANCE, linestyle=(0, (1, 2)), linewidth=1.1, zorder=1)
    axes.annotate("chance", (1, chance), xycoords=axes.get_yaxis_transform(), xytext=(-2, 2),
                  textcoords="offset points", color=MUTED, fontsize=8, ha="right")  # fmt: skip
    axes.set_ylim(0, 1.12 * chance)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))


def _factor_bars(
    axes: Axes, changes: tuple[PermutationChange, ...], arms: list[str], rungs: tuple[str, ...], x: float
) -> None:
    width, drawn = 0.84 / len(rungs), [1.0]
    for one in changes:
        if one.family not in arms:
            continue
        for row in one.tests[one.tests["x"] == x].to_dict("records"):
            at = arms.index(one.family) + (rungs.index(row["rung"]) - (len(rungs) - 1) / 2) * width
            factor = float(np.exp(row["change"]))
            colour = _RUNG_COLOURS[row["rung"]]
            axes.bar(at, factor - 1, 0.92 * width, bottom=1, color=colour, edgecolor=MUTED, linewidth=0.5, zorder=2)
            ends = [float(np.exp(np.clip(row[end], -_FARTHEST, _FARTHEST))) for end in ("low", "high")]
            drawn += [factor]
            if not math.isnan(row["low"]):
                axes.plot([at, at], ends, color=INK, linewidth=0.9, zorder=3)
                axes.plot([at, at], ends, color=INK, linestyle="none", marker="_", markersize=4.5, zorder=3)
                drawn += [end for end in ends if 1 / 30 < end / factor < 30]
    ratio_axis(axes, np.array(drawn))
    axes.axhline(1, color=INK, linewidth=0.9, zorder=4)


def _ratio(difference: float, low: float, high: float) -> str:
    text = f"{np.exp(difference):.2f}"
    return text if math.isnan(low) else f"{text} ({_end(low)} to {_end(high)})"


def _end(value: float) -> str:
    if value > _FARTHEST:
        return "> 1,000"
    return f"{np.exp(value):.2f}" if value > math.log(0.005) else "< 0.01"
