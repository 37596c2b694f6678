"""The grid: equal compute for all, identities that change when results may, and refusals before anything runs."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import FORWARD_FLOPS, make_arms, make_spec, planned

from datamodules import DialData, parse_data
from studies import asking
from studies.cell import Cell, Seeds
from studies.errors import PlanError
from studies.grid import Plan
from studies.planning import make_plan
from studies.starts import Start


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def only_cell(**changes: Any) -> Cell:  # any field of a study
    return planned(
        **({"families": ("vit",), "num_train": (64,), "replicates": 1, "primary_pair": None} | changes)
    ).cells[0]


# --- compute --------------------------------------------------------------------------------------


def test_a_cell_costs_three_forwards_per_image_and_its_branches_add_their_cooldowns(plan: Plan) -> None:
    for cell in plan.cells:
        assert 40 * cell.executed_steps == 47 * cell.steps  # 1.175
        assert 40 * cell.executed_flops == 47 * 3 * FORWARD_FLOPS[cell.family] * 32 * 80
    assert plan.executed_flops == sum(3 * cell.forward_flops * 32 * 94 for cell in plan.cells)


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


# --- the grid -------------------------------------------------------------------------------------


def test_the_grid_is_complete_and_complete_replicates_come_first(plan: Plan) -> None:
    expected = {(arm, size, r) for arm in ("vit", "resnet", "mlp") for size in (64, 256) for r in (0, 1)}
    assert [(c.replicate, c.num_train) for c in plan.cells] == sorted((c.replicate, c.num_train) for c in plan.cells)
    assert {(cell.family, cell.num_train, cell.replicate) for cell in plan.cells} == expected
    assert len(plan.cells) == len({cell.id for cell in plan.cells}) == len(expected)


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


def test_an_arm_is_found_for_every_cell() -> None:
    plan = planned(families=("resnet", "resnet-circular"), primary_pair=None)
    assert {plan.arm(cell).name for cell in plan.cells} == {"resnet", "resnet-circular"}
    assert all(plan.arm(cell).variant == cell.variant for cell in plan.cells)


# --- identity -------------------------------------------------------------------------------------

COLOURED = {"kind": "hub", "name": "owner/set", "num_train": 2_000, "num_test": 500, "num_classes": 2, "image_size": 16,
            "in_channels": 3, "label_preserving": ["crop", "flip"]}  # fmt: skip

RELEVANT = {
    "family": {"families": ("resnet",)},
    "form": {"families": ("vit-sinusoidal",)},
    "tier": {"tier": "tiny"},
    "data seed": {"data": parse_data(DialData(num_train=2_000, num_test=500, seed=1).model_dump())},
    "test size": {"data": parse_data(DialData(num_train=2_000, num_test=501).model_dump())},
    "pool size": {"data": parse_data(DialData(num_train=2_001, num_test=500).model_dump())},
    "train size": {"num_train": (65,)},
    "validation size": {"num_validation": 101},
    "seed": {"seed": 1},
    "steps": {"budget": {"steps": 120, "batch_size": 32}},
    "batch": {"budget": {"steps": 80, "batch_size": 33}},
    "branches": {"budget": {"steps": 80, "batch_size": 32, "branches": (0.5, 1.0)}},
    "warm-up": {"budget": {"steps": 80, "batch_size": 32, "warmup_fraction": 0.02}},
    "cooldown": {"budget": {"steps": 80, "batch_size": 32, "cooldown_fraction": 0.4}},
    "learning rate": {"recipe": {"learning_rate": 2e-3}},
    "weight decay": {"recipe": {"weight_decay": 0.1}},
    "label smoothing": {"recipe": {"label_smoothing": 0.1}},
    "precision": {"recipe": {"precision": "bf16"}},
    "permutation": {"permutation": "pixels"},
}


def test_each_thing_that_can_change_a_result_changes_the_id() -> None:
    ids = {name: only_cell(**changes).id for name, changes in RELEVANT.items()} | {"nothing": only_cell().id}
    assert len(set(ids.values())) == len(ids), ids
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids.values())


def test_augmentation_changes_the_id() -> None:
    data = parse_data(COLOURED)
    found = {only_cell(data=data, recipe={"augmentation": chosen}).id for chosen in ((), ("crop",), ("crop", "flip"))}
    assert len(found) == 3


def test_every_field_of_a_cell_but_its_labels_enters_the_id() -> None:
    cell = only_cell()
    for field, value in cell.model_dump().items():
        if field == "seeds":
            for kind in Seeds.model_fields:
                seeds = cell.seeds.model_copy(update={kind: 99})
                assert cell.model_copy(update={"seeds": seeds}).model_copy().id != cell.id, kind
            continue
        others = {str: f"{value}x", int: 99, float: 0.777, tuple: (1.0,), bool: False, type(None): 99}
        changed: Any = others[type(value)]
        if field == "start":
            changed = Start(name="a", origin="b", objective="classification", num_pretrain=1, train_flops=1.0)
        if field == "augmentation":
            changed = ("flip",)
        other = Cell.model_construct(**(dict(cell) | {field: changed}))
        assert (other.id == cell.id) == (field in ("data", "replicate")), field


def test_names_do_not_change_the_id() -> None:
    same = only_cell()
    assert only_cell(name="other", question="else?", cost="little").id == same.id
    assert only_cell(families=("vit", "mlp")).id == same.id
    # replicate 1 of seed 0 is replicate 0 of seed 1: the same training
    second = next(cell for cell in planned(families=("vit",), primary_pair=None, replicates=2).cells if cell.replicate)
    assert second.id == only_cell(seed=1).id


def test_where_the_data_lie_and_what_they_are_called_does_not_change_the_id(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    content = {
        "train_images": generator.integers(0, 256, (300, 16, 16), dtype=np.uint8),
        "train_labels": np.arange(300) % 2,
        "test_images": generator.integers(0, 256, (50, 16, 16), dtype=np.uint8),
        "test_labels": np.arange(50) % 2,
    }
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "set.npz", **content)
    here, there = (
        only_cell(data=parse_data({"kind": "arrays", "archive": tmp_path / name / "set.npz", "label": name}))
        for name in ("here", "there")
    )
    assert (here.data, there.data) == ("here", "there")
    assert here.id == there.id
    content["train_images"][0, 0, 0] ^= 1
    np.savez(tmp_path / "there" / "set.npz", **content)
    assert only_cell(data=parse_data({"kind": "arrays", "archive": tmp_path / "there" / "set.npz"})).id != here.id


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "renamed"},
        {"primary_pair": ("vit", "resnet")},
        {"primary_pair": None},
        {"families": ("vit", "resnet")},
        {"num_train": (64, 128, 256)},
        {"replicates": 3},
        {"recipe": {"learning_rate": {"default": 1e-3, "mlp": 2e-3}}},
    ],
)
def test_what_was_declared_cannot_change_without_the_hash(plan: Plan, changes: dict[str, Any]) -> None:
    other = planned(**changes)
    assert other.hash != plan.hash
    assert other.study_id == f"{other.spec.name}.{other.hash[:8]}"


def test_planning_twice_gives_the_same_plan(plan: Plan) -> None:
    assert planned() == plan
    assert planned(cost="less than feared").hash == plan.hash
    assert planned().hash == plan.hash


# --- the locked file ------------------------------------------------------------------------------


def test_a_plan_survives_json(plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert (again.hash, [c.id for c in again.cells]) == (plan.hash, [c.id for c in plan.cells])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cells", 0, "learning_rate"), 0.5),
        (("cells", 3, "seeds", "order"), 9),
        (("cells", 5, "id"), "0" * 16),
        (("spec", "name"), "renamed"),
        (("spec", "primary_pair"), ["vit", "resnet"]),
        (("spec", "question"), "something else?"),
        (("spec", "replicates"), 1),
        (("data", "num_test"), 499),
        (("arms", 0, "num_parameters"), 1),
        (("notes",), ["all is fair"]),
        (("plan_hash",), "0" * 64),
    ],
)
def test_an_altered_plan_is_refused(plan: Plan, path: tuple[str | int, ...], value: object) -> None:
    content: Any = json.loads(json.dumps(plan.to_json()))
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    assert owner[path[-1]] != value
    owner[path[-1]] = value
    with pytest.raises(PlanError, match=f"{re.escape(plan.study_id)} was altered"):
        Plan.from_json(content)


def test_a_plan_that_lost_a_cell_is_refused(plan: Plan) -> None:
    content = json.loads(json.dumps(plan.to_json()))
    del content["cells"][-1]
    with pytest.raises(PlanError, match="was altered"):
        Plan.from_json(content)


# --- refusals and remarks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"num_train": (64, 1_901)},
            "num_train: 1901 images were asked for, but dial.* has 2000 .* takes 100 .*: at most 1900",
        ),
        ({"num_train": (19, 64)}, "num_train: 19 is below 20, 10 images for each of the 2 classes"),
        ({"num_validation": 1}, "num_validation: 1 is below the 2 classes"),
        ({"recipe": {"augmentation": ["flip"]}}, r"recipe.augmentation: \['flip'\] would change labels of dial"),
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
def test_a_study_that_cannot_be_run_is_refused_by_field_and_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        planned(**changes)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(planned(num_train=(20, 1_900)).cells) == 12
    least = 3 * 40 * 32 * 1_010_000
    assert {c.steps for c in planned(budget={"train_flops": least, "batch_size": 32}).cells} == {40}


def test_arms_of_unequal_cost_are_refused_and_named() -> None:
    with pytest.raises(
        PlanError, match=r"families: .* differ by 6.0%: mlp 1,000,000, vit 1,060,000.*allow_unequal_flops"
    ):
        planned({"mlp": 1_000_000, "vit": 1_060_000, "resnet": 1_030_000})


@pytest.mark.parametrize(("forward", "remarked"), [(1_020_000, False), (1_021_000, True), (1_050_000, True)])
def test_a_difference_above_two_percent_is_remarked(forward: int, remarked: bool) -> None:
    notes = planned({"vit": 1_000_000, "resnet": forward, "mlp": 1_000_000}).notes
    assert any(note.startswith("Forward FLOPs per image differ") for note in notes) == remarked


def test_exact_costs_that_differ_by_more_than_five_percent_are_remarked() -> None:
    spec = make_spec()
    arms = make_arms(spec)
    assert not any("Exact training cost" in note for note in planned().notes)
    arms["mlp"] = type(arms["mlp"])(**(vars(arms["mlp"]) | {"first_layer_flops": 800_000}))
    notes = make_plan(spec, spec.data.describe(), arms).notes
    assert any("Exact training cost" in note and "mlp 2.20" in note for note in notes)


def test_branches_that_do_not_see_every_image_are_remarked() -> None:
    note = next(note for note in planned(num_train=(64, 640)).notes if "fewer images than N once" in note)
    # 640 images are 20 batches of 32: the branches of 10 and 20 steps; the second sees each exactly once
    assert note.endswith(": 0.125 C at N=640.")
    assert not any("fewer images" in note for note in planned(num_train=(64, 320)).notes)


def test_overlapping_subsets_of_a_shared_pool_are_remarked_and_fresh_ones_are_not() -> None:
    shared = parse_data(COLOURED)
    assert any("more than half the pool of 1900" in note for note in planned(data=shared, num_train=(951,)).notes)
    assert not any("half the pool" in note for note in planned(data=shared, num_train=(950,)).notes)
    assert not any("half the pool" in note for note in planned(num_train=(1_900,)).notes)


def test_planning_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("planning loaded images")

    monkeypatch.setattr(DialData, "load", refuse)
    monkeypatch.setattr(type(parse_data(COLOURED)), "load", refuse)
    spec = make_spec()
    monkeypatch.setattr(asking, "survey_arms", lambda spec, data, designs: make_arms(spec))
    assert len(asking.plan(spec).cells) == 12
    assert len(asking.plan(make_spec(data=parse_data(COLOURED))).cells) == 12


def test_what_others_published_is_no_part_of_a_study() -> None:
    published = {"source": "a paper", "quantity": "accuracy", "values": {"vit": 0.6}, "columns": ["a"],
                 "rows": {"b": ["vit"]}}  # fmt: skip
    plain, compared = planned(), planned(published=published)
    assert compared.hash == plain.hash
    assert Plan.from_json(compared.to_json()).spec.published == compared.spec.published
