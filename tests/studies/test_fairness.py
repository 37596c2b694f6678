"""Fairness: what cannot be compared is refused before anything runs, what nearly cannot is remarked."""

from __future__ import annotations

from typing import Any

import pytest
from planned import make_arms, make_spec, planned

from studies.errors import PlanError
from studies.planning import make_plan


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
