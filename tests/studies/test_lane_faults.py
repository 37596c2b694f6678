"""What goes wrong with one lane, or with the lanes of a program, costs no cell more than it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lane_training import KEPT, RTOL, SOLO, assert_same, deterministic, lane_plan, together
from training import train

from studies import train as train_module
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.program import Chunk
from studies.records import Record
from studies.store import Store
from studies.train import Lockstep, train_cells

pytestmark = pytest.mark.usefixtures("one_thread")


def test_lanes_whose_images_do_not_fit_train_alone_and_read_theirs_batch_by_batch(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    asked: list[int] = []
    monkeypatch.setattr(train_module, "fits", lambda num_bytes, device: asked.append(num_bytes))
    monkeypatch.setattr(train_module, "LaneProgram", None)
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert_same(record, expected[cell_id])
    assert asked == [2 * 16 * 16 * (20 + 60) * 2], "two splits, each with the images of both sizes, twice"


def test_a_diverging_neighbour_changes_nothing(undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path) -> None:
    plan, expected = undisturbed
    wild = plan.cells[1].model_copy(update={"learning_rate": 1e30})
    cells = [plan.cells[0], wild, *plan.cells[2:]]
    found = together(cells, plan, tmp_path / "lanes")
    for cell in (plan.cells[0], *plan.cells[2:]):
        assert deterministic(found[cell.id]) == deterministic(expected[cell.id])
        assert found[cell.id].train_losses == expected[cell.id].train_losses
    assert found[wild.id].status == "diverged"
    seen = 7 * 24  # images of the one chunk in which it diverged
    assert found[wild.id].executed_train_flops == 3 * wild.forward_flops * seen, "nothing is booked after that"
    assert deterministic(found[wild.id]) == deterministic(train(wild, plan, tmp_path / "solo", SOLO))


@pytest.mark.parametrize("alone", [True, False])
def test_a_cooldown_that_diverges_costs_its_branch_alone(
    alone: bool, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    after_chunk = Lockstep._after_chunk
    cells = plan.cells[1:2] if alone else plan.cells
    lane = cells.index(plan.cells[1])

    def spoiling(self: Lockstep, stop: int, chunk: Chunk) -> None:
        losses = chunk.losses.clone()
        if self.courses[lane].segment == 1:
            losses[lane] = float("nan")
        after_chunk(self, stop, Chunk(losses, chunk.examples))

    monkeypatch.setattr(Lockstep, "_after_chunk", spoiling)
    found = together(cells, plan, tmp_path, EngineSpec(chunk_steps=3, checkpoint_seconds=0), in_lanes=not alone)
    record = found[plan.cells[1].id]
    assert (record.status, [branch.diverged for branch in record.branches]) == ("diverged", [True, False])
    assert record.branches[0].validation_error == 0.5
    untouched = expected[plan.cells[1].id]
    assert record.branches[1].test_loss == pytest.approx(untouched.branches[1].test_loss, rel=RTOL)
    kept = {(one.branch, one.step): one.loss for one in record.train_losses}
    for one in untouched.train_losses:
        if one.branch != 0.5:
            assert kept[one.branch, one.step] == pytest.approx(one.loss, rel=RTOL), "losses keep their places"
    for cell in cells:
        if cell is not plan.cells[1]:
            assert deterministic(found[cell.id]) == deterministic(expected[cell.id])


def test_what_networks_draw_themselves_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lane_plan()
    monkeypatch.setattr(train_module, "why_no_lanes", lambda network, shape: "it draws")
    monkeypatch.setattr(train_module, "LaneProgram", None)
    found = together(plan.cells[:2], plan, tmp_path / "group")
    for cell in plan.cells[:2]:
        assert deterministic(found[cell.id]) == deterministic(train(cell, plan, tmp_path / "solo"))


def test_a_fault_in_one_cells_data_or_record_costs_no_other(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    changed = plan.cells[0].model_copy(update={"data_fingerprint": "0" * 64})
    write, broken = Store.write_record, plan.cells[2].id

    def refusing(self: Store, record: Record, *rest: Any) -> Record:
        if record.cell_id == broken:
            raise OSError("no space left")
        return write(self, record, *rest)

    monkeypatch.setattr(Store, "write_record", refusing)
    cells = [changed, *plan.cells[1:]]
    arguments = (cells, plan.spec.data, Store(tmp_path), plan.study_id, plan.hash, KEPT)
    found = dict(train_cells(*arguments, in_lanes=True))
    assert "have changed" in str(found[changed.id])
    assert "no space" in str(found[broken])
    for cell in (plan.cells[1], plan.cells[3]):
        record = found[cell.id]
        assert isinstance(record, Record)
        assert_same(record, expected[cell.id])
