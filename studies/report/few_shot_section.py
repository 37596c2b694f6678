"""Few-shot linear evaluation of what the arms begin from: its table, its figure, and what they say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.analysis.few_shot_curves import FewShotAnswers
from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.quantity import quantity
from studies.counts import counted

from .axes import end_labels, error_axis, new_figure, print_style, size_axis
from .card import StudyCard
from .curve_figures import BAND_REPLICATES
from .palette import CHANCE, Look, looks_of
from .tables import TWO_REPLICATES, Table, mean_text


def few_shot_table(few_shot: FewShotAnswers) -> Table:
    """Error per network, pretraining images and shots: mean ± half-width of the 95% t-interval over replicates."""
    rows = []
    curves, looks = few_shot.curves, looks_of(few_shot.frame)
    for arm, look in looks.items():
        for _, own in curves[curves["arm"] == arm].groupby(["num_pretrain", "designed_for"], dropna=False):
            of = own.set_index("shots")
            texts = [mean_text(of.loc[[shots]].iloc[0]) if shots in of.index else "–" for shots in few_shot.shots]
            size = float(own["num_pretrain"].iloc[0])
            rows.append((look.label, _size(size), *texts, str(int(own["num_replicates"].max()))))
    note = (
        "Percent of test images misclassified by ridge regression, in closed form, on the features that the classifier "
        f"reads: mean over replicates of the mean over {counted(few_shot.draws, 'draw')} of k labelled images per "
        f"class, ± half-width of its 95% t-interval over replicates. {few_shot.covered} The images are "
        "drawn from all that are not held out, also where fewer are fine-tuned on; the regularisation is chosen on the "
        "validation images. Untrained: the same networks with the weights they were drawn with."
    )
    if (curves["num_replicates"] == FEWEST_FOR_INTERVAL - 1).any():
        note += f" {TWO_REPLICATES}"
    if few_shot.missing:
        note += f" Without a result: {'; '.join(few_shot.missing)}."
    return Table(
        name="few_shot",
        title="Few-shot on frozen features",
        columns=("Network", "Pretrained on", *(f"k = {shots:,}" for shots in few_shot.shots), "Replicates"),
        rows=tuple(rows),
        note=note,
        num_label_columns=2,
    )


def few_shot_statements(few_shot: FewShotAnswers) -> list[str]:
    """For every pretrained arm, its error with the most images of either kind, beside the same network untrained."""
    told = []
    curves, looks = few_shot.curves, looks_of(few_shot.frame)
    at_most = curves[curves["shots"] == few_shot.shots[-1]]
    untrained = at_most[at_most["num_pretrain"] == 0]
    for arm, look in looks.items():
        own = at_most[(at_most["arm"] == arm) & (at_most["num_pretrain"] != 0)].sort_values("num_pretrain")
        if own.empty:
            continue
        row = own.iloc[-1] if own["num_pretrain"].isna().all() else own.dropna(subset=["num_pretrain"]).iloc[-1]
        of = few_shot.frame.loc[few_shot.frame["arm"] == arm, ["family", "variant"]].iloc[0]
        same = few_shot.frame[(few_shot.frame[["family", "variant"]] == of).all(axis=1)]["arm"]
        reference = untrained[untrained["arm"].isin(same) & (untrained["designed_for"] == row["designed_for"])]
        text = (
            f"With {few_shot.shots[-1]:,} labelled images per class (few-shot), a linear map of the frozen features of "
            f"{look.label}{_pretrained(float(row['num_pretrain']))} makes "
            f"{mean_text(row)}% errors"
        )
        if not reference.empty:
            first = reference.iloc[0]
            text += f"; one of the untrained network makes {mean_text(first)}%"
        told.append(f"{text}.")
    return told


def has_figure(few_shot: FewShotAnswers) -> bool:
    """Whether there are two pretraining sizes to draw a curve over."""
    return len(_sizes(few_shot)) > 1


def plot_few_shot(few_shot: FewShotAnswers, card: StudyCard) -> Figure:
    """Error with the most shots against pretraining images; the untrained networks as lines across.

    Lines are means over replicates, bands their 95% t-intervals from three replicates up, dots the replicates.
    """
    shots, looks, sizes = few_shot.shots[-1], looks_of(few_shot.frame), _sizes(few_shot)
    curves = few_shot.curves[few_shot.curves["shots"] == shots]
    frame = few_shot.frame[few_shot.frame["shots"] == shots].astype({"num_pretrain": float})
    points = frame.groupby(["arm", "num_pretrain", "replicate"], as_index=False)["test_error"].mean()
    with print_style():
        figure = new_figure(7.2, 4.5)
        axes = figure.add_subplot()
        ends = []
        for arm, look in looks.items():
            own = curves[(curves["arm"] == arm) & curves["num_pretrain"].notna()]
            for error in own.loc[own["num_pretrain"] == 0, "mean"]:
                axes.axhline(error, color=look.colour, linestyle=(0, (1, 1.5)), linewidth=1.2, alpha=0.8, zorder=2)
                ends.append((float(sizes[-1]), _positive(error), f"{look.label} untrained", look.colour))
            trained = own[own["num_pretrain"] > 0]
            if trained.empty:
                continue
            x, mean = trained["num_pretrain"].to_numpy(float), trained["mean"].to_numpy(float)
            half = trained["half_width"].where(trained["num_replicates"] >= BAND_REPLICATES).to_numpy(float)
            low = np.fmax(mean - half, mean / 10)  # an interval that reaches zero has no end on a logarithmic axis
            axes.fill_between(x, low, mean + half, color=look.colour, alpha=0.14, linewidth=0, zorder=2)
            dots = points[(points["arm"] == arm) & (points["num_pretrain"] > 0)]
            axes.scatter(dots["num_pretrain"], dots["test_error"], s=9, color=look.colour, alpha=0.38, linewidth=0)
            axes.plot(x, mean, color=look.colour, linestyle=look.line, linewidth=1.8, zorder=4)
            _markers(axes, x, mean, look)
            ends.append((float(x[-1]), _positive(float(mean[-1])), look.label, look.colour))
        axes.axhline(card.chance_error, color=CHANCE, linestyle=(0, (1, 2)), linewidth=1.1, zorder=1)
        size_axis(axes, sizes)
        error_axis(axes, [*points["test_error"], card.chance_error])
        end_labels(axes, ends)
        axes.set_xlabel(quantity("num_pretrain").axis)
        axes.set_ylabel("test error")
        axes.set_title(f"{card.data_name}: ridge regression on frozen features, {shots:,} images per class")
        return figure


def _markers(axes: Axes, x: np.ndarray, y: np.ndarray, look: Look) -> None:
    axes.scatter(x, y, marker=look.marker, s=34, facecolor=look.face, edgecolor=look.edge, linewidth=0.9, zorder=5)


def _sizes(few_shot: FewShotAnswers) -> list[int]:
    known: pd.Series[float] = few_shot.curves["num_pretrain"].dropna()
    return sorted({int(size) for size in known if size > 0})


def _positive(error: float) -> float:
    """An error where a label can stand on a logarithmic axis."""
    return max(error, 1e-6)


def _size(size: float) -> str:
    if math.isnan(size):
        return "not known"
    return f"{size:,.0f}" if size else "untrained"


def _pretrained(size: float) -> str:
    return "" if math.isnan(size) else f", pretrained on {size:,.0f} images,"
