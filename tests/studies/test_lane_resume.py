"""A killed group of cells goes on as if nothing had been, together or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lane_training import assert_same, deterministic, lane_plan, together
from training import train

from studies import train as train_module
from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.program import Chunk
from studies.records import Record
from studies.store import Store
from studies.train import Lockstep

pytestmark = pytest.mark.usefixtures("one_thread")


class _Killed(BaseException):
    """Ends a training the way a signal does: nothing of the cell's own code runs afterwards."""


def killed_after(chunks: int, cells: Sequence[Cell], plan: Plan, folder: Path, *, in_lanes: bool | None = True) -> None:
    """Trains cells together until so many chunks are done."""
    after_chunk, done = Lockstep._after_chunk, 0

    def kill(self: Lockstep, stop: int, chunk: Chunk) -> None:
        nonlocal done
        after_chunk(self, stop, chunk)
        done += 1
        if done == chunks:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lockstep, "_after_chunk", kill)
        with pytest.raises(_Killed):
            together(cells, plan, folder, EngineSpec(chunk_steps=3, checkpoint_seconds=0), in_lanes=in_lanes)


@pytest.mark.parametrize("chunks", [2, 6, 13])
def test_a_killed_group_goes_on_as_if_nothing_had_been(
    chunks: int, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    """Killed on the trunk, in the first cooldown and late: the bits of an undisturbed group."""
    plan, expected = undisturbed
    killed_after(chunks, plan.cells, plan, tmp_path)
    places = {Store(tmp_path).place(cell.id) for cell in plan.cells}
    assert len(places) == 1
    assert places != {(0, 0)}
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert record.resumes == 1
        assert deterministic(record) == deterministic(expected[cell_id])
        assert record.train_losses == expected[cell_id].train_losses


EVERY_CHUNK = EngineSpec(chunk_steps=3, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def diverging(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, list[Cell], dict[str, Record]]:
    """Three cells of which the second diverges at once, and their records."""
    plan = lane_plan()
    wild = plan.cells[1].model_copy(update={"learning_rate": 1e30})
    cells = [plan.cells[0], wild, plan.cells[2]]
    return plan, cells, together(cells, plan, tmp_path_factory.mktemp("diverging"), EVERY_CHUNK)


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_a_group_whose_trunk_diverged_goes_on_as_if_nothing_had_been(
    chunks: int, diverging: tuple[Plan, list[Cell], dict[str, Record]], tmp_path: Path
) -> None:
    plan, cells, expected = diverging
    killed_after(chunks, cells, plan, tmp_path)
    assert Store(tmp_path).place(cells[1].id) == (0, 0), "it was never saved: there is nothing to go on from"
    for cell_id, record in together(cells, plan, tmp_path, EVERY_CHUNK).items():
        assert deterministic(record) == deterministic(expected[cell_id])
        assert record.train_losses == expected[cell_id].train_losses


def spoil(patch: pytest.MonkeyPatch, cell_id: str) -> None:
    """From now on no loss of the cell's first cooldown is finite."""
    after_chunk = Lockstep._after_chunk

    def spoiling(self: Lockstep, stop: int, chunk: Chunk) -> None:
        losses = chunk.losses.clone()
        for lane, course in enumerate(self.courses):
            if course.cell.id == cell_id and course.segment == 1:
                losses[lane] = float("nan")
        after_chunk(self, stop, Chunk(losses, chunk.examples))

    patch.setattr(Lockstep, "_after_chunk", spoiling)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Record]]:
    """Four cells of which the second diverges in its first cooldown, and their records."""
    plan = lane_plan()
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, plan.cells[1].id)
        return plan, together(plan.cells, plan, tmp_path_factory.mktemp("spoiled"), EVERY_CHUNK)


@pytest.mark.parametrize("chunks", [7, 8, 11])
def test_a_group_with_a_cooldown_that_diverged_goes_on_as_if_nothing_had_been(
    chunks: int, spoiled: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the cooldown after one lane diverged, at its end, and on the trunk behind it."""
    plan, expected = spoiled
    diverged = plan.cells[1].id
    spoil(monkeypatch, diverged)
    assert [branch.diverged for branch in expected[diverged].branches] == [True, False]
    killed_after(chunks, plan.cells, plan, tmp_path)
    place = Store(tmp_path).place(diverged)
    assert place == {7: (1, 0), 8: (1, 0), 11: (2, 25)}[chunks], "the last place at which its loss was finite"
    for cell_id, record in together(plan.cells, plan, tmp_path, EVERY_CHUNK).items():
        assert deterministic(record) == deterministic(expected[cell_id])
        assert record.train_losses == expected[cell_id].train_losses


def test_a_group_goes_on_alone_and_lone_cells_as_a_group(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    plan, expected = undisturbed
    killed_after(6, plan.cells, plan, tmp_path / "group")
    for cell in plan.cells:
        resumed = train(cell, plan, tmp_path / "group")
        assert resumed.resumes == 1
        assert_same(resumed, expected[cell.id])
        killed_after(6, [cell], plan, tmp_path / "alone", in_lanes=None)
    for cell_id, record in together(plan.cells, plan, tmp_path / "alone").items():
        assert record.resumes == 1
        assert_same(record, expected[cell_id])


def test_cells_at_different_places_go_on_in_programs_of_their_own(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    killed_after(3, plan.cells[:2], plan, tmp_path)
    killed_after(5, plan.cells[2:3], plan, tmp_path)
    made: list[int] = []
    program = train_module._program

    def spying(group: Any, *rest: Any, **more: Any) -> Any:
        made.append(len(group))
        return program(group, *rest, **more)

    monkeypatch.setattr(train_module, "_program", spying)
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert_same(record, expected[cell_id])
    assert made == [2, 1, 1]
