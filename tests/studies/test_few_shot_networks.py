"""Identity of an evaluation of frozen features: what determines its result moves it, and what does not leaves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planned import make_arms, make_spec, only_cell

from studies.few_shot_networks import FrozenNetwork, frozen_networks
from studies.few_shot_spec import FewShotSpec
from studies.planning import make_plan
from studies.starts import FileStart, Start

START = Start(name="labels", origin="a" * 16, objective="classification", num_pretrain=64, train_flops=1e9)
CELL = only_cell().model_copy(update={"start": START})
NETWORK = FrozenNetwork("vit+labels", CELL, START, FewShotSpec(shots=(2, 5), draws=3))
UNTRAINED = replace(NETWORK, arm="vit", start=None)


def with_cell(network: FrozenNetwork, **changes: Any) -> FrozenNetwork:
    return replace(network, cell=network.cell.model_copy(update=changes))


def with_seeds(network: FrozenNetwork, **changes: int) -> FrozenNetwork:
    return with_cell(network, seeds=network.cell.seeds.model_copy(update=changes))


@pytest.mark.parametrize("network", [NETWORK, UNTRAINED], ids=["begun", "untrained"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol_version", "2"),
        ("family", "resnet"),
        ("variant", "nano-cls"),
        ("designed_for", 32),
        ("data_fingerprint", "another"),
        ("image_size", 32),
        ("in_channels", 3),
        ("num_classes", 4),
        ("num_test", 499),
        ("permutation", "pixels"),
        ("num_validation", 99),
    ],
)
def test_network_and_images_determine_an_evaluation(network: FrozenNetwork, field: str, value: object) -> None:
    assert getattr(network.cell, field) != value
    assert with_cell(network, **{field: value}).id != network.id


@pytest.mark.parametrize("spec", [FewShotSpec(shots=(2, 6), draws=3), FewShotSpec(shots=(2, 5), draws=4)])
def test_shots_and_draws_determine_an_evaluation(spec: FewShotSpec) -> None:
    assert replace(NETWORK, spec=spec).id != NETWORK.id


def test_where_weights_come_from_determines_an_evaluation() -> None:
    assert replace(NETWORK, start=START.model_copy(update={"origin": "b" * 16})).id != NETWORK.id
    assert UNTRAINED.id != NETWORK.id
    assert with_seeds(UNTRAINED, initialization=1).id != UNTRAINED.id, "its weights are drawn"
    assert with_seeds(NETWORK, initialization=1).id == NETWORK.id, "its weights are those of its origin"


def test_of_the_other_seeds_only_that_of_the_subset_determines_an_evaluation() -> None:
    assert with_seeds(NETWORK, subset=1).id != NETWORK.id
    assert with_seeds(NETWORK, order=1, augmentation=1).id == NETWORK.id


@pytest.mark.parametrize(
    "other",
    [
        replace(NETWORK, arm="vit+other"),
        replace(NETWORK, start=START.model_copy(update={"name": "other", "num_pretrain": 1, "train_flops": None})),
        with_cell(NETWORK, data="renamed"),
        with_cell(NETWORK, replicate=1),
        with_cell(NETWORK, num_train=128),
        with_cell(NETWORK, steps=120, learning_rate=1.0, weight_decay=1.0, batch_size=8),
    ],
    ids=["arm", "labels of the start", "name of the data", "replicate", "num_train", "fine-tuning"],
)
def test_names_and_fine_tuning_do_not_determine_an_evaluation(other: FrozenNetwork) -> None:
    assert other != NETWORK
    assert other.id == NETWORK.id


def ids_of(name: str, place: Path) -> list[str]:
    """The evaluations of a study called `name` whose file of weights lies at `place`."""
    spec = make_spec(
        name=name,
        families=("vit+disk",),
        primary_pair=None,
        pretraining={"disk": {"checkpoint": place}},
        few_shot={"shots": [2], "draws": 1},
    )
    source = FileStart("disk", place, "c" * 64, 16, "classification", None, None)
    arms = {name: replace(arm, start="disk") for name, arm in make_arms(spec).items()}
    return [one.id for one in frozen_networks(make_plan(spec, spec.data.describe(), arms, starts={"disk": source}))]


def test_neither_the_name_of_the_study_nor_the_place_of_a_file_determines_an_evaluation() -> None:
    here = ids_of("small", Path("/here/a.pt"))
    assert len(here) == 2 * 2
    assert ids_of("other", Path("/here/a.pt")) == ids_of("small", Path("/there/b.pt")) == here
