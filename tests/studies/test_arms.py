"""The grammar of arms: what every name means, the way back, and what is told of a name that means nothing."""

from __future__ import annotations

from typing import Any

import pytest
from planned import make_spec
from pydantic import ValidationError

from studies import arms
from studies.arms import ArmName, arm_name, canonical_arm, parse_arm

NAMES = {
    "vit": ArmName("vit", "nano"),
    "vit-learned2d-every": ArmName("vit", "nano-learned2d-every"),
    "resnet@tiny": ArmName("resnet", "tiny"),
    "resnet@tiny-circular": ArmName("resnet", "tiny-circular"),
    "vit+supervised": ArmName("vit", "nano", "supervised"),
    "vit@tiny-cls+masked-25": ArmName("vit", "tiny-cls", "masked-25"),
    "timm:convnext_atto": ArmName("timm:convnext_atto", "nano"),
    "timm:vit_base_patch16_224.augreg-in21k+supervised": ArmName(
        "timm:vit_base_patch16_224.augreg-in21k", "nano", "supervised"
    ),
    "my.package:build": ArmName("my.package:build", "nano"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_apart_and_put_together(name: str) -> None:
    arm = parse_arm(name, "nano")
    assert arm == NAMES[name]
    assert arm_name(arm.family, arm.variant, arm.start, "nano") == name


def test_tier_and_form_are_parts_of_the_variant() -> None:
    arm = parse_arm("vit@tiny-learned2d-every", "nano")
    assert (arm.tier, arm.form) == ("tiny", "learned2d-every")
    assert (parse_arm("vit", "nano").tier, parse_arm("vit", "nano").form) == ("nano", "")


def test_without_a_default_no_tier_is_mentioned() -> None:
    assert arm_name("vit", "tiny-cls") == "vit-cls"
    assert arm_name("vit", "tiny-cls", default_tier="nano") == "vit@tiny-cls"
    assert arm_name("timm:resnet18", "tiny", default_tier="nano") == "timm:resnet18"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit-cls@tiny", "is not written as family[@tier][-form][+start]: did you mean vit@tiny-cls?"),
        ("vit@huge", "there is no tier 'huge'; expected one of nano, micro, tiny, small, base"),
        ("vit@tny", "there is no tier 'tny' (did you mean 'tiny'?)"),
        ("vit+", "after + stands the name of a pretraining, letters, digits, _ or -; given: ''"),
        ("vit+a b", "given: 'a b'"),
        ("timm:resnet18+", "after + stands the name of a pretraining"),
        ("vit+a-b@tiny", "given: 'a-b@tiny'"),
        ("vit@tiny@nano", "is not written as"),
        ("vit-", "is not written as"),
        ("-cls", "is not written as"),
        ("@tiny", "is not written as"),
        ("", "is not written as"),
    ],
)
def test_a_name_outside_the_grammar_is_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^arm ") as caught:
        parse_arm(name, "nano")
    assert told in str(caught.value)
    assert repr(name) in str(caught.value)


def test_an_arm_has_one_name_in_a_study() -> None:
    assert canonical_arm("vit@nano-cls", "nano") == "vit-cls"
    assert canonical_arm("vit@nano-cls", "tiny") == "vit@nano-cls"
    spec = make_spec(
        families=("vit@nano", "resnet@tiny", "mlp"),
        replicates={"default": 2, "vit@nano": 3},
        primary_pair=("resnet@tiny", "vit@nano"),
        recipe={"learning_rate": {"default": 1e-3, "vit@nano": 3e-3}},
    )
    assert spec.families == ("vit", "resnet@tiny", "mlp")
    assert spec.primary_pair == ("resnet@tiny", "vit")
    assert spec.num_replicates("vit") == 3
    assert spec.recipe.value("learning_rate", "vit", "vit") == 3e-3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"families": ("vit", "resnet", "vit@nano")}, "names vit twice"),
        ({"replicates": {"default": 1, "vit": 2, "vit@nano": 3}}, "names vit twice"),
        ({"families": ("vit", "resnet@tny")}, "did you mean 'tiny'?"),
        ({"families": ("vit", "resnt@tiny")}, "unknown family 'resnt@tiny' (did you mean 'resnet'?)"),
        ({"primary_pair": ("vit@nano", "vit")}, "must name two different arms"),
    ],
)
def test_a_study_refuses_what_is_no_arm(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_spec(**changes)
    assert told in str(caught.value)


def test_names_of_starts_are_a_pattern_others_can_use() -> None:
    import re

    assert re.fullmatch(arms.START_NAME, "masked-25")
    assert not re.fullmatch(arms.START_NAME, "+masked")
