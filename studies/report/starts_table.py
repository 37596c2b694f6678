"""What arms begin from, what that cost, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.paired import PairedTests
from studies.analysis.quantity import Quantity, quantity
from studies.analysis.summary import data_curves
from studies.counts import listed

from .palette import looks_of
from .tables import TWO_REPLICATES, Table, mean_text, percent


def starts_table(frame: pd.DataFrame) -> Table:
    """The start of every arm that has one, with its cost beside that of the fine-tuning.

    Args:
        frame: the table of records (`studies.records.records_frame`).
    """
    rows = []
    for arm, look in looks_of(frame).items():
        cells = frame[(frame["arm"] == arm) & (frame["start"] != "")].drop_duplicates("cell_id")
        for _, own in cells.groupby("num_pretrain", sort=True, dropna=False):
            size = float(own["num_pretrain"].iloc[0])
            pretraining, budget = (float(own[name].astype(float).mean()) for name in ("pretrain_flops", "budget_flops"))
            known = not math.isnan(pretraining)
            rows.append(
                (
                    look.label,
                    ", ".join(sorted(set(own["start"]))),
                    "not known" if math.isnan(size) else f"{size:,.0f}",
                    f"{', '.join(f'{px} px' for px in sorted(set(own['designed_for'])))}",
                    f"{', '.join(f'{px} px' for px in sorted(set(own['image_size'])))}",
                    f"{pretraining:.3g}" if known else "not known",
                    f"{budget:.3g}",
                    f"{pretraining / budget:.3g}" if known else "–",
                )
            )
    return Table(
        name="starts",
        title="What the arms begin from",
        columns=(
            "Arm",
            "Start",
            "Images of the start",
            "Their size",
            "Fine-tuned at",
            "FLOPs of the start",
            "FLOPs of fine-tuning",
            "Their ratio",
        ),
        rows=tuple(rows),
        note="Training FLOPs of one run, 3 × forward × images trained on. Those of the start are outside every budget: "
        "arms are compared at equal FLOPs of fine-tuning.",
        num_label_columns=2,
    )


def stages_table(stages: Mapping[str, pd.DataFrame]) -> Table:
    """What the earlier stages were trained with, and the error they came to.

    Args:
        stages: by name of the stage its table of records.
    """
    rows, masked = [], any((frame["objective"] == "masked_patches").any() for frame in stages.values())
    for name, frame in stages.items():
        curves = data_curves(frame, "full_budget").set_index(["arm", "num_train"])
        for arm, look in looks_of(frame).items():
            for size, cells in frame[frame["arm"] == arm].groupby("num_train", sort=True):
                full = cells[cells["branch"] == 1.0]
                known = (arm, size) in curves.index
                rows.append(
                    (
                        name,
                        look.label,
                        f"{size:,}",
                        *(_values(cells[column]) for column in ("learning_rate", "weight_decay")),
                        _values(full["steps"]) or "–",
                        _values(cells["batch_size"]),
                        mean_text(curves.loc[[(arm, size)]].iloc[0]) if known else "–",
                        str(int(curves["num_replicates"].loc[[(arm, size)]].iloc[0])) if known else "0",
                    )
                )
    return Table(
        name="stages",
        title="How the earlier stages were trained, and their own test error",
        columns=(
            *("Stage", "Network", "N", "Learning rate", "Weight decay", "Steps", "Batch", "Test error %", "Replicates"),
        ),
        rows=tuple(rows),
        note="Test error in the stage's own task, on its own test images: mean over replicates ± half-width of the 95% "
        f"t-interval of the mean. {TWO_REPLICATES}"
        + (" In masked patch prediction it is the error of the colours of hidden patches." if masked else ""),
        num_label_columns=2,
    )


def _values(column: pd.Series[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(column.dropna())))


def gain_table(tests: Sequence[PairedTests], names: Mapping[str, str]) -> Table:
    """At every size, the errors of an arm with a start as a multiple of those of the same network from scratch."""
    rows = []
    for one in tests:
        of = quantity(one.column)
        for row in one.tests.to_dict("records"):
            shown = of.number(row["x"]) + ("" if row["measured"] else " (interpolated)")
            rows.append(
                (
                    names[one.first],
                    names[one.second],
                    shown,
                    percent(math.exp(row["log_error_first"])),
                    percent(math.exp(row["log_error_second"])),
                    _ratio(row),
                    "–" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}",
                )
            )
    heading = quantity(tests[0].column).heading if tests else ""
    return Table(
        name="gain",
        title="What the start is worth",
        columns=("Arm", "From scratch", heading, "Error %", "From scratch %", "Ratio (95%)", "p (Holm)"),
        rows=tuple(rows),
        note="Geometric mean errors, and their ratio with a paired t-interval on log errors; below 1 the start helps. "
        "The interval holds for each size alone, p is corrected by Holm over the sizes of an arm. Both are trained on "
        "the same images with the same FLOPs of fine-tuning. Two replicates carry no useful interval: none is shown.",
        num_label_columns=2,
    )


def gain_statements(
    tests: Sequence[PairedTests], names: Mapping[str, str], first: Sequence[str] | None = None
) -> list[str]:
    """What the start is worth where its most images, or the fewest to fine-tune on, were used; then where else.

    Args:
        tests: of arms with a start against the same network from scratch.
        names: labels of the arms, in listing order.
        first: arms to tell of first, those of the declared pair.
    """
    told = []
    order = [*(first or ()), *names]
    for one in sorted(tests, key=lambda one: order.index(one.first)):
        rows = one.tests[one.tests["measured"].astype(bool)].sort_values("x")
        if rows.empty:
            continue
        of, at_most = quantity(one.column), one.column == "num_pretrain"
        row, *others = rows.to_dict("records")[:: -1 if at_most else 1]
        errors = f"{percent(math.exp(row['log_error_first']))}% against {percent(math.exp(row['log_error_second']))}%"
        text = (
            f"With {of.value(row['x'])} {names[one.first]} makes {_ratio(row)} times the errors of the same network "
            f"from scratch ({errors}{_significance(row, one.confidence)})"
        )
        sure = sorted((o for o in others if o["p_holm"] <= 1 - one.confidence), key=lambda o: float(o["x"]))
        text += _elsewhere([o for o in sure if o["difference"] < 0], "fewer", of)
        text += _elsewhere([o for o in sure if o["difference"] > 0], "more", of)
        told.append(f"{text}.")
    return told


def _elsewhere(rows: Sequence[Mapping[Hashable, float]], direction: str, of: Quantity) -> str:
    """Where else the errors differ significantly, with their ratios."""
    if not rows:
        return ""
    sizes, ratios = listed([of.number(row["x"]) for row in rows]), listed([_ratio(row) for row in rows])
    return f"; with {sizes} {of.unit} significantly {direction}, {ratios} times"


def _significance(row: Mapping[Hashable, float], confidence: float) -> str:
    p = row["p_holm"]
    if math.isnan(p):
        return ""
    return f"; {'' if p <= 1 - confidence else 'not '}significant, p = {p:.2g} by Holm's correction over sizes"


def _ratio(row: Mapping[Hashable, float]) -> str:
    """A ratio of errors with its interval, where more than two pairs of replicates make one."""
    text = f"{np.exp(row['difference']):.2f}"
    if math.isnan(row["low"]) or row["num_pairs"] == FEWEST_FOR_INTERVAL - 1:
        return text
    return f"{text} ({np.exp(row['low']):.2f} to {np.exp(row['high']):.2f})"
