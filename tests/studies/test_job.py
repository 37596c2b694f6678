"""A job whose program fails: a fault costs only the cell whose fault it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pytest
import torch
from planned import planned, record_of

from studies.cell import Cell
from studies.engines import job
from studies.engines.job import is_out_of_memory, run_job
from studies.records import Record

PLAN = planned(num_train=(64,), replicates=5)
CELLS = [cell for cell in PLAN.cells if cell.family == "vit"]


class Outcomes:
    """Runs a job with a fake training and notes what was tried and answered."""

    def __init__(self, fails: Callable[[Sequence[Cell], bool], Exception | None], faults: Sequence[int] = ()) -> None:
        self.tried: list[tuple[int, bool]] = []
        self.answers: dict[str, Record | Exception] = {}
        self.warnings: list[str] = []
        self._fails, self._faults = fails, {CELLS[index].id for index in faults}

    def train(self, cells: Sequence[Cell], *, in_lanes: bool) -> Iterator[tuple[str, Any]]:
        self.tried.append((len(cells), in_lanes))
        for cell in cells:
            if cell.id in self._faults:
                yield cell.id, ValueError("its own")
        if (error := self._fails(cells, in_lanes)) is not None:
            raise error
        for cell in cells:
            if cell.id not in self._faults:
                yield cell.id, record_of(PLAN, cell)

    def answer(self, cell: Cell, result: Record | Exception) -> None:
        assert cell.id not in self.answers, "answered twice"
        self.answers[cell.id] = result

    def run(self, *, in_lanes: bool = True) -> Self:
        run_job(CELLS, self.train, self.answer, self.warnings.append, in_lanes=in_lanes)
        assert self.answers.keys() == {cell.id for cell in CELLS}, "every cell is answered for"
        return self

    @property
    def failed(self) -> list[int]:
        return [index for index, cell in enumerate(CELLS) if isinstance(self.answers[cell.id], Exception)]


def test_a_job_without_a_fault_is_one_program() -> None:
    done = Outcomes(lambda cells, in_lanes: None).run()
    assert (done.tried, done.failed, done.warnings) == ([(5, True)], [], [])


def test_a_fault_of_one_cells_own_ends_no_program() -> None:
    done = Outcomes(lambda cells, in_lanes: None, faults=[1, 3]).run()
    assert (done.tried, done.failed) == ([(5, True)], [1, 3])


def test_a_program_that_fails_is_run_cell_by_cell_and_the_culprit_alone_is_found() -> None:
    culprit = CELLS[2].id

    def fails(cells: Sequence[Cell], in_lanes: bool) -> Exception | None:
        return ArithmeticError("gave up") if culprit in {cell.id for cell in cells} else None

    done = Outcomes(fails, faults=[4]).run()
    assert done.failed == [2, 4]
    assert done.tried[0] == (5, True)
    assert done.tried.count((1, True)) == 4, "what was answered is not tried again; the rest are lone programs"
    assert done.tried.count((1, False)) == 1, "the culprit has a last try without a program"


def test_short_memory_halves_the_job_and_says_so() -> None:
    def fails(cells: Sequence[Cell], in_lanes: bool) -> Exception | None:
        return torch.OutOfMemoryError("too much") if len(cells) > 2 and in_lanes else None

    done = Outcomes(fails).run()
    assert (done.failed, done.tried) == ([], [(5, True), (3, True), (2, True), (1, True), (2, True)])
    assert "5 lanes of vit nano did not fit into memory: trained 3 at once" in done.warnings[0]


def test_one_lane_that_does_not_fit_is_tried_without_a_program_and_then_told_of() -> None:
    done = Outcomes(lambda cells, in_lanes: torch.OutOfMemoryError("too much")).run()
    assert done.failed == [0, 1, 2, 3, 4]
    assert done.tried.count((1, False)) == 5
    assert all(is_out_of_memory(error) for error in done.answers.values() if isinstance(error, Exception))


def test_a_lost_device_ends_the_process_and_nobody_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_device_is_lost", lambda: True)
    for in_lanes in (True, False):
        lost = Outcomes(lambda cells, in_lanes: RuntimeError("CUDA error: an illegal memory access"))
        with pytest.raises(RuntimeError, match="illegal"):
            lost.run(in_lanes=in_lanes)
        assert lost.answers == {}


def test_short_memory_is_recognised_behind_what_it_broke() -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("too much")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError) as caught:
        capture()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("other"))
