"""Fairness: what cannot be compared is refused before anything runs, what nearly cannot is remarked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import make_arms, make_spec, planned

from studies.errors import PlanError
from studies.fairness import check_equal_cost, matched_budget
from studies.planning import make_plan
from studies.stages import PRETRAINING_SEED


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
    ],
)
def test_a_study_that_cannot_be_run_is_refused_by_field_and_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        planned(**changes)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(planned(num_train=(20, 1_900)).cells) == 12


@pytest.mark.parametrize("replicates", [1, 3, {"default": 1, "mlp": 3}])
def test_the_last_seed_of_a_study_is_below_those_of_earlier_stages(
    replicates: int | dict[str, int],
) -> None:
    most = replicates if isinstance(replicates, int) else max(replicates.values())
    last = PRETRAINING_SEED - most
    seeds = {cell.seeds.order for cell in planned(seed=last, replicates=replicates).cells}
    assert max(seeds) == PRETRAINING_SEED - 1
    with pytest.raises(PlanError, match=f"seed: {last + 1} makes seeds up to {PRETRAINING_SEED}"):
        planned(seed=last + 1, replicates=replicates)


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


def test_exact_costs_are_told_where_unequal_flops_are_allowed_too() -> None:
    spec = make_spec(allow_unequal_flops=True)
    arms = make_arms(spec)
    arms["mlp"] = dataclasses.replace(arms["mlp"], first_layer_flops=800_000)
    notes = make_plan(spec, spec.data.describe(), arms).notes
    assert any("Exact training cost" in note and "mlp 2.20" in note for note in notes)


UNEQUAL = {"vit": 1_000_000, "resnet": 1_700_000, "mlp": 1_300_000}


def test_steps_are_those_of_the_costliest_arm_and_the_others_spend_as_much() -> None:
    plan = planned(UNEQUAL, budget={"steps": 4000, "batch_size": 32}, allow_unequal_flops=True)
    assert {cell.family: cell.steps for cell in plan.cells} == {"vit": 6800, "resnet": 4000, "mlp": 5200}


@pytest.mark.parametrize("budget", [{"steps": 80}, {"train_flops": 3 * 80 * 32 * 1_700_000}])
def test_few_whole_steps_that_are_not_a_matched_budget_are_refused_with_one_that_is(budget: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"budget: .* differ by 30.8%: mlp 9.984e.09 in 80 steps") as refused:
        planned(UNEQUAL, budget={**budget, "batch_size": 32}, allow_unequal_flops=True)
    offered = float(str(refused.value).split("budget.train_flops=")[1].split()[0])
    plan = planned(UNEQUAL, budget={"train_flops": offered, "batch_size": 32}, allow_unequal_flops=True)
    spent = {3 * cell.forward_flops * cell.batch_size * cell.steps for cell in plan.cells}
    assert max(spent) <= 1.02 * min(spent)


ROUNDED = st.integers(900_001, 6_000_000)


@settings(max_examples=60, deadline=None)
@given(
    forward=st.tuples(ROUNDED, ROUNDED),
    batch=st.sampled_from([32, 48, 96]),
    scale=st.sampled_from([1, 1_000, 123_456_789]),
    branches=st.sampled_from([[1.0], [0.0625, 1.0]]),
    share=st.floats(1.001, 9),  # at exactly 1 a float above 2**53 may lie below the integer it stands for
)
def test_the_offered_budget_is_accepted_and_no_smaller_than_what_was_asked(
    forward: tuple[int, int], batch: int, scale: int, branches: list[float], share: float
) -> None:
    of_arms = dict(zip(("vit", "resnet"), (scale * of for of in forward), strict=True))
    changes: dict[str, Any] = {"families": ("vit", "resnet"), "num_train": (64,), "allow_unequal_flops": True}
    rest = {"batch_size": batch, "branches": branches}
    asked = share * 3 * 80 * batch * max(of_arms.values())
    try:
        planned(of_arms, budget={"train_flops": asked, **rest}, **changes)
    except PlanError as refused:
        if "raise the budget" not in str(refused):
            offered = int(str(refused).split("budget.train_flops=")[1].split()[0])
            assert offered >= asked
            accepted = planned(of_arms, budget={"train_flops": offered, **rest}, **changes)
            assert not any(note.startswith("In whole multiples") for note in accepted.notes)


@given(forward=st.tuples(ROUNDED, ROUNDED), batch=st.integers(2, 96), at_least=st.floats(1, 1e13))
def test_a_matched_budget_is_no_smaller_than_asked(forward: tuple[int, int], batch: int, at_least: float) -> None:
    found = matched_budget(forward, batch, at_least=at_least)
    assert found is None or found >= at_least


@pytest.mark.parametrize(
    ("forward", "refused", "remarked"),
    [
        (1_019_000, False, False),  # one step multiple less than the vit or none: costs 1.9% apart
        (1_021_000, False, True),
        (1_049_000, False, True),
        (1_051_000, True, False),
    ],
)
def test_the_limits_of_equal_cost_are_two_and_five_percent(forward: int, refused: bool, remarked: bool) -> None:
    changes: dict[str, Any] = {"families": ("vit", "resnet"), "allow_unequal_flops": True, "num_train": (64,)}
    of_arms = {"vit": 1_000_000, "resnet": forward}
    budget = {"steps": 80, "batch_size": 32}  # both take 80 steps: costs differ as their forward passes do
    if refused:
        with pytest.raises(PlanError, match=r"budget: .* differ by 5.1%: .* \(at most 5%\)"):
            planned(of_arms, budget=budget, **changes)
    else:
        notes = planned(of_arms, budget=budget, **changes).notes
        assert any(note.startswith("In whole multiples") for note in notes) == remarked


def test_arms_that_differ_in_their_start_or_design_alone_are_all_weighed() -> None:
    """Every order is refused: no arm hides another of the same network."""
    spec = make_spec(allow_unequal_flops=True)
    (vit, *_) = planned(families=("vit",), primary_pair=None).cells
    labels = {"name": "labels", "origin": "0" * 16, "objective": "classification", "num_pretrain": 64, "train_flops": 1}
    begun = type(vit).model_validate(
        vit.model_dump() | {"start": labels, "designed_for": 8, "forward_flops": 2 * vit.forward_flops}
    )
    applied = vit.model_copy(update={"designed_for": 8, "forward_flops": 2 * vit.forward_flops})
    for cells in ([vit, begun], [begun, vit]):
        with pytest.raises(PlanError, match=r"differ by 100.0%: vit 7.68e.09 in 80 steps, vit\+labels 1.536e.10"):
            check_equal_cost(spec, cells)
    for cells in ([vit, applied], [applied, vit]):
        with pytest.raises(PlanError, match=r"differ by 100.0%"):
            check_equal_cost(spec, cells)


def test_an_arm_is_named_as_the_study_names_it() -> None:
    changes: dict[str, Any] = {"families": ("vit@micro", "vit-cls"), "primary_pair": None, "num_train": (64,)}
    of_arms = {"vit@micro": 1_700_000, "vit-cls": 1_000_000}
    with pytest.raises(PlanError, match=r"vit-cls [\d.e+]+ in 120 steps, vit@micro"):
        planned(of_arms, budget={"steps": 80, "batch_size": 32}, allow_unequal_flops=True, **changes)


SIXTEENTH = {"batch_size": 32, "branches": [0.0625, 1.0]}


def test_a_branch_at_a_sixteenth_takes_multiples_of_80_steps() -> None:
    cost = 3 * 1_010_000 * 32
    for budget in ({"train_flops": 199 * cost}, {"epochs": 20.0}):
        cells = planned(budget=budget | SIXTEENTH, num_train=(200,)).cells
        assert {cell.steps for cell in cells} == {160}  # 199 pay for 160; 20 epochs of 200 images need 125
    own = planned(UNEQUAL, budget={"steps": 4000, **SIXTEENTH}, allow_unequal_flops=True)
    assert {cell.family: cell.steps for cell in own.cells} == {"vit": 6800, "resnet": 4000, "mlp": 5200}


def test_declared_steps_that_split_a_branch_are_refused_and_not_rounded() -> None:
    for unequal in (False, True):
        with pytest.raises(
            PlanError, match=r"budget.branches: branch 0.0625 of 120 steps .* use a multiple of 80 steps"
        ):
            planned(budget={"steps": 120, **SIXTEENTH}, allow_unequal_flops=unequal)
    with pytest.raises(PlanError, match=r"least number of steps, 80 \(every branch"):
        planned(budget={"train_flops": 3 * 1_010_000 * 32 * 79, **SIXTEENTH})


def test_whole_steps_that_cost_over_two_percent_are_remarked() -> None:
    for steps, remarked in ((440, True), (400, False)):
        notes = planned(UNEQUAL, budget={"steps": steps, "batch_size": 32}, allow_unequal_flops=True).notes
        assert any(note.startswith("In whole multiples of 40 steps") for note in notes) == remarked


def test_epochs_of_unequal_arms_are_not_called_one_budget() -> None:
    notes = planned(UNEQUAL, budget={"epochs": 20, "batch_size": 32}, allow_unequal_flops=True).notes
    assert any("epochs, not FLOPs, are equal" in note for note in notes)
    assert not any("at the same budget" in note for note in notes)
