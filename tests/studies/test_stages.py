"""Studies in stages, planned: who begins from what, what that does to identities, and what is refused before a step."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planned import COLOURED
from planned import planned as planned_by_arithmetic
from pydantic import ValidationError

from datamodules import parse_data
from models.checkpoints import classifier_checkpoint
from studies import asking
from studies.cell import Cell
from studies.checkpoint import save_checkpoint
from studies.errors import ConfigError, PlanError
from studies.files import sha256_of
from studies.grid import Plan
from studies.spec import StudySpec
from studies.stages import PRETRAINING_SEED, stage_specs, start_sources, with_own_images
from studies.starts import FileStart, Start

DIAL = {"kind": "dial", "num_train": 1_000, "num_test": 200}
MANY = DIAL | {"seed": 1, "num_classes": 4}
STAGE = {"data": MANY, "num_train": [64, 128], "budget": {"steps": 40, "batch_size": 16}}


def spec(**changes: Any) -> StudySpec:
    """Two families with a start each, on four classes, and one of them from scratch too."""
    content: dict[str, Any] = {
        "name": "small",
        "question": "does it help?",
        "data": DIAL,
        "families": ["vit+labels", "mlp+labels", "mlp"],
        "num_train": [40],
        "num_validation": 60,
        "replicates": 2,
        "x": "num_pretrain",
        "pretraining": {"labels": STAGE},
        "budget": {"steps": 40, "batch_size": 16, "branches": [1.0]},
    }
    return StudySpec.model_validate(content | changes)


def plan(**changes: Any) -> Plan:
    return asking.plan(spec(**changes))


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan()


def start_of(cell: Cell) -> Start:
    assert cell.start is not None
    return cell.start


# --- the stages -----------------------------------------------------------------------------------


def test_a_stage_is_an_ordinary_study_of_the_networks_that_begin_from_it(small: Plan) -> None:
    (stage,) = small.pretraining
    assert small.stages == (stage, small)
    assert stage.spec.name == "small-pretraining"
    assert [arm.name for arm in stage.arms] == ["vit", "mlp"]
    assert {(cell.num_train, cell.replicate) for cell in stage.cells} == {(n, r) for n in (64, 128) for r in (0, 1)}
    assert {cell.branches for cell in stage.cells} == {(1.0,)}
    assert {cell.num_classes for cell in stage.cells} == {4}


def test_replicate_r_begins_from_replicate_r_of_the_same_network_at_every_size(small: Plan) -> None:
    cells = {cell.id: cell for cell in small.pretraining[0].cells}
    begun = [cell for cell in small.cells if cell.start is not None]
    assert len(begun) == 2 * 2 * 2
    assert {start_of(cell).origin for cell in begun} == set(cells), "every earlier cell is begun from, once"
    for cell in begun:
        start, origin = start_of(cell), cells[start_of(cell).origin]
        assert (origin.family, origin.variant, origin.replicate) == (cell.family, cell.variant, cell.replicate)
        assert start.num_pretrain == origin.num_train
        assert start.train_flops == 3 * origin.forward_flops * 16 * 40
    scratch = [cell for cell in small.cells if cell.start is None]
    assert [(cell.family, cell.replicate) for cell in scratch] == [("mlp", 0), ("mlp", 1)]


def test_arms_of_one_network_with_and_without_a_start_are_two_arms(small: Plan) -> None:
    assert [arm.name for arm in small.arms] == ["vit+labels", "mlp+labels", "mlp"]
    named = {(cell.family, cell.start is None): small.arm(cell).name for cell in small.cells}
    assert named == {("vit", False): "vit+labels", ("mlp", False): "mlp+labels", ("mlp", True): "mlp"}


def test_procedural_images_that_were_pretrained_on_are_not_fine_tuned_on(small: Plan) -> None:
    (stage,) = small.pretraining
    assert {cell.seeds.subset for cell in stage.cells} == {PRETRAINING_SEED, PRETRAINING_SEED + 1}
    assert {cell.seeds.subset for cell in small.cells} == {0, 1}
    assert {cell.seeds.initialization for cell in stage.cells} == {0, 1}


def test_only_starts_that_an_arm_begins_from_are_trained() -> None:
    other = STAGE | {"num_train": [256]}
    study = plan(families=["mlp+labels"], pretraining={"labels": STAGE, "unused": other})
    assert [stage.spec.name for stage in study.pretraining] == ["small-pretraining"]


def test_several_starts_are_several_stages() -> None:
    one = STAGE | {"num_train": 64}
    study = plan(
        families=["mlp+labels", "mlp+more"],
        x="num_train",
        pretraining={"labels": one, "more": one | {"num_train": 128}},
    )
    assert [stage.spec.name for stage in study.pretraining] == ["small-pretraining-labels", "small-pretraining-more"]


def test_every_replicate_of_any_arm_finds_its_start() -> None:
    study = plan(replicates={"default": 1, "mlp+labels": 3}, families=["vit+labels", "mlp+labels"])
    counts = {arm.name: study.pretraining[0].spec.num_replicates(arm.name) for arm in study.pretraining[0].arms}
    assert counts == {"vit": 1, "mlp": 3}


def test_a_stage_validates_on_what_it_declares_or_else_on_as_many_images_as_the_study() -> None:
    declared = spec(pretraining={"labels": STAGE | {"num_validation": 24}})
    assert stage_specs(declared)["labels"].num_validation == 24
    assert stage_specs(spec())["labels"].num_validation == 60


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("permutation", "within_patch"),
        ("vary", ("order",)),
        ("allow_unequal_flops", True),
        ("seed", 7),
        ("tier", "micro"),
    ],
)
def test_a_stage_has_of_its_study_what_tells_replicates_and_images_apart(field: str, value: object) -> None:
    stage = stage_specs(spec(**{field: value}))["labels"]
    assert getattr(stage, field) == value != getattr(stage_specs(spec())["labels"], field)


@pytest.mark.parametrize(("of_study", "of_stage"), [("linear", "hidden"), ("hidden", "linear")])
def test_a_stage_has_the_head_that_it_declares_and_not_that_of_its_study(of_study: str, of_stage: str) -> None:
    study = spec(head=of_study, pretraining={"labels": STAGE | {"head": of_stage}})
    assert stage_specs(study)["labels"].head == of_stage


@pytest.mark.parametrize("order", [1, -1])
def test_a_stage_has_the_replicates_of_the_arm_that_begins_from_it_whatever_others_of_its_network_have(
    order: int,
) -> None:
    arms = ["vit", "vit+labels", "vit+more"][::order]
    one = STAGE | {"num_train": 64}
    study = spec(
        families=arms,
        x="num_train",
        replicates={"default": 1, "vit": 5, "vit+labels": 2, "vit+more": 4},
        pretraining={"labels": one, "more": one | {"num_train": 128}},
    )
    stages = stage_specs(study)
    assert {name: (one.families, one.num_replicates("vit")) for name, one in stages.items()} == {
        "labels": (("vit",), 2),
        "more": (("vit",), 4),
    }


def test_replicates_of_a_stage_are_written_as_a_number_where_they_are_one() -> None:
    """How they are written is part of the hash of its plan."""
    assert stage_specs(spec())["labels"].replicates == 2
    uneven = spec(replicates={"default": 1, "mlp+labels": 3}, families=["vit+labels", "mlp+labels"])
    assert stage_specs(uneven)["labels"].replicates == {"default": 1, "vit": 1, "mlp": 3}


def test_a_stage_is_trained_as_it_declares_and_not_as_its_study() -> None:
    declared = STAGE | {"recipe": {"learning_rate": 0.25}, "objective": "masked_patches"}
    study = spec(families=["vit+labels"], recipe={"learning_rate": 0.5}, pretraining={"labels": declared})
    stage = stage_specs(study)["labels"]
    assert stage.recipe.value("learning_rate", "vit", "vit") == 0.25
    assert stage.objective == "masked_patches"
    assert stage.budget.branches == (1.0,)
    assert stage.question == "Weights that small begins from: labels."


def test_a_stage_beside_a_file_needs_no_name_of_its_own() -> None:
    study = spec(
        families=["mlp+labels", "mlp+disk"],
        x="num_train",
        pretraining={"labels": STAGE | {"num_train": 64}, "disk": {"checkpoint": "weights.pt"}},
    )
    assert {name: one.name for name, one in stage_specs(study).items()} == {"labels": "small-pretraining"}


def test_the_name_of_a_stage_may_have_64_letters() -> None:
    longest = "a" * (64 - len("-pretraining"))
    assert len(stage_specs(spec(name=longest))["labels"].name) == 64
    with pytest.raises(ConfigError, match=r"would have 65 letters of 64"):
        stage_specs(spec(name=longest + "a"))


def test_real_images_are_the_same_for_all_subset_seeds() -> None:
    real, procedural = planned_by_arithmetic(data=parse_data(COLOURED)), planned_by_arithmetic()
    assert with_own_images(real) is real
    moved = with_own_images(procedural)
    assert [
        cell.seeds.subset - before.seeds.subset for cell, before in zip(moved.cells, procedural.cells, strict=True)
    ] == [PRETRAINING_SEED] * len(moved.cells)


def test_one_network_begins_from_one_start_in_one_arm_only() -> None:
    with pytest.raises(ValidationError, match=r"names vit\+labels twice"):
        spec(families=["vit+labels", "vit@nano+labels"])


# --- identities -----------------------------------------------------------------------------------


def test_studies_from_before_there_were_starts_keep_their_identity() -> None:
    """Numbers of the code before: a plan without starts is the same plan, and its cells are the same cells."""
    before = planned_by_arithmetic()
    assert before.study_id == GOLDEN_STUDY
    assert before.cells[0].id == GOLDEN_CELL


GOLDEN_STUDY = "small.cdaad05d"
GOLDEN_CELL = "3d1b9105b6e3ecee"


def test_the_identity_of_a_cell_is_a_function_of_its_start(small: Plan) -> None:
    longer = plan(pretraining={"labels": STAGE | {"budget": {"steps": 80, "batch_size": 16}}})
    ours, theirs = ({cell.id for cell in one.cells if cell.start is not None} for one in (small, longer))
    assert not ours & theirs
    drawn = [{cell.id for cell in one.cells if cell.start is None} for one in (small, longer)]
    assert drawn[0] == drawn[1]
    assert small.hash != longer.hash


def test_what_a_start_is_called_changes_no_cell(small: Plan) -> None:
    renamed = plan(families=["vit+other", "mlp+other", "mlp"], pretraining={"other": STAGE})
    assert [cell.id for cell in renamed.cells] == [cell.id for cell in small.cells]
    assert renamed.hash != small.hash, "the names of arms are declared"


def test_a_plan_holds_its_stages_and_reads_back(small: Plan) -> None:
    content = json.loads(json.dumps(small.to_json()))
    back = Plan.from_json(content)
    assert back.hash == small.hash
    assert back.cells == small.cells
    assert back.pretraining[0].cells == small.pretraining[0].cells
    content["pretraining"][0]["cells"][0]["learning_rate"] = 1.0
    with pytest.raises(PlanError, match="altered"):
        Plan.from_json(content)


def test_pretraining_is_told_and_is_no_part_of_a_budget(small: Plan) -> None:
    (note,) = [note for note in small.notes if "start from the weights of labels" in note]
    assert "vit+labels, mlp+labels" in note
    assert "64, 128 images of dial (16 px; objective: classification)" in note
    assert "which no budget here includes" in note
    assert small.executed_flops == sum(cell.executed_flops for cell in small.cells)


# --- resolution -----------------------------------------------------------------------------------


def test_fine_tuning_at_another_size_keeps_the_network_and_matches_flops_there() -> None:
    larger = DIAL | {"image_size": 32}
    study = plan(families=["vit+labels", "vit"], data=larger, designed_for=16)
    assert {arm.designed_for for arm in study.arms} == {16}
    assert len({arm.forward_flops for arm in study.arms}) == 1
    assert study.arms[0].forward_flops > 3 * study.pretraining[0].arms[0].forward_flops
    assert {cell.designed_for for cell in study.cells} == {16}
    assert any("applied to images of 32 px" in note for note in study.notes)


def test_a_family_that_cannot_change_its_size_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"families\[0\].*Mixer cannot change the size of its images"):
        plan(families=["mixer+labels"], data=DIAL | {"image_size": 32})


# --- refusals -------------------------------------------------------------------------------------


def test_sinusoids_of_the_raster_index_are_refused_at_another_size() -> None:
    with pytest.raises((ConfigError, PlanError), match=r"nano-sin1d.*counted along the raster.*use the form sin2d"):
        plan(families=["vit-sin1d+labels"], data=DIAL | {"image_size": 32}, designed_for=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ["vit+label"]}, "begins from 'label', which pretraining does not declare; did you mean 'labels'"),
        ({"x": "num_train"}, "names several sizes while curves run over x=num_train"),
        ({"num_train": [40, 80]}, "give one size with x=num_pretrain"),
        ({"families": ["vit"]}, "x: num_pretrain needs arms with a start"),
        ({"pretraining": {"labels": {"data": MANY}}}, "needs num_train and budget, or checkpoint=FILE"),
        ({"pretraining": {"labels": STAGE | {"image_size": 16}}}, "image_size belongs to a checkpoint on disk"),
        ({"pretraining": {"labels": STAGE | {"num_train": [64, 64]}}}, "names a size twice"),
        ({"pretraining": {"labels": {"checkpoint": "a.pt", "data": MANY}}}, "leave out data, which train a stage"),
        ({"pretraining": {"two words": STAGE}}, "called by letters"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretraining": {"labels": STAGE | {"num_train": [2_000]}}}, "pretraining.labels: num_train: 2000 images"),
        ({"pretraining": {"labels": STAGE | {"data": MANY | {"image_size": 28}}}, "permutation": "pixels"}, "28 px"),
        ({"families": ["vit+labels", "vit+same"], "pretraining": {"labels": STAGE, "same": STAGE}}, "the same run"),
        ({"name": "a" * 60}, "its stage"),
    ],
)
def test_a_study_whose_stages_cannot_be_run_is_refused_before_anything_is(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_images_of_both_stages_need_the_same_channels(tmp_path: Path) -> None:
    generator, path = np.random.default_rng(0), tmp_path / "images.npz"
    images, labels = generator.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8), np.arange(200) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:50], test_labels=labels[:50])
    colour = {"kind": "arrays", "archive": str(path)}
    with pytest.raises(PlanError, match=r"pretraining.labels.data: .* has 3 channels where dial"):
        plan(pretraining={"labels": STAGE | {"data": colour, "num_train": [40, 60]}})


def test_a_permutation_of_pixels_needs_images_of_one_size() -> None:
    with pytest.raises(
        PlanError,
        match=r"^permutation: pixels of 16 px has nothing to do with that of 32 px: .* size of pretraining.labels.data",
    ):
        plan(families=["mlp+labels"], permutation="pixels", data=DIAL | {"image_size": 32})
    with pytest.raises(PlanError, match=r"^permutation: patches of 16 px has nothing to do with that of 32 px"):
        plan(families=["mlp+labels"], permutation="patches", data=DIAL | {"image_size": 32})
    study = plan(families=["mlp+labels"], permutation="pixels")
    assert [{cell.permutation for cell in one.cells} for one in study.stages] == [{"pixels"}, {"pixels"}]


# --- files ----------------------------------------------------------------------------------------


def checkpoint(folder: Path, family: str = "mlp") -> Path:
    from models import build_network

    settings: dict[str, Any] = {"family": family, "variant": "nano", "image_size": 16, "in_channels": 1}
    network = build_network(family, "nano", image_size=16, in_channels=1, num_classes=4)
    path = folder / f"{family}.pt"
    save_checkpoint(classifier_checkpoint(network.state_dict(), **settings, num_classes=4), path)
    return path


def from_file(path: Path, **changes: Any) -> Plan:
    start = {"checkpoint": str(path), "num_train": 5_000, "train_flops": 1e12}
    return plan(families=["mlp+disk", "mlp"], x="num_train", pretraining={"disk": start}, **changes)


def test_a_file_is_a_start_by_its_content(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    study = from_file(path)
    assert study.pretraining == ()
    starts = {start_of(cell) for cell in study.cells if cell.start is not None}
    assert {(start.origin, start.num_pretrain, start.train_flops) for start in starts} == {
        (sha256_of(path), 5_000, 1e12)
    }
    moved = from_file(path.rename(tmp_path / "moved.pt").resolve())
    assert [cell.id for cell in moved.cells] == [cell.id for cell in study.cells]
    assert moved.hash == study.hash


def test_a_file_is_what_its_declaration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = parse_data(DIAL).describe()
    for written in ("~/weights.pt", "weights.pt"):
        declared = {"checkpoint": written, "image_size": 32, "num_train": 640, "objective": "masked_patches"}
        study = spec(families=["vit+disk"], x="num_train", pretraining={"disk": declared})
        assert start_sources(study, data, {})["disk"] == FileStart(
            "disk", tmp_path / "weights.pt", sha256_of(tmp_path / "weights.pt"), 32, "masked_patches", 640, None
        )
    silent = spec(families=["vit+disk"], x="num_train", pretraining={"disk": {"checkpoint": "weights.pt"}})
    source = start_sources(silent, data, {})["disk"]
    assert (source.image_size, source.sizes) == (data.image_size, (None,))


def test_a_file_that_does_not_fit_is_refused_while_planning(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"families\[0\]: mlp\+disk: .*cannot|does not fit|holds the weights of"):
        from_file(checkpoint(tmp_path, "vit"))
    damaged = checkpoint(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"mlp\.pt"):
        from_file(damaged)
    with pytest.raises(ConfigError, match=r"pretraining.disk.checkpoint: .*nowhere.pt cannot be read"):
        from_file(tmp_path / "nowhere.pt")


def test_what_is_no_ordinary_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(ConfigError, match=r"pretraining.disk.checkpoint: .*pipe.pt cannot be read: it is no ordinary"):
        from_file(tmp_path / "pipe.pt")


def test_a_file_that_would_fill_the_memory_is_refused_while_planning(tmp_path: Path) -> None:
    """A megabyte that inflates to more than weights of this network could need, and to less than there might be."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb, bomb.open("a/data/0", "w") as part:
        for _ in range(320):
            part.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    with pytest.raises(
        ConfigError, match=r"bomb\.pt: holds 335,544,320 bytes, more than the 3\d\d,\d+,\d+ that weights"
    ):
        from_file(path)


def test_data_of_a_stage_default_to_those_of_the_study() -> None:
    study = plan(families=["mlp+labels"], pretraining={"labels": {key: STAGE[key] for key in ("num_train", "budget")}})
    assert study.pretraining[0].data.fingerprint == study.data.fingerprint == parse_data(DIAL).describe().fingerprint


# --- what is said and refused over pretraining images -----------------------------------------------


def test_a_file_that_does_not_say_its_size_has_no_place_over_pretraining_images() -> None:
    disk: dict[str, Any] = {"checkpoint": "weights.pt"}
    for families in (["mlp+disk"], ["mlp+disk", "mlp"]):
        with pytest.raises(ValidationError, match=r"pretraining.disk.num_train: curves run over x=num_pretrain"):
            spec(families=families, pretraining={"disk": disk})
        assert spec(families=families, pretraining={"disk": disk}, x="num_train")
        assert spec(families=families, pretraining={"disk": disk | {"num_train": 640}})


@pytest.mark.parametrize(("steps", "told"), [(40, False), (80, True)])
def test_stages_of_unequal_cost_are_remarked(steps: int, told: bool) -> None:
    one = STAGE | {"num_train": 64}
    other = one | {"budget": {"steps": steps, "batch_size": 16}, "recipe": {"learning_rate": 1e-2}}
    notes = plan(
        families=["mlp+labels", "mlp+longer"], x="num_train", pretraining={"labels": one, "longer": other}
    ).notes
    remark = "Training FLOPs of a run differ by 100.0% between earlier stages: mlp nano from labels"
    assert any(note.startswith(remark) for note in notes) == told
