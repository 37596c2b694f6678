"""Fairness: what cannot be compared is refused before anything runs, what nearly cannot is remarked."""

from __future__ import annotations

from typing import Any

import pytest
from planned import make_arms, make_spec, planned

from studies.errors import PlanError
from studies.planning import make_plan
from studies.tuning import TUNING_SEED


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
def test_the_last_seed_of_a_study_is_below_those_of_tunings(replicates: int | dict[str, int]) -> None:
    most = replicates if isinstance(replicates, int) else max(replicates.values())
    last = TUNING_SEED - most
    seeds = {cell.seeds.order for cell in planned(seed=last, replicates=replicates).cells}
    assert max(seeds) == TUNING_SEED - 1
    with pytest.raises(PlanError, match=f"seed: {last + 1} makes seeds up to {TUNING_SEED}"):
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


UNEQUAL = {"vit": 1_000_000, "resnet": 1_700_000, "mlp": 1_300_000}


def test_steps_are_those_of_the_costliest_arm_and_the_others_spend_as_much() -> None:
    plan = planned(UNEQUAL, budget={"steps": 4000, "batch_size": 32}, allow_unequal_flops=True)
    assert {cell.family: cell.steps for cell in plan.cells} == {"vit": 6800, "resnet": 4000, "mlp": 5200}


@pytest.mark.parametrize("budget", [{"steps": 80}, {"train_flops": 3 * 80 * 32 * 1_700_000}])
def test_few_whole_steps_that_are_not_a_matched_budget_are_refused_with_one_that_is(budget: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"budget: .* differ by 30.8%: mlp nano 9.984e.09 in 80 steps") as refused:
        planned(UNEQUAL, budget={**budget, "batch_size": 32}, allow_unequal_flops=True)
    offered = float(str(refused.value).split("budget.train_flops=")[1].split()[0])
    plan = planned(UNEQUAL, budget={"train_flops": offered, "batch_size": 32}, allow_unequal_flops=True)
    spent = {3 * cell.forward_flops * cell.batch_size * cell.steps for cell in plan.cells}
    assert max(spent) <= 1.02 * min(spent)


def test_whole_steps_that_cost_over_two_percent_are_remarked() -> None:
    for steps, remarked in ((440, True), (400, False)):
        notes = planned(UNEQUAL, budget={"steps": steps, "batch_size": 32}, allow_unequal_flops=True).notes
        assert any(note.startswith("In whole multiples of 40 steps") for note in notes) == remarked


def test_epochs_of_unequal_arms_are_not_called_one_budget() -> None:
    notes = planned(UNEQUAL, budget={"epochs": 20, "batch_size": 32}, allow_unequal_flops=True).notes
    assert any("epochs, not FLOPs, are equal" in note for note in notes)
    assert not any("at the same budget" in note for note in notes)
