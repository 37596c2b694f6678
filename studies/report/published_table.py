"""Published numbers and the study's own, row under row, in the layout of the paper's table."""

from __future__ import annotations

import pandas as pd

from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.of_records import Rule
from studies.analysis.summary import data_curves
from studies.published import PlacedArm, Published

from .tables import TWO_REPLICATES, Table, mean_text, size_heading

EMPTY = "–"


def published_table(frame: pd.DataFrame, published: Published, rule: Rule = "selected", x: str = "num_train") -> Table:
    """A line of published numbers for each row of the paper's table, and under it a line of ours for each size.

    Args:
        frame: the table of records (`studies.records.records_frame`).
        published: the section of the study file.
        rule: which branch of each cell is read.
        x: which size, `num_train` or `num_pretrain`.
    """
    measured = {
        (row["arm"], int(row[x])): mean_text(row, accuracy=published.measure == "accuracy")
        for _, row in data_curves(frame, rule, x=x).iterrows()
    }
    sizes = sorted({size for _, size in measured})
    width = len(published.columns)
    scale = 100 if max(published.values.values()) <= 1 else 1
    two = (data_curves(frame, rule, x=x)["num_replicates"] == FEWEST_FOR_INTERVAL - 1).any()

    def printed(arm: PlacedArm) -> str:
        return f"{scale * published.values[arm]:g}" if arm in published.values else EMPTY

    rows = []
    for head, named in published.rows.items():
        arms = (*named, *[None] * (width - len(named)))
        rows.append((head, "published", *map(printed, arms)))
        rows += [
            ("", f"ours, {size_heading(size, x)}", *(measured.get((arm, size), EMPTY) for arm in arms))
            for size in sizes
        ]
    return Table(
        name="published",
        title="Beside the published numbers",
        columns=("", "", *published.columns),
        rows=tuple(rows),
        note=f"Published: {published.quantity}, in percent; {published.source}. Ours: test {published.measure} in "
        "percent, mean over replicates ± half-width of the 95% t-interval of the mean, of runs on other data, of other "
        "sizes and trained in another way: what can be compared is the order." + (f" {TWO_REPLICATES}" if two else ""),
        num_label_columns=2,
    )
