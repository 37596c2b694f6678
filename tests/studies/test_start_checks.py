"""Cells whose start is lost: told by status and report, and not as long as the start may still come."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from planned import make_arms, make_spec, planned, record_of
from rich.console import Console

from studies.answering import report_study
from studies.arms import parse_arm
from studies.grid import Plan
from studies.planning import make_plan
from studies.records import Record
from studies.start_checks import lost_starts
from studies.starts import StageStart
from studies.store import Store
from studies.terminal import status_tables


@pytest.fixture
def plan() -> Plan:
    """Two replicates of a network that begins from a stage, and of the same from scratch."""
    budget = {"steps": 160, "batch_size": 32}
    stage = planned(name="small-pretraining", families=("vit",), num_train=(64,), primary_pair=None, budget=budget)
    spec = make_spec(
        families=("vit+labels", "vit"),
        primary_pair=None,
        pretraining={"labels": {"num_train": 64, "budget": budget}},
    )
    arms = {name: replace(arm, start=parse_arm(name, spec.tier).start) for name, arm in make_arms(spec).items()}
    return make_plan(spec, spec.data.describe(), arms, starts={"labels": StageStart("labels", stage)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def of_stage(plan: Plan, replicate: int, *, status: str = "diverged", at_the_end: bool = True) -> Record:
    (stage,) = plan.pretraining
    cell = next(cell for cell in stage.cells if cell.replicate == replicate)
    record = record_of(stage, cell, status=status, reason="loss nan at step 7")  # type: ignore[arg-type]
    *earlier, last = record.branches or (None,)
    if last is None:
        return record
    return record.model_copy(update={"branches": (*earlier, last.model_copy(update={"diverged": at_the_end}))})


def test_cells_whose_stage_diverged_are_told_and_no_others(plan: Plan, store: Store) -> None:
    assert lost_starts(plan, store) == {}, "what is not trained yet is not lost"
    record = store.write_record(of_stage(plan, 1))
    lost = lost_starts(plan, store)
    assert set(lost) == {cell.id for cell in plan.cells if cell.start is not None and cell.replicate == 1}
    assert len(lost) == len(plan.spec.num_train)
    reason = f"there is nothing to begin from: cell {record.cell_id} diverged: loss nan at step 7"
    assert set(lost.values()) == {reason}
    for cell in plan.cells:
        if cell.id in lost:
            store.write_record(record_of(plan, cell))
    assert lost_starts(plan, store) == {}, "what has a result needs no start"


def test_a_failed_start_is_told_and_one_that_diverged_before_its_end_is_asked_for_its_weights(
    plan: Plan, store: Store
) -> None:
    failed = store.write_record(of_stage(plan, 0, status="failed"))
    store.write_record(of_stage(plan, 1, at_the_end=False))
    assert {reason.partition(": ")[2] for reason in lost_starts(plan, store).values()} == {
        f"cell {failed.cell_id} is failed",
        f"cell {next(c.id for c in plan.pretraining[0].cells if c.replicate == 1)} was trained without keeping its "
        "weights",
    }


def test_status_and_report_say_it(plan: Plan, store: Store) -> None:
    record = store.write_record(of_stage(plan, 1))
    lost = lost_starts(plan, store)
    for stage in plan.stages:
        store.lock_plan(stage)
    for cell in plan.cells:
        if cell.id not in lost:
            store.write_record(record_of(plan, cell))
    console = Console(width=400, record=True, file=io.StringIO())
    for part in status_tables(plan, store.states(plan), store):
        console.print(part)
    told = [line for line in console.export_text().splitlines() if f"cell {record.cell_id} diverged" in line]
    assert [line.split()[1] for line in told] == list(lost)
    page = report_study(plan, store).page.read_text()
    assert f"2 cells cannot be trained: there is nothing to begin from: cell {record.cell_id} diverged" in page
