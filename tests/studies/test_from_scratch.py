"""What starts are worth: pairs are one network, and starts of unknown size have no place over pretraining images."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from planned import planned, record_of

from studies.analysis.from_scratch import against_scratch
from studies.cell import Cell
from studies.records import records_frame


def begun(cell: Cell, num_pretrain: int | None, **changes: Any) -> Cell:  # any field of a cell
    start = {"name": "disk", "origin": "0" * 64, "objective": "classification", "num_pretrain": num_pretrain,
             "train_flops": None}  # fmt: skip
    return Cell.model_validate(cell.model_dump() | {"start": start} | changes)


def frame_of(num_pretrain: int | None, **changes: Any) -> pd.DataFrame:  # any field of a cell
    """A network from scratch and from a start, three replicates of each."""
    plan = planned(families=("mlp",), primary_pair=None, num_train=(64,), replicates=3)
    cells = [*plan.cells, *(begun(cell, num_pretrain, **changes) for cell in plan.cells)]
    errors = [(0.4, 0.3, 0.2, 0.2 + 0.01 * index) for index in range(len(cells))]
    return records_frame(record_of(plan, cell, errors=error) for cell, error in zip(cells, errors, strict=True))


@pytest.mark.parametrize("x", ["num_train", "num_pretrain"])
def test_a_start_is_tested_against_the_same_network(x: str) -> None:
    (found,) = against_scratch(frame_of(64), x=x)
    assert (found.first, found.second, len(found.tests)) == ("mlp+disk", "mlp", 1)


@pytest.mark.parametrize("changes", [{"designed_for": 8}, {"head": "hidden"}])
@pytest.mark.parametrize("x", ["num_train", "num_pretrain"])
def test_a_network_of_another_design_or_head_is_no_partner(changes: dict[str, Any], x: str) -> None:
    assert against_scratch(frame_of(64, **changes), x=x) == ()


def test_a_start_of_unknown_size_is_left_out_over_pretraining_images() -> None:
    frame = frame_of(None)
    assert against_scratch(frame, x="num_pretrain") == ()
    assert len(against_scratch(frame, x="num_train")) == 1
