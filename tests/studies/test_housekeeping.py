"""Cleaning removes what was asked for, says it first, and never touches a cell that somebody trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned import finish, planned, record_of

from studies.grid import Plan
from studies.housekeeping import clean_store
from studies.store import Store


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """A finished study but for cells 0 (failed), 1 (invalid), 2 (interrupted), 3 (diverged); a cell of no plan."""
    store = Store(tmp_path / "results")
    finish(store, plan, plan.cells[4:])
    for index, status in ((0, "failed"), (1, "invalid"), (3, "diverged")):
        store.write_record(record_of(plan, plan.cells[index], status=status, reason="why"))  # type: ignore[arg-type]
    for cell_id in (plan.cells[2].id, "orphan"):
        store.cell_folder(cell_id).mkdir(parents=True)
        (store.cell_folder(cell_id) / "checkpoint.pt").write_bytes(b"x" * 2000)
    return store


def clean(store: Store, study_id: str | None = None, *, really: bool = True, **wanted: bool) -> list[str]:
    asked = {"interrupted": False, "failed": False, "orphans": False} | wanted
    return list(clean_store(store, study_id, really=really, **asked))


def test_nothing_is_removed_unless_asked_for(store: Store) -> None:
    before = sorted(store.root.rglob("*"))
    assert clean(store) == []
    assert sorted(store.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("wanted", "removed"),
    [({"failed": True}, [0, 1]), ({"interrupted": True}, [2]), ({"failed": True, "interrupted": True}, [0, 1, 2])],
)
def test_what_is_asked_for_goes_and_nothing_else(
    store: Store, plan: Plan, wanted: dict[str, bool], removed: list[int]
) -> None:
    before = set(store.cell_ids())
    gone = {plan.cells[index].id for index in removed} | ({"orphan"} if "interrupted" in wanted else set())
    announced = clean(store, really=False, **wanted)
    assert set(store.cell_ids()) == before
    done = clean(store, **wanted)
    assert set(store.cell_ids()) == before - gone
    assert [line.replace("would remove", "removed") for line in announced] == done
    assert len(done) == len(gone)
    assert all(any(cell_id in line for line in done) for cell_id in gone)


def test_orphans_are_the_cells_of_no_plan(store: Store, plan: Plan) -> None:
    (line,) = clean(store, orphans=True)
    assert line == "removed cell orphan (no plan names it; 2 KB)"
    assert set(store.cell_ids()) == {cell.id for cell in plan.cells}


def test_a_cell_shared_with_another_study_is_no_orphan(store: Store, plan: Plan) -> None:
    sibling = planned(name="sibling", num_train=(64,))
    store.lock_plan(sibling)
    shared = {cell.id for cell in sibling.cells} & set(store.cell_ids())
    assert shared
    clean(store, plan.study_id, orphans=True)
    assert store.study_ids() == [sibling.study_id]
    assert set(store.cell_ids()) == shared


def test_a_study_goes_without_its_cells(store: Store, plan: Plan) -> None:
    before = set(store.cell_ids())
    (announced,) = clean(store, plan.study_id, really=False)
    assert store.study_ids() == [plan.study_id]
    (done,) = clean(store, plan.study_id)
    assert announced.startswith(f"would remove plan and report of {plan.study_id}")
    assert done.startswith(f"removed plan and report of {plan.study_id}")
    assert store.study_ids() == []
    assert set(store.cell_ids()) == before


def test_a_running_cell_is_never_touched(store: Store, plan: Plan) -> None:
    with store.lock(plan.cells[2].id), store.lock("orphan"):
        for really in (False, True):
            assert clean(store, really=really, interrupted=True, orphans=True) == []
    assert {plan.cells[2].id, "orphan"} <= set(store.cell_ids())


def test_a_study_that_runs_is_kept_and_so_are_its_cells(store: Store, plan: Plan) -> None:
    """Without its plan no worker of it could begin."""
    before = store.cell_ids()
    with store.lock(plan.cells[0].id):
        told = list(clean_store(store, plan.study_id, interrupted=False, failed=False, orphans=True, really=True))
    assert f"{plan.study_id} is kept: 1 cell of it is running" in told
    assert plan.study_id in store.study_ids()
    assert {cell.id for cell in plan.cells} & {*before} <= {*store.cell_ids()}


def test_a_failed_cell_that_is_trained_again_is_not_removed(store: Store, plan: Plan) -> None:
    with store.lock(plan.cells[0].id):
        lines = clean(store, failed=True)
    assert plan.cells[0].id in store.cell_ids()
    assert len(lines) == 1
    assert plan.cells[1].id in lines[0]
