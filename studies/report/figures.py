"""The figures of a study: data curves, error against training FLOPs, validation against test, training loss, cost.

Every function takes the table of records and returns a matplotlib `Figure` that belongs to no window; nothing is
written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from studies.curves import Crossing, Rule, curve_points, data_curves
from studies.records import Record, arm_name

from .axes import end_labels, error_axis, flops_axis, new_figure, print_style, size_axis
from .card import StudyCard
from .palette import CHANCE, FLOOR, INK, MUTED, Look, arm_looks, size_label

RULE_NAMES: dict[Rule, str] = {"selected": "branch chosen on validation", "full_budget": "branch at the full budget C"}

BAND_REPLICATES = (
    3  # two replicates give an interval of 12.7 standard errors: the table states it, a band would hide all
)


def looks_of(frame: pd.DataFrame) -> dict[str, Look]:
    """The look of every arm in the table, in listing order."""
    return arm_looks(dict(zip(frame["arm"], frame["family"], strict=True)))


def plot_curves(
    frame: pd.DataFrame, card: StudyCard | None = None, *, rule: Rule = "selected", crossing: Crossing | None = None
) -> Figure:
    """Test error against training images, both logarithmic.

    Lines are geometric means over replicates, bands their 95% t-intervals from three replicates up, faint dots the
    replicates themselves.

    Args:
        frame: the table of records; not empty after `rule`.
        card: adds chance, Bayes error and lambda.
        rule: which branch of each cell is read.
        crossing: marks the sign changes of the primary pair.
    """
    curves, points = data_curves(frame, rule), curve_points(frame, rule)
    with print_style():
        figure = new_figure(7.2, 4.5)
        axes = figure.add_subplot()
        looks = looks_of(frame)
        sizes = sorted(set(points["num_train"]))
        jitter = np.linspace(-0.012, 0.012, len(looks)) * math.log(max(sizes) / min(sizes)) if len(looks) > 1 else [0.0]
        ends = []
        for (arm, look), shift in zip(looks.items(), jitter, strict=True):
            curve, cells = curves[curves["arm"] == arm], points[points["arm"] == arm]
            if curve.empty:
                continue
            x, y = curve["num_train"].to_numpy(float), curve["geometric_mean"].to_numpy(float)
            banded = curve[["low", "high"]].where(curve["num_replicates"] >= BAND_REPLICATES)
            axes.fill_between(x, banded["low"], banded["high"], color=look.colour, alpha=0.14, linewidth=0, zorder=2)
            dots = cells["num_train"].to_numpy(float) * math.exp(shift), np.exp(cells["log_error"].to_numpy(float))
            axes.scatter(*dots, s=9, color=look.colour, alpha=0.38, linewidth=0, zorder=3)
            axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.8, zorder=4)
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
            ends.append((x[-1], y[-1], look.label, look.colour))
        size_axis(axes, sizes)
        shown = [*np.exp(points["log_error"]), *_reference_errors(card)]
        error_axis(axes, shown)
        _reference_lines(axes, card)
        _mark_sign_changes(axes, crossing)
        end_labels(axes, ends)
        axes.set_xlabel("training images N")
        axes.set_ylabel("test error")
        axes.set_title(f"{card.data_name if card else points['data'].iloc[0]}: {RULE_NAMES[rule]}")
        return figure


def _reference_errors(card: StudyCard | None) -> list[float]:
    """Levels that the error axis must contain: chance and lambda; a Bayes error near zero would squeeze the curves."""
    return [] if card is None else [card.chance_error, *([card.floor] if card.floor else [])]


def _reference_lines(axes: Axes, card: StudyCard | None) -> None:
    if card is None:
        return
    lines = [(card.chance_error, "chance", CHANCE, (0, (1, 2)))]
    if card.floor:
        lines.append((card.floor, f"λ = {100 * card.floor:.2g}%, floor of translation invariance", FLOOR, (0, (6, 3))))
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


def _mark_sign_changes(axes: Axes, crossing: Crossing | None) -> None:
    if crossing is None:
        return
    for change in crossing.sign_changes:
        axes.axvline(change.num_train, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.55, zorder=1)
        text = f"N* ≈ {size_label(float(f'{change.num_train:.2g}'))}"
        axes.annotate(
            text if crossing.decision == "crosses" else f"{text}\n({crossing.decision})",
            (change.num_train, 0.985),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="top",
            color=INK,
        )


def plot_error_against_flops(frame: pd.DataFrame, card: StudyCard | None = None) -> Figure:
    """Test error of every branch against its training FLOPs, one panel per training-set size (at most six)."""
    rows = frame[frame["status"].isin(["finished", "diverged"]) & frame["test_error"].notna()]
    sizes = _at_most(sorted(set(rows["num_train"])), 6)
    with print_style():
        columns = min(3, len(sizes))
        figure = new_figure(2.6 * columns + 1.2, 2.5 * math.ceil(len(sizes) / columns) + 0.5)
        panels = figure.subplots(
            math.ceil(len(sizes) / columns), columns, sharex=True, sharey=True, squeeze=False
        ).ravel()
        for panel, size in zip(panels, sizes, strict=False):
            for arm, look in looks_of(frame).items():
                cells = rows[(rows["num_train"] == size) & (rows["arm"] == arm)]
                if cells.empty:
                    continue
                means = cells.groupby("branch")[["train_flops", "test_error"]].mean()
                panel.plot(
                    means["train_flops"],
                    means["test_error"].clip(lower=1e-5),
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
        flops_axis(panels[0], rows.groupby("branch")["train_flops"].mean().tolist())
        for index in range(len(sizes), len(panels)):
            panels[index].set_axis_off()
            panels[index - columns].tick_params(labelbottom=True)
        shown = rows.groupby(["arm", "num_train", "branch"])["test_error"].mean().clip(lower=1e-5)
        error_axis(panels[0], shown.tolist())
        figure.supxlabel("training FLOPs (3 × forward × images seen)", fontsize=9.5)
        figure.supylabel("test error", fontsize=9.5)
        _legend_of(figure, list(panels))
        return figure


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
            )
        both = [*rows["validation_error"].clip(lower=1e-5), *np.exp(rows["log_error"])]
        error_axis(axes, both)
        error_axis(axes, both, which="x")
        axes.axline((0.1, 0.1), (0.2, 0.2), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xlabel("validation error of the chosen branch")
        axes.set_ylabel("test error")
        _legend_of(figure, [axes])
        return figure


def plot_training_loss(records: Sequence[Record]) -> Figure:
    """Training loss of the trunk against training FLOPs at three sizes, mean over replicates."""
    rows = [
        (arm_name(r.cell["family"], r.cell["variant"]), r.cell["family"], r.cell["num_train"], e.train_flops, e.loss)
        for r in records
        for e in r.train_losses
        if e.branch == 0 and math.isfinite(e.loss)
    ]
    table = pd.DataFrame(rows, columns=["arm", "family", "num_train", "train_flops", "loss"])
    sizes = _at_most(sorted(set(table["num_train"])), 3)
    with print_style():
        figure = new_figure(2.6 * len(sizes) + 1.2, 3.0)
        panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False).ravel()
        for panel, size in zip(panels, sizes, strict=True):
            for arm, look in looks_of(table).items():
                entries = table[(table["num_train"] == size) & (table["arm"] == arm)]
                trace = entries.groupby("train_flops")["loss"].mean()
                if not trace.empty:
                    panel.plot(
                        trace.index, trace, color=look.colour, linestyle=look.line, linewidth=1.5, label=look.label
                    )
            panel.set_title(f"N = {size:,}")
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


def _at_most(sizes: list[int], count: int) -> list[int]:
    """`count` of the sizes, evenly spread, ends included."""
    if len(sizes) <= count:
        return sizes
    return [sizes[round(index)] for index in np.linspace(0, len(sizes) - 1, count)]


def _legend_of(figure: Figure, panels: Sequence[Axes]) -> None:
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9)
