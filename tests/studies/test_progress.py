"""What a person who waits is told: cells by what is true of them, and that a cell without a step has only begun."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from planned import planned, record_of
from rich.console import Console

from studies import store as store_module
from studies.counts import counted
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.progress import StagesProgress, StudyProgress
from studies.store import Store
from studies.terminal import status_tables
from studies.tracking import TrackingSpec


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def told(plan: Plan, store: Store, running: list[str]) -> str:
    """The plain line of a study whose launcher has these cells."""
    file = io.StringIO()
    with StudyProgress(plan, store, Console(file=file, width=200)) as progress:
        progress.update(running)
    return file.getvalue()


def status(plan: Plan, store: Store) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200)
    for part in status_tables(plan, store.states(plan), store):
        console.print(part)
    return file.getvalue()


def test_diverged_cells_are_done_and_counted_apart_from_failed_ones(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path)
    kinds = ("finished", "finished", "diverged", "failed", "invalid")
    for cell, kind in zip(plan.cells, kinds, strict=False):
        store.write_record(record_of(plan, cell, status=kind))
    assert told(plan, store, []) == "small: 3/12 done (1 diverged), 0 running, 2 failed, 42%\n"


def test_stages_are_announced_in_turn_and_only_the_last_is_followed(plan: Plan, tmp_path: Path) -> None:
    store, file = Store(tmp_path), io.StringIO()
    later = planned(name="later")
    with StagesProgress(store, Console(file=file, width=200)) as progress:
        progress.update([])  # nothing has begun
        progress.begin(plan, ["first, locked in [here]"])
        progress.update([])
        progress.begin(later, ["then", "note: more"])
        progress.update([])
    assert file.getvalue().splitlines() == [
        "first, locked in [here]",
        "small: 0/12 done, 0 running, 0 failed, 0%",
        "then",
        "note: more",
        "later: 0/12 done, 0 running, 0 failed, 0%",
    ]


def test_cells_without_a_step_are_starting(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second, third = (cell.id for cell in plan.cells[:3])
    store.write_progress(second, 47, 94, starting=True)  # its worker goes on where another was killed
    store.write_progress(third, 47, 94)
    assert told(plan, store, [first, second, third]) == "small: 0/12 done, 3 running (2 starting), 0 failed, 8%\n"
    store.write_progress(first, 1, 94)
    store.write_progress(second, 48, 94)
    assert "3 running, 0 failed" in told(plan, store, [first, second, third])


def test_status_says_since_when_a_cell_is_starting(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.time, "time", lambda: 1_800_000_000.0)
    store = Store(tmp_path)
    first, second, third = (cell.id for cell in plan.cells[:3])
    with store.lock(first), store.lock(second), store.lock(third):
        store.write_progress(first, 0, 94, starting=True)
        store.write_progress(second, 47, 94, starting=True)
        lines = status(plan, store).splitlines()
    by_cell = {one: next(line for line in lines if one in line) for one in (first, second, third)}
    assert "starting, since 2027-01-15 08:00:00 UTC" in by_cell[first]
    assert "starting from step 47 of 94, since 2027-01-15 08:00:00 UTC" in by_cell[second]
    assert "starting" in by_cell[third]
    assert "since" not in by_cell[third], "it was locked this moment"


def test_a_worker_tells_that_it_takes_a_cell_up(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.engines import worker as worker_module

    store = Store(tmp_path)
    store.lock_plan(plan)
    first, second = (cell.id for cell in plan.cells[:2])
    store.write_progress(second, 47, 94)
    seen = []

    def look(cells: object, train: object, *rest: object, in_lanes: bool) -> None:
        seen.extend(store.progress(one) for one in (first, second))

    class Silent:
        def send(self, message: object) -> None: ...

    monkeypatch.setattr(worker_module, "run_job", look)
    monkeypatch.setattr(worker_module.Worker, "_takes_lanes", lambda self, cell: False)
    assignment = worker_module.Assignment(
        tmp_path, plan.study_id, plan.spec.data, EngineSpec(lanes=2), TrackingSpec(kind="off"), "cpu"
    )
    worker_module.Worker(Silent(), assignment).run([first, second])
    assert [(one.step, one.starting) for one in seen] == [(0, True), (47, True)]
    assert {one.total_steps for one in seen} == {plan.cells[0].executed_steps}


@pytest.mark.parametrize(("number", "words"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells"), (1200, "1,200 cells")])
def test_one_is_told_in_the_singular(number: int, words: str) -> None:
    assert counted(number, "cell") == words


def test_a_study_of_one_cell_is_told_as_one(tmp_path: Path) -> None:
    lone = planned(families=("vit",), num_train=(64,), replicates=1, primary_pair=None)
    assert status(lone, Store(tmp_path)).startswith(f"{lone.study_id}: 1 cell: 1 waiting\n")
