"""What a study may say: every refusal names the field; what is accepted means what it says."""

from __future__ import annotations

from typing import Any

import pytest
from planned import make_spec
from pydantic import ValidationError

from studies.budget import Budget
from studies.engine_spec import EngineSpec
from studies.recipe import Recipe
from studies.spec import StudySpec


def refusal(**changes: Any) -> str:  # any field of a study
    with pytest.raises(ValidationError) as caught:
        make_spec(**changes)
    return str(caught.value)


@pytest.mark.parametrize("given", [{}, {"steps": 80, "epochs": 3.0}, {"train_flops": 1e9, "steps": 80}])
def test_a_budget_has_exactly_one_length(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="exactly one of train_flops, steps and epochs; given: "):
        Budget.model_validate(given)


@pytest.mark.parametrize(("steps", "advice"), [(470, "440 or 480"), (20, "at least 40"), (41, "40 or 80")])
def test_steps_that_split_a_branch_are_refused_with_the_nearest_that_do_not(steps: int, advice: str) -> None:
    with pytest.raises(ValidationError, match=f"multiple of 40 .*: {advice}"):
        Budget(steps=steps)
    assert Budget(steps=480).steps == 480


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("branches", (0.125, 0.5), "must contain 1.0"),
        ("branches", (0.5, 1.0, 0.5), "names a fraction twice"),
        ("branches", (0.0, 1.0), "greater than 0"),
        ("branches", (1.0, 2.0), "less than or equal to 1"),
        ("warmup_fraction", 0.031, "less than or equal to 0.03"),
        ("cooldown_fraction", 0.0, "greater than 0"),
        ("cooldown_fraction", 1.0, "less than 1"),
        ("batch_size", 1, "greater than or equal to 2"),
        ("train_flops", 0.0, "greater than 0"),
        ("epochs", -1.0, "greater than 0"),
        ("steps", 0, "greater than 0"),
        ("stepz", 80, "Extra inputs"),
    ],
)
def test_a_budget_outside_the_protocol_is_refused(field: str, value: object, says: str) -> None:
    length = {} if field in ("train_flops", "epochs", "steps") else {"steps": 80}
    with pytest.raises(ValidationError, match=says) as caught:
        Budget.model_validate(length | {field: value})
    assert caught.value.errors()[0]["loc"][0] == field


def test_branches_are_kept_cheapest_first() -> None:
    assert Budget(steps=80, branches=(1.0, 0.25, 0.5)).branches == (0.25, 0.5, 1.0)


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"families": ()}, "families\n"),
        ({"families": ("vit", "mlp", "vit")}, "names vit twice"),
        ({"num_train": (64, 128, 64)}, "names 64 twice"),
        ({"num_train": (0,)}, "num_train.0\n"),
        ({"num_validation": 0}, "num_validation\n"),
        ({"replicates": 0}, "replicates"),
        ({"replicates": {"vit": 2}}, "replicates needs the key `default`"),
        ({"replicates": {"default": 1, "vitt": 2}}, r"replicates names \['vitt'\], expected some of"),
        ({"primary_pair": ("vit", "lstm")}, "primary_pair .*'lstm'.* must name two of families"),
        ({"vary": ()}, "vary is empty"),
        ({"vary": ("shuffle",)}, "vary.0\n"),
        ({"seed": -1}, "seed\n"),
        ({"tier": "huge"}, "tier\n"),
        ({"permutation": "rows"}, "permutation\n"),
        ({"name": "../up"}, "must be 1 to 64 letters"),
        ({"name": "a.b"}, "must be 1 to 64 letters"),
        ({"familys": ("vit",)}, "familys\n"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_spec(**changes)


def test_no_seed_need_vary_where_there_is_one_replicate() -> None:
    assert make_spec(vary=(), replicates=1).vary == ()
    assert "vary is empty" in refusal(vary=(), replicates={"default": 1, "mlp": 2})


def test_replicates_per_arm() -> None:
    spec = make_spec(replicates={"default": 2, "vit": 5})
    assert [spec.num_replicates(arm) for arm in spec.families] == [5, 2, 2]
    assert make_spec(replicates=4).num_replicates("mlp") == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", 0),
        ("device", "tpu"),
        ("chunk_steps", 0),
        ("checkpoint_seconds", -1),
        ("kind", "cloud"),
        ("worker", 1),
    ],
)
def test_engine_settings_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineSpec.model_validate({field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


def test_a_study_survives_json() -> None:
    spec = make_spec(replicates={"default": 2, "vit": 3}, recipe={"learning_rate": {"default": 0.1, "vit": 0.3}})
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_study_cannot_be_changed_after_validation() -> None:
    spec = make_spec()
    with pytest.raises(ValidationError, match="frozen"):
        spec.num_validation = 7
    with pytest.raises(ValidationError, match="frozen"):
        spec.budget.steps = 40
