"""A study with a ladder: every arm under every permutation, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest

from studies import asking
from studies.asking import load_study
from studies.compose import Composed
from studies.errors import ConfigError, PlanError
from studies.grid import Plan
from studies.rounds import plan_tuning
from studies.spec import StudySpec

LADDER = ("none", "within_patch", "patches", "pixels")


def spec_of(**changes: Any) -> StudySpec:
    content: dict[str, Any] = {
        "name": "rungs",
        "question": "What is lost?",
        "data": {"kind": "dial", "num_train": 400, "num_test": 200},
        "families": ("mlp", "vit"),
        "num_train": (100, 200),
        "num_validation": 50,
        "replicates": 2,
        "budget": {"steps": 40, "batch_size": 16, "branches": (1.0,)},
    }
    return StudySpec.model_validate(content | changes)


@pytest.fixture(scope="module")
def laddered() -> Plan:
    return asking.plan(spec_of(ladder=LADDER))


def test_every_arm_is_trained_under_every_permutation(laddered: Plan) -> None:
    cells = [(cell.family, cell.num_train, cell.replicate, cell.permutation) for cell in laddered.cells]
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 4
    assert {cell.permutation for cell in laddered.cells} == set(LADDER)


def test_a_rung_is_the_same_run_as_in_a_study_of_that_permutation(laddered: Plan) -> None:
    for rung in LADDER:
        alone = asking.plan(spec_of(permutation=rung))
        assert {cell.id for cell in alone.cells} == {cell.id for cell in laddered.cells if cell.permutation == rung}


def test_the_order_of_a_file_does_not_matter(laddered: Plan) -> None:
    assert asking.plan(spec_of(ladder=LADDER[::-1])).hash == laddered.hash
    assert Plan.from_json(laddered.to_json()).hash == laddered.hash
    assert asking.plan(spec_of()).hash == asking.plan(spec_of(ladder=())).hash != laddered.hash


def test_studies_without_a_ladder_keep_their_hash() -> None:
    """The hash of a plan that was made before there were ladders."""
    assert asking.plan(spec_of()).hash == "d07f573bf3d58e7613bd154a2b5b53f99273e158e80e7107c2b022fc623515d1"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ladder": ("patches", "pixels")}, "needs the rung none"),
        ({"ladder": ("none",)}, "needs the rung none, .* and at least one other"),
        ({"ladder": ("none", "pixels", "pixels")}, "names pixels twice"),
        ({"ladder": LADDER, "permutation": "pixels"}, "permutation: pixels beside a ladder"),
        (
            {
                "ladder": LADDER,
                "families": ("vit+labels",),
                "pretraining": {"labels": {"num_train": [100], "budget": {"steps": 40, "batch_size": 16}}},
            },
            "trained from scratch, and some begin from labels",
        ),
    ],
)
def test_a_ladder_that_means_nothing_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spec_of(**changes)


@pytest.mark.parametrize(("tier", "size", "patch"), [("nano", 16, 4), ("tiny", 32, 4), ("tiny", 64, 8)])
def test_patches_are_those_of_the_transformer(tier: str, size: int, patch: int) -> None:
    data = {"kind": "dial", "image_size": size, "num_train": 400, "num_test": 200}
    planned = asking.plan(spec_of(tier=tier, data=data, ladder=LADDER, families=("vit",), num_train=(100,)))
    sizes = {cell.permutation: cell.permutation_patch for cell in planned.cells}
    assert sizes == {"none": 4, "within_patch": patch, "patches": patch, "pixels": 4}


def test_patches_are_those_of_the_images_a_network_is_sized_for() -> None:
    data = {"kind": "dial", "image_size": 64, "num_train": 400, "num_test": 200}
    changes: dict[str, Any] = {"data": data, "designed_for": 32, "families": ("vit",), "num_train": (100,)}
    planned = asking.plan(spec_of(tier="tiny", ladder=LADDER, **changes))
    sizes = {cell.permutation: cell.permutation_patch for cell in planned.cells}
    assert sizes == {"none": 4, "within_patch": 4, "patches": 4, "pixels": 4}


def test_images_that_are_not_made_of_patches_are_refused() -> None:
    data = {"kind": "dial", "image_size": 18, "num_train": 400, "num_test": 200}
    changes: dict[str, Any] = {"data": data, "families": ("timm:test_resnet",), "num_train": (100,)}
    with pytest.raises(PlanError, match=r"^permutation: patches needs images .* 18 px are no multiple of 4; resize"):
        asking.plan(spec_of(**changes, ladder=("none", "patches")))


def test_rates_are_tuned_on_images_as_they_are() -> None:
    planned = plan_tuning(Composed(spec_of(ladder=LADDER), **_settings()))
    assert {cell.permutation for cell in planned.cells} == {"none"}
    assert len({cell.id for cell in planned.cells}) == len(planned.cells)


def test_a_ladder_of_one_word_is_an_override() -> None:
    assert load_study("data_scaling", ["ladder=[none,pixels]"]).spec.rungs == ("none", "pixels")
    with pytest.raises(ConfigError, match=r"ladder\[1\]"):
        load_study("data_scaling", ["ladder=[none,rows]"])


def _settings() -> dict[str, Any]:
    shipped = load_study("data_scaling")
    return {"engine": shipped.engine, "tracking": shipped.tracking}
