"""What arms begin from, what that cost, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from studies.analysis.paired import PairedTests
from studies.analysis.quantity import quantity

from .palette import looks_of
from .tables import Table, percent


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
                    _ratio(row["difference"], row["low"], row["high"]),
                    "–" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}",
                )
            )
    axis = quantity(tests[0].column).axis if tests else ""
    return Table(
        name="gain",
        title="What the start is worth",
        columns=("Arm", "From scratch", axis.capitalize(), "Error %", "From scratch %", "Ratio (95%)", "p (Holm)"),
        rows=tuple(rows),
        note="Geometric mean errors, and their ratio with a paired t-interval on log errors; below 1 the start helps. "
        "Both are trained on the same images with the same FLOPs of fine-tuning.",
        num_label_columns=2,
    )


def gain_statements(tests: Sequence[PairedTests], names: Mapping[str, str]) -> list[str]:
    """What the start is worth where its most images, or the fewest to fine-tune on, were used."""
    told = []
    for one in tests:
        rows = one.tests[one.tests["measured"].astype(bool)]
        if rows.empty:
            continue
        over_starts = one.column == "num_pretrain"
        row = rows.sort_values("x").iloc[-1 if over_starts else 0]
        ratio = _ratio(row["difference"], row["low"], row["high"])
        at = quantity(one.column).value(float(row["x"]))
        told.append(
            f"With {at} {names[one.first]} makes {ratio} times the errors "
            f"of the same network from scratch ({percent(math.exp(row['log_error_first']))}% against "
            f"{percent(math.exp(row['log_error_second']))}%)."
        )
    return told


def _ratio(difference: float, low: float, high: float) -> str:
    text = f"{np.exp(difference):.2f}"
    return text if math.isnan(low) else f"{text} ({np.exp(low):.2f} to {np.exp(high):.2f})"
