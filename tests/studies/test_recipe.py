"""A recipe: which hyper-parameters an arm takes, and which are none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from studies.recipe import Recipe


def test_an_arm_takes_its_own_value_then_its_familys_then_the_default() -> None:
    recipe = Recipe(learning_rate={"default": 1e-3, "resnet": 2e-3, "resnet-circular": 4e-3}, weight_decay=0.1)
    assert recipe.value("learning_rate", "resnet-circular", "resnet") == 4e-3
    assert recipe.value("learning_rate", "resnet-group", "resnet") == 2e-3
    assert recipe.value("learning_rate", "vit", "vit") == 1e-3
    assert recipe.value("weight_decay", "vit", "vit") == 0.1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"vit": 1e-3}, "needs the key `default`"),
        ({"default": 1e-3, "vit": -1.0}, "vit: -1.0 is not a finite number"),
        (float("nan"), "nan is not a finite number"),
        (float("inf"), "inf is not a finite number"),
        (-0.1, "-0.1 is not a finite number"),
    ],
)
@pytest.mark.parametrize("field", ["learning_rate", "weight_decay"])
def test_hyper_parameters_must_be_sane(field: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Recipe.model_validate({field: value})
