"""What pretraining is worth: every arm with a start against the same network trained from scratch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .of_records import Rule, records_table
from .paired import PairedTests, paired_tests


def against_scratch(
    frame: pd.DataFrame,
    *,
    x: str = "num_train",
    rule: Rule = "selected",
    blocks: Mapping[Hashable, np.ndarray] | None = None,
) -> tuple[PairedTests, ...]:
    """Paired tests of every arm with a start against the arm of the same network without one, where there is one.

    Replicates share their training and validation images, so that a pair differs in its first weights alone. The same
    network is one of the same family, variant and head, sized for the same images.

    Args:
        frame: `studies.records.records_frame`.
        x: what the curves run over; over `num_pretrain` the error from scratch is the same at every x.
        rule: which branch of each cell is read.
        blocks: as of `records_table`.
    """
    arms = frame.drop_duplicates("arm")
    scratch = {_network(row): str(row.arm) for row in arms[arms["start"] == ""].itertuples()}
    found = []
    for row in arms[arms["start"] != ""].itertuples():
        other = scratch.get(_network(row))
        if other is None:
            continue
        begun, drawn = frame[frame["arm"] == row.arm], frame[frame["arm"] == other]
        if x == "num_pretrain":
            sizes = sorted(set(begun[x].dropna()))
            if not sizes:  # a file that does not say has no place over pretraining images
                continue
            drawn = pd.concat([drawn.assign(num_pretrain=size) for size in sizes])
        table = records_table(pd.concat([begun, drawn]), rule=rule, x=x, blocks=blocks)
        if {row.arm, other} <= set(table.curves):
            found.append(paired_tests(table.curves[str(row.arm)], table.curves[other]))
    return tuple(found)


def _network(row: Any) -> tuple[str, str, int, str]:  # noqa: ANN401  # a row of `itertuples`
    """What makes two arms the same network."""
    return row.family, row.variant, row.designed_for, row.head
