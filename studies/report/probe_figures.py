"""Figures of what probes measured as numbers: attention, equivariance, shifts, shuffled patches.

Lines are means over replicates, bands their 95% t-intervals from three replicates up; full lines are trained networks,
broken ones the same networks before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from studies.analysis.of_records import curve_points
from studies.analysis.probe_answers import INITIAL, TRAINED, ProbeAnswers, probe_curve
from studies.analysis.quantity import quantity

from .axes import new_figure, print_style, size_axis
from .curve_figures import BAND_REPLICATES
from .palette import GRID, MUTED, Look

FEATURES = "features"
"""Name of the layer whose output the classifier reads."""
MOST_PANELS = 6
BEFORE = (0, (3, 2))
"""The line of untrained networks."""
_BOUNDS: Mapping[str, tuple[str, object]] = {
    "all patches alike": ("uniform", (0, (1, 1.6))),
    "the farthest patch alone": ("largest", (0, (6, 1.5, 1, 1.5))),
}
"""What attention distance is held against, by label: name of its array and line."""


def plot_attention_distance(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """Mean attention distance of every head against depth, a panel per arm, trained and untrained.

    From 0 to the distance of attention to the farthest patch alone, where results say it; no head looks farther.
    """
    readings = at_largest(probes.of("attention_distance"))
    arms = [arm for arm in looks if arm in set(readings["arm"])][:MOST_PANELS]
    bounds = {
        label: (probes.arrays_of("attention_distance", f"{name}_attention_distance"), line)
        for label, (name, line) in _BOUNDS.items()
    }
    drawn = [(label, line) for label, (of_arm, line) in bounds.items() if set(arms) & set(of_arm)]
    with print_style():
        figure = new_figure(max(3.1 * len(arms), 4.6), 3.9)
        panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, arm in zip(panels, arms, strict=True):
            own, look = readings[readings["arm"] == arm], looks[arm]
            for weights, colour, shift, filled in ((INITIAL, MUTED, -0.12, False), (TRAINED, look.colour, 0.12, True)):
                heads = own[own["weights"] == weights]
                if heads.empty:
                    continue
                axes.scatter(
                    heads["depth"] + 1 + shift, heads["value"], s=20, facecolor=colour if filled else "none",
                    edgecolor=colour, alpha=0.65, linewidth=0.8 if not filled else 0, zorder=3,
                )  # fmt: skip
                curve = probe_curve(heads, ["depth"])
                axes.plot(
                    curve["depth"] + 1 + shift, curve["mean"], color=colour, linewidth=1.7, zorder=4,
                    linestyle="-" if filled else BEFORE,
                )  # fmt: skip
            for of_arm, line in bounds.values():
                if arm in of_arm:
                    depths = np.arange(1, len(of_arm[arm]) + 1)
                    axes.plot(depths, of_arm[arm], color=MUTED, linestyle=line, linewidth=1.1, zorder=2)
            axes.set_title(look.label)
            axes.set_xlabel("transformer block")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(x=0.16)
        panels[0].set_ylim(bottom=0)  # after all are drawn: it ends the choice of the upper end, which they share
        panels[0].set_ylabel("mean attention distance in pixels")
        _before_after(figure, dots=True, extra=drawn)
        return figure


def plot_equivariance(probes: ProbeAnswers, looks: Mapping[str, Look], frame: pd.DataFrame) -> Figure:
    """Translation equivariance error by depth, and that of the features by size of the training set and by test error.

    The panels share their scale, from 0. Networks that were pretrained on no images are a level line, since a
    logarithmic axis has no place for them.

    Args:
        probes: the readings.
        looks: of the arms.
        frame: the table of records, whose test errors at the full budget the third panel takes.
    """
    readings = probes.of("equivariance_error")
    largest, last = at_largest(readings), of_features(readings)
    arms = [arm for arm in looks if arm in set(readings["arm"])]
    with print_style():
        figure = new_figure(11.0, 3.9)
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for arm in arms:
            look = looks[arm]
            _lines(left, _relative_depth(largest[largest["arm"] == arm]), "place", look)
            curve = probe_curve(last[last["arm"] == arm], ["size"])
            trained = curve[curve["weights"] == TRAINED]
            _line(middle, trained.loc[trained["size"] > 0, "size"], trained[trained["size"] > 0], look)
            for scratch in trained.loc[trained["size"] == 0, "mean"]:  # pretrained on none: a level for every size
                middle.axhline(float(scratch), color=look.colour, linestyle=look.line, linewidth=1.8)
            before = curve.loc[curve["weights"] == INITIAL, "mean"]
            if len(before):
                middle.axhline(float(before.mean()), color=look.colour, linestyle=BEFORE, linewidth=1.0, alpha=0.7)
            both = _with_test_error(last[(last["arm"] == arm) & (last["weights"] == TRAINED)], frame)
            right.scatter(
                100 * both["test_error"], both["value"], s=26, marker=look.marker, facecolor=look.face,
                edgecolor=look.edge if not look.open else look.colour, linewidth=0.8, zorder=3,
            )  # fmt: skip
        if sizes := sorted({int(size) for size in last["size"] if size > 0}):
            size_axis(middle, sizes)
        left.set_xlabel("depth, from the first layer to the logits")
        middle.set_xlabel(quantity(probes.x).axis)
        right.set_xlabel("test error of the network in percent")
        left.set_ylabel("translation equivariance error per pixel")
        for axes, title in ((left, "by layer"), (middle, "of the features"), (right, "of the features, by test error")):
            axes.set_title(title)
            axes.yaxis.set_tick_params(labelleft=True)
        left.set_ylim(bottom=0)
        left.set_xlim(-0.03, 1.03)
        _before_after(figure, arms=[(looks[arm].label, looks[arm]) for arm in arms])
        return figure


def plot_shift_consistency(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """Consistency of correct predictions against the shift, circular and by crops."""
    kinds = (("roll_consistency", "circular shift"), ("crop_consistency", "crop of the padded image"))
    with print_style():
        figure = new_figure(8.2, 3.8)
        panels = figure.subplots(1, 2, sharey=True)
        arms: list[str] = []
        for axes, (name, title) in zip(panels, kinds, strict=True):
            readings = at_largest(probes.of(name))
            arms += [arm for arm in looks if arm in set(readings["arm"]) and arm not in arms]
            for arm in arms:
                _lines(axes, readings[readings["arm"] == arm], "setting", looks[arm])
            axes.set_title(title)
            axes.set_xlabel("shift in pixels")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.axhline(0, color=GRID, linewidth=1.0, zorder=1)
        low = min(panels[0].get_ylim()[0], -0.03)
        panels[0].set_ylim(low, 1.03)
        panels[0].set_ylabel("shift consistency (κ) where correct")
        before = any((probes.of(name)["weights"] == INITIAL).any() for name, _ in kinds)
        _before_after(figure, arms=[(looks[arm].label, looks[arm]) for arm in arms], before=before)
        return figure


def plot_patch_shuffle(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """Accuracy above chance that is left when the patches of a grid are shuffled at test time."""
    readings = at_largest(probes.of("patch_shuffle_retained"))
    readings = readings[readings["weights"] == TRAINED]
    arms = [arm for arm in looks if arm in set(readings["arm"])]
    grids = sorted({int(grid) for grid in readings["setting"]})
    with print_style():
        figure = new_figure(5.6, 3.9)
        axes = figure.add_subplot()
        for arm in arms:
            curve = probe_curve(readings[readings["arm"] == arm], ["setting"])
            _line(axes, curve["setting"].map(grids.index), curve, looks[arm])
        axes.axhline(0, color=GRID, linewidth=1.0, zorder=1)
        axes.set_xticks(range(len(grids)), [f"{grid} × {grid}" for grid in grids])
        axes.set_xlabel("grid whose patches are shuffled")
        axes.set_ylabel("accuracy above chance that is left")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        figure.legend(
            *zip(*((_handle(looks[arm]), looks[arm].label) for arm in arms), strict=True),
            loc="outside lower center", ncols=min(4, len(arms)),
        )  # fmt: skip
        return figure


def at_largest(readings: pd.DataFrame) -> pd.DataFrame:
    """Those of every arm at the largest size it was probed at."""
    return readings[readings["size"] == readings.groupby("arm")["size"].transform("max")]


def of_features(readings: pd.DataFrame) -> pd.DataFrame:
    """Those of the features that the classifier reads, which untrained networks have too."""
    return readings[readings["layer"] == FEATURES]


def _relative_depth(readings: pd.DataFrame) -> pd.DataFrame:
    """With `place`, from 0 at the first layer to 1 at the logits, so that networks of any depth share an axis."""
    depth = readings["depth"].astype(float)
    depth = depth.fillna(depth.max() + 1 if depth.notna().any() else 1.0)
    return readings.assign(place=depth / max(float(depth.max()), 1.0))


def _with_test_error(readings: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Readings with the test error of the weights that were probed, those of the full budget."""
    errors = curve_points(frame, "full_budget")[["cell_id", "test_error"]]
    return readings.merge(errors, on="cell_id", how="inner")


def _lines(axes: Axes, readings: pd.DataFrame, over: str, look: Look) -> None:
    curve = probe_curve(readings, [over])
    for weights in (INITIAL, TRAINED):
        own = curve[curve["weights"] == weights]
        if weights == INITIAL:
            axes.plot(own[over], own["mean"], color=look.colour, linestyle=BEFORE, linewidth=1.0, alpha=0.7, zorder=3)
        else:
            _line(axes, own[over], own, look)


def _line(axes: Axes, x: pd.Series[float], curve: pd.DataFrame, look: Look) -> None:
    mean = curve["mean"].to_numpy(float)
    half = curve["half_width"].where(curve["num_replicates"] >= BAND_REPLICATES).to_numpy(float)
    axes.fill_between(x, mean - half, mean + half, color=look.colour, alpha=0.14, linewidth=0, zorder=2)
    axes.plot(x, mean, color=look.colour, linestyle=look.line, linewidth=1.8, zorder=4)
    axes.scatter(x, mean, marker=look.marker, s=26, facecolor=look.face, edgecolor=look.edge, linewidth=0.8, zorder=5)


def _handle(look: Look) -> Line2D:
    line = Line2D(
        [], [], color=look.colour, marker=look.marker, markersize=6, markerfacecolor=look.face,
        markeredgecolor=look.edge,
    )  # fmt: skip
    line.set_linestyle(look.line)  # type: ignore[arg-type]  # any style of the palette
    return line


def _before_after(
    figure: Figure,
    *,
    arms: Sequence[tuple[str, Look]] = (),
    dots: bool = False,
    before: bool = True,
    extra: Sequence[tuple[str, object]] = (),
) -> None:
    """A legend of arms and of what is before and after training."""
    entries = [(_handle(look), label) for label, look in arms]
    if dots:
        entries.append((Line2D([], [], color=MUTED, marker="o", markersize=5), "trained, a dot per head"))
    if before:
        entries.append((
            Line2D([], [], color=MUTED, linestyle=BEFORE, marker="o" if dots else None, markerfacecolor="none",
                   markersize=5, linewidth=1.2),
            "before training",
        ))  # fmt: skip
    entries += [(Line2D([], [], color=MUTED, linestyle=line, linewidth=1.1), label) for label, line in extra]  # type: ignore[arg-type]
    handles, labels = zip(*entries, strict=True)
    per_row = max(1, int(figure.get_figwidth() / 2.2))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(per_row, len(entries)))
