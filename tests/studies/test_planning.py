"""Planning: equal compute for all, and a complete grid whose replicates are paired by their seeds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import make_arms, make_spec, only_cell, planned

from studies.cell import Seeds
from studies.errors import PlanError
from studies.grid import Plan
from studies.planning import make_plan
from studies.starts import StageStart


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


# --- compute --------------------------------------------------------------------------------------


def test_all_arms_share_batch_and_steps(plan: Plan) -> None:
    assert {(cell.batch_size, cell.steps) for cell in plan.cells} == {(32, 80)}


@settings(max_examples=30, deadline=None)
@given(budget=st.floats(2e10, 1e15))
def test_a_budget_in_flops_is_kept_by_every_arm_and_spent_by_the_costliest(budget: float) -> None:
    plan = planned(budget={"train_flops": budget, "batch_size": 128})
    (steps,) = {cell.steps for cell in plan.cells}
    assert steps % 40 == 0
    assert max(3 * cell.forward_flops * 128 * steps for cell in plan.cells) <= budget
    assert max(3 * cell.forward_flops * 128 * (steps + 40) for cell in plan.cells) > budget


def test_unequal_arms_take_their_own_steps_at_the_same_budget() -> None:
    forward = {"vit": 1_000_000, "resnet": 2_000_000, "mlp": 500_000}
    plan = planned(forward, budget={"train_flops": 4.8e10, "batch_size": 100}, allow_unequal_flops=True)
    assert {cell.family: cell.steps for cell in plan.cells} == {"vit": 160, "resnet": 80, "mlp": 320}
    assert {3 * cell.forward_flops * cell.batch_size * cell.steps for cell in plan.cells} == {48_000_000_000}
    assert any(note.startswith("allow_unequal_flops is on") for note in plan.notes)


def test_epochs_budgets_grow_with_the_training_set_and_are_announced() -> None:
    plan = planned(budget={"epochs": 20, "batch_size": 32, "branches": (1.0,)})
    steps = {cell.num_train: cell.steps for cell in plan.cells}
    assert steps == {64: 40, 256: 160}
    assert any("equal in epochs, not in FLOPs" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"budget": {"train_flops": 3 * 40 * 32 * 1_010_000 - 1, "batch_size": 32}},
            "budget.train_flops: 3.88e.* batch_size 32 .* needs at least 3,878,400,000",
        ),
        ({"budget": {"steps": 40, "branches": (0.1, 1.0)}}, "budget.branches: branch 0.1 of 40 steps .* whole"),
        (
            {"budget": {"steps": 400, "branches": (0.0125, 1.0)}},
            "budget.branches: the branch 0.0125 leaves the trunk after 4 steps, before the warm-up of 12",
        ),
    ],
)
def test_a_budget_that_makes_no_run_is_refused_by_field_and_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        planned(**changes)


def test_the_least_budget_is_allowed() -> None:
    least = 3 * 40 * 32 * 1_010_000
    assert {c.steps for c in planned(budget={"train_flops": least, "batch_size": 32}).cells} == {40}


# --- the grid -------------------------------------------------------------------------------------


def test_the_grid_is_complete_and_complete_replicates_come_first(plan: Plan) -> None:
    expected = {(arm, size, r) for arm in ("vit", "resnet", "mlp") for size in (64, 256) for r in (0, 1)}
    assert [(c.replicate, c.num_train) for c in plan.cells] == sorted((c.replicate, c.num_train) for c in plan.cells)
    assert {(cell.family, cell.num_train, cell.replicate) for cell in plan.cells} == expected
    assert len(plan.cells) == len({cell.id for cell in plan.cells}) == len(expected)


def begun(num_train: tuple[int, ...], sizes: dict[str, tuple[int, ...]]) -> Plan:
    """A vit that begins from stages of `sizes`, by start, at `num_train`."""
    arms = tuple(f"vit+{start}" for start in sizes)
    budget = {"steps": 80, "batch_size": 32}
    spec = make_spec(
        families=arms,
        num_train=num_train,
        primary_pair=None,
        x="num_pretrain" if len(num_train) == 1 else "num_train",
        pretraining={start: {"num_train": several, "budget": budget} for start, several in sizes.items()},
    )
    starts = {
        start: StageStart(start, planned(families=("vit",), num_train=several, primary_pair=None))
        for start, several in sizes.items()
    }
    planned_arms = {
        arm: replace(one, start=start) for (arm, one), start in zip(make_arms(spec, {}).items(), sizes, strict=True)
    }
    return make_plan(spec, spec.data.describe(), planned_arms, starts=starts)


def order_of(plan: Plan) -> list[tuple[int, int, int | None]]:
    return [(cell.replicate, cell.num_train, cell.start.num_pretrain if cell.start else None) for cell in plan.cells]


def test_small_sets_come_first_within_a_replicate_however_the_study_lists_them() -> None:
    plan = planned(num_train=(256, 64), families=("vit",), primary_pair=None)
    assert order_of(plan) == [(0, 64, None), (0, 256, None), (1, 64, None), (1, 256, None)]


def test_what_few_images_were_pretrained_on_comes_first_within_a_replicate() -> None:
    plan = begun((64,), {"labels": (300, 100), "more": (400, 200)})
    expected = [(replicate, 64, size) for replicate in (0, 1) for size in (100, 200, 300, 400)]
    assert order_of(plan) == expected


def test_images_that_are_trained_on_order_a_replicate_before_those_that_were_pretrained_on() -> None:
    plan = begun((256, 64), {"labels": (300,), "more": (100,)})
    assert order_of(plan) == [(r, size, earlier) for r in (0, 1) for size in (64, 256) for earlier in (100, 300)]


def test_arms_take_the_number_of_replicates_declared_for_them() -> None:
    plan = planned(replicates={"default": 2, "vit": 4})
    count = defaultdict(set)
    for cell in plan.cells:
        count[cell.family].add(cell.replicate)
    assert count == {"vit": {0, 1, 2, 3}, "resnet": {0, 1}, "mlp": {0, 1}}


def test_arms_and_sizes_of_a_replicate_are_paired_by_their_seeds(plan: Plan) -> None:
    seeds = defaultdict(set)
    for cell in plan.cells:
        seeds[cell.replicate].add(cell.seeds)
    assert {r: len(found) for r, found in seeds.items()} == {0: 1, 1: 1}


def test_every_seed_changes_with_the_replicate(plan: Plan) -> None:
    first, second = (next(c.seeds for c in plan.cells if c.replicate == r) for r in (0, 1))
    assert all(getattr(first, kind) != getattr(second, kind) for kind in Seeds.model_fields)


@pytest.mark.parametrize("kind", sorted(Seeds.model_fields))
def test_only_the_seeds_that_vary_change(kind: str) -> None:
    cells = planned(vary=(kind,), replicates=3, seed=7).cells
    for other in Seeds.model_fields:
        values = [getattr(next(c for c in cells if c.replicate == r).seeds, other) for r in range(3)]
        assert values == ([7, 8, 9] if other == kind else [7, 7, 7])


def test_the_seed_of_the_study_moves_every_seed() -> None:
    assert only_cell(seed=5).seeds == Seeds(subset=5, order=5, initialization=5, augmentation=5)


def test_planning_twice_gives_the_same_plan(plan: Plan) -> None:
    assert planned() == plan
    assert planned(cost="less than feared").hash == plan.hash
    assert planned().hash == plan.hash
