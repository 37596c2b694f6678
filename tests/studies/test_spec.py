"""What a study may say: every refusal names the field; what is accepted means what it says."""

from __future__ import annotations

from typing import Any

import pytest
from planned import make_spec
from pydantic import ValidationError

from studies.spec import StudySpec


def refusal(**changes: Any) -> str:  # any field of a study
    with pytest.raises(ValidationError) as caught:
        make_spec(**changes)
    return str(caught.value)


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


def test_only_classes_are_learnt_from_a_start() -> None:
    start = {"num_train": 64, "budget": {"steps": 40, "batch_size": 16}, "objective": "masked_patches"}
    begun = {"families": ("vit+patches",), "primary_pair": None, "pretraining": {"patches": start}}
    says = refusal(**begun, objective="masked_patches")
    assert "objective: masked_patches is for studies and stages whose arms have no start" in says
    assert make_spec(**begun).starts == ("patches",)
    assert make_spec(objective="masked_patches").objective == "masked_patches"


def test_replicates_per_arm() -> None:
    spec = make_spec(replicates={"default": 2, "vit": 5})
    assert [spec.num_replicates(arm) for arm in spec.families] == [5, 2, 2]
    assert make_spec(replicates=4).num_replicates("mlp") == 4


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
