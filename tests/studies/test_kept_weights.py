"""Kept weights: every reason why nothing can begin from a cell's, and none where they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planned import planned, record_of

from studies.files import sha256_of
from studies.kept_weights import why_not_kept
from studies.records import Record
from studies.store import Store

PLAN = planned(families=("vit",), num_train=(64,), replicates=1, primary_pair=None)
(CELL,) = PLAN.cells


def left_behind(store: Store, *, kept: bool = True, last_diverged: bool = False, **changes: Any) -> Path:
    """The record of a cell and its file of weights, as training would leave them; `changes` are of the record."""
    path = store.weights_path(CELL.id, 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    record: Record = record_of(PLAN, CELL, **changes)
    if kept:
        record = record.model_copy(update={"kept_sha256": sha256_of(path)})
    if record.branches:
        first = record.branches[0].model_copy(update={"diverged": record.status == "diverged"})
        last = record.branches[-1].model_copy(update={"diverged": last_diverged})
        record = record.model_copy(update={"branches": (first, *record.branches[1:-1], last)})
    store.write_record(record)
    return path


def test_whole_weights_can_be_begun_from(tmp_path: Path) -> None:
    left_behind(Store(tmp_path))
    assert why_not_kept(CELL.id, Store(tmp_path)) is None


def test_a_cheaper_branch_that_diverged_does_not_spoil_the_weights_of_the_full_budget(tmp_path: Path) -> None:
    left_behind(Store(tmp_path), status="diverged", reason="branch 0.125")
    assert why_not_kept(CELL.id, Store(tmp_path)) is None


def test_a_cell_without_a_record_waits(tmp_path: Path) -> None:
    assert why_not_kept(CELL.id, Store(tmp_path)) == f"cell {CELL.id} is waiting"


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_a_cell_that_has_not_finished_says_what_it_is(status: Any, tmp_path: Path) -> None:
    left_behind(Store(tmp_path), status=status)
    assert why_not_kept(CELL.id, Store(tmp_path)) == f"cell {CELL.id} is {status}"


def test_a_full_budget_that_diverged_is_told_with_its_reason(tmp_path: Path) -> None:
    left_behind(Store(tmp_path), status="diverged", reason="the loss is not finite", last_diverged=True)
    assert why_not_kept(CELL.id, Store(tmp_path)) == f"cell {CELL.id} diverged: the loss is not finite"


def test_weights_that_were_not_kept_are_not_looked_for(tmp_path: Path) -> None:
    left_behind(Store(tmp_path), kept=False)
    assert why_not_kept(CELL.id, Store(tmp_path)) == f"cell {CELL.id} was trained without keeping its weights"


def test_weights_that_cannot_be_read_are_told_by_their_path(tmp_path: Path) -> None:
    path = left_behind(Store(tmp_path))
    path.unlink()
    assert why_not_kept(CELL.id, Store(tmp_path)) == f"{path} cannot be read: No such file or directory"


def test_altered_weights_are_told_by_both_hashes(tmp_path: Path) -> None:
    path = left_behind(Store(tmp_path))
    expected = sha256_of(path)[:12]
    path.write_bytes(b"Weights")
    reason = str(why_not_kept(CELL.id, Store(tmp_path)))
    assert reason.startswith(f"{path} is damaged or was altered: its SHA-256 is {sha256_of(path)[:12]}...")
    assert reason.endswith(f"record says {expected}...")
