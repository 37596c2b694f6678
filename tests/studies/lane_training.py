"""Cells of one program, trained together or alone, and how their records are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import tiny_plan

from models.checkpoints import read_weights
from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.jobs import program_key
from studies.records import DETERMINISTIC_COLUMNS, Record, records_frame
from studies.store import Store
from studies.train import train_cells

KEPT = EngineSpec(keep_checkpoints=True, chunk_steps=7)
SOLO = KEPT.model_copy(update={"lanes": 1})
BUDGET = {"steps": 40, "batch_size": 24, "branches": [0.5, 1.0]}
RTOL = 1e-5


def lane_plan(family: str = "mlp", **changes: Any) -> Plan:
    """Four cells of one program: N below and above the batch, two replicates with fresh images."""
    content = {
        "families": [family],
        "num_train": [20, 60],
        "replicates": 2,
        "budget": BUDGET,
        "recipe": {"learning_rate": 3e-4},  # AdamW turns a gradient that is rounding noise into a step of this length
    }
    return tiny_plan(**(content | changes))


def together(
    cells: Sequence[Cell],
    plan: Plan,
    folder: Path,
    settings: EngineSpec = KEPT,
    *,
    in_lanes: bool | None = True,
    **rest: Any,
) -> dict[str, Record]:
    assert len({program_key(cell) for cell in cells}) == 1
    arguments = (cells, plan.spec.data, Store(folder), plan.study_id, plan.hash, settings)
    found = dict(train_cells(*arguments, in_lanes=in_lanes, **rest))
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return {cell_id: record for cell_id, record in found.items() if isinstance(record, Record)}


def weights(folder: Path, cell: Cell, fraction: float) -> torch.Tensor:
    kept = read_weights(Store(folder).weights_path(cell.id, fraction)).state
    return torch.cat([kept[name].double().flatten() for name in sorted(kept)])


def deterministic(record: Record) -> list[dict[str, Any]]:
    return records_frame([record])[list(DETERMINISTIC_COLUMNS)].to_dict("records")


def assert_same(ours: Record, theirs: Record, rtol: float = RTOL) -> None:
    """Equal but for rounding: everything discrete exactly, losses within `rtol`."""
    for field in (
        "cell_id",
        "status",
        "reason",
        "subset_hash",
        "validation_hash",
        "train_checksum",
        "test_checksum",
        "planned_train_flops",
        "executed_train_flops",
        "evaluation_flops",
        "num_parameters",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    for mine, other in zip(ours.branches, theirs.branches, strict=True):
        for field in ("fraction", "steps", "examples", "train_flops", "train_flops_exact", "selected", "diverged"):
            assert getattr(mine, field) == getattr(other, field), field
        for field in ("validation_error", "validation_loss", "test_error", "test_loss"):
            assert getattr(mine, field) == pytest.approx(getattr(other, field), rel=rtol), field
        assert mine.test_calibration_error == pytest.approx(
            other.test_calibration_error, abs=1e-6
        )  # a small difference
    assert [(one.branch, one.step) for one in ours.train_losses] == [(x.branch, x.step) for x in theirs.train_losses]
    np.testing.assert_allclose(
        [one.loss for one in ours.train_losses], [one.loss for one in theirs.train_losses], rtol=rtol
    )
