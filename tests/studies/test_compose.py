"""From files and overrides to a question: what is shipped composes, a mistake is one message by field and value."""

from __future__ import annotations

import importlib.resources
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from planned import own_configs

from datamodules import DataInfo
from models import forward_flops
from models.tiers import TIERS
from studies import asking
from studies.arms import parse_arm
from studies.budget import Budget
from studies.compose import GROUPS, compose_study, list_studies
from studies.engine_spec import EngineSpec, engine_model
from studies.errors import ConfigError
from studies.grid import Arm
from studies.planning import make_plan
from studies.recipe import Recipe
from studies.spec import StudySpec
from studies.starts import FileStart
from studies.tracking import TrackingSpec
from studies.tuning import TuningSpec

CONFIGS = Path(str(importlib.resources.files("configs")))
STUDIES = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
NEEDS_A_FOLDER = "folder"  # the user's own images: nothing can be declared for them


def refusal(study: str, *overrides: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_study(study, overrides, config_dir)
    return str(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return own_configs(tmp_path)


def write(folder: Path, name: str, text: str, header: str = "# @package _global_\n") -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + text)


# --- what is shipped -------------------------------------------------------------------------------------------


@cache
def shipped(study: str) -> StudySpec:
    return compose_study(study).spec


@cache
def declared(data: str) -> DataInfo:
    """What a data set of the group declares, by the first study that takes it as its only override."""
    study = STUDIES[DATA.index(data) % len(STUDIES)]
    spec = compose_study(study, [f"data={data}"]).spec
    assert spec.name == study
    return spec.data.describe()


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_asks_for_the_folder_of_ones_own_images(study: str, tmp_path: Path) -> None:
    overrides = [f"data={NEEDS_A_FOLDER}"]
    assert "data.root: has no default here; add data.root=" in refusal(study, *overrides)
    assert compose_study(study, [*overrides, f"data.root={tmp_path}"]).spec.name == study


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("data", [name for name in DATA if name != NEEDS_A_FOLDER])
def test_every_study_composes_with_every_data_set(study: str, data: str) -> None:
    spec, info, overrides = shipped(study), declared(data), [f"data={data}"]
    tier = next(tier for tier in TIERS.values() if info.image_size in tier.patch_sizes)
    sizes = [10 * info.num_classes, 20 * info.num_classes][: 1 if spec.x == "num_pretrain" else 2]
    overrides += [f"tier={tier.name}", f"num_train={sizes}", "num_validation=1000"]
    if spec.budget.train_flops is not None:
        overrides.append("budget.train_flops=1e17")  # pays for the least number of steps at any size
    spec = compose_study(study, overrides).spec
    assert spec.name == study
    assert spec.data.describe() == info
    files = {name: FileStart(name, Path(), name.ljust(64, "0"), 16, "classification", 1, None) for name in spec.starts}
    arms = {name: arithmetic_arm(name, tier.name, info) for name in spec.families}
    plan = make_plan(spec, info, arms, starts=files)
    assert {cell.num_train for cell in plan.cells} == set(sizes)
    assert {cell.data_fingerprint for cell in plan.cells} == {info.fingerprint}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_says_what_it_asks_and_what_it_costs(study: str) -> None:
    content = list_studies()[study]
    assert content["name"] == study
    assert content["question"].endswith("?")
    assert content["cost"] not in ("", "TODO")


def arithmetic_arm(name: str, tier: str, info: DataInfo) -> Arm:
    named = parse_arm(name, tier)
    images = {"image_size": info.image_size, "in_channels": info.in_channels, "num_classes": info.num_classes}
    try:
        flops = forward_flops(named.family, named.variant, **images)
    except ValueError as error:
        small_only, own_tier = "has no variant" in str(error), "@" in name  # such as the fully connected net
        if not (small_only or own_tier):
            raise
        flops = forward_flops("vit", tier, **images)
    return Arm(name, named.family, named.variant, flops.total, flops.first_layer, 1, named.start)


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [("budget=flops budget.train_flops=1e13", "train_flops", 1e13), ("budget=epochs budget.epochs=9", "epochs", 9),
     ("budget=short", "steps", 240)],
)  # fmt: skip
def test_every_budget_composes(own: Path, override: str, field: str, value: float) -> None:
    budget = compose_study("mine", override.split(), own).spec.budget
    assert getattr(budget, field) == value


@pytest.mark.parametrize("group", ["budget", "recipe", "engine", "tracking"])
def test_every_shipped_choice_is_in_a_group_the_command_line_knows(group: str) -> None:
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"__pycache__", "tuning"}  # not composed
    assert folders == set(GROUPS)
    for path in (CONFIGS / group).glob("*.yaml"):
        engine = engine_model({"kind": path.stem})
        owner = {"budget": Budget, "recipe": Recipe, "engine": engine, "tracking": TrackingSpec}[group]
        keys = {line.partition(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()}
        assert keys <= set(owner.model_fields), path  # type: ignore[attr-defined]


def test_the_defaults_of_the_files_are_the_defaults_of_the_code(own: Path) -> None:
    composed = compose_study("mine", config_dir=own)
    assert composed.engine == EngineSpec()
    fields = ("branches", "warmup_fraction", "cooldown_fraction", "batch_size")
    assert [getattr(composed.spec.budget, f) for f in fields] == [Budget.model_fields[f].default for f in fields]
    assert [composed.spec.recipe.value("learning_rate", "vit", "vit"), composed.spec.recipe.precision] == [1e-3, "fp32"]


def test_tuning_by_the_files_is_tuning_by_the_code(own: Path) -> None:
    assert compose_study("mine", config_dir=own).tuning == TuningSpec()


@pytest.mark.parametrize(
    ("data", "found"),
    [("cifar10", ("crop", "flip")), ("mnist", ("crop",)), ("dial", ())],
)
def test_the_shared_recipe_takes_what_keeps_labels_true(data: str, found: tuple[str, ...], own: Path) -> None:
    assert compose_study("mine", [f"data={data}", "recipe=shared"], own).spec.augmentation == found
    assert compose_study("mine", [f"data={data}", "recipe=plain"], own).spec.augmentation == ()


def test_label_preserving_stands_alone() -> None:
    assert "augmentation: label_preserving is all of them already" in refusal(
        "real_images", "recipe.augmentation=[label_preserving,crop]"
    )


def test_studies_are_listed_with_their_question(own: Path) -> None:
    studies = list_studies(own)
    assert list(studies) == [*STUDIES, "mine"]
    assert studies["mine"]["question"] == "why?"
    write(own, "study/empty", "", header="")
    assert list_studies(own)["empty"] == {}
    write(own, "study/broken", "name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        list_studies(own)


# --- overrides -------------------------------------------------------------------------------------------------


def test_overrides_reach_every_part(own: Path) -> None:
    composed = compose_study(
        "mine",
        [
            "data.seed=3",
            "num_train=[50,100]",
            "budget.steps=80",
            "engine.workers=1",
            "tracking.mode=online",
            "tier=tiny",
        ],
        own,
    )
    spec = composed.spec
    assert (spec.data.seed, spec.num_train, spec.budget.steps, spec.tier) == (3, (50, 100), 80, "tiny")  # type: ignore[union-attr]
    assert (composed.engine.workers, composed.tracking.mode) == (1, "online")


def test_an_override_may_set_what_the_files_do_not_mention(own: Path) -> None:
    spec = compose_study("mine", ["recipe.learning_rate.vit=3e-3", "replicates.mlp=7", "data.grey_levels=9"], own).spec
    assert spec.recipe.value("learning_rate", "vit", "vit") == 3e-3
    assert spec.recipe.value("learning_rate", "mlp", "mlp") == 1e-3
    assert (spec.num_replicates("mlp"), spec.num_replicates("vit"), spec.num_replicates("mixer")) == (7, 5, 3)
    assert spec.data.grey_levels == 9  # type: ignore[union-attr]
    assert compose_study("mine", ["replicates=2"], own).spec.replicates == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("num_trian=[1]", "num_trian: is not a known field; did you mean 'num_train'? (given: [1])"),
        ("dta=cifar10", "dta: is not a known field; did you mean 'data'? (given: 'cifar10')"),
        ("budget.stepz=80", "budget.stepz: is not a known field; did you mean 'steps'? (given: 80)"),
        ("data.amplitud=5", "data.amplitud: is not a known field; did you mean 'amplitude'? (given: 5)"),
        ("engine.workerz=1", "engine.workerz: is not a known field; did you mean 'workers'? (given: 1)"),
        ("+tracking.projekt=x", "tracking.projekt: is not a known field; did you mean 'project'? (given: 'x')"),
        ("num_train=[64,many]", "num_train[1]: Input should be a valid integer"),
        ("num_train=[64,many]", "(given: 'many')"),
        ("replicates=x", "replicates: Input should be a valid integer"),
        ("replicates.vit=0", "replicates.vit: Input should be greater than 0 (given: 0)"),
        ("recipe.learning_rate.vit=fast", "recipe.learning_rate.vit: Input should be a valid number"),
        ("recipe.learning_rate=fast", "recipe.learning_rate: Input should be a valid number"),
        ("tier=huge", "tier: Input should be 'nano', 'micro', 'tiny', 'small' or 'base' (given: 'huge')"),
        (
            "families=[vitt,mlp]",
            "families: unknown family 'vitt' (did you mean 'vit'?)",
        ),
        (
            "budget.steps=470",
            "budget.steps: must be a multiple of 40 so that every branch is whole: 440 or 480 (given: 470)",
        ),
        ("engine.device=tpu", "engine.device: Input should be 'auto', 'cpu' or 'cuda' (given: 'tpu')"),
        ("data=cifar11", "data: 'cifar11' is not known; did you mean 'cifar10'?; there are: cifar10, "),
        ("budget=long", "budget: 'long' is not known; there are: epochs, flops, short"),
        ("study=other", "study: 'other' is not known"),
        ("budget=flops", "budget.train_flops: has no default here; add budget.train_flops="),
        ("num_train=100,200", "Ambiguous value for argument 'num_train=100,200'; write a list as key=[a,b]"),
        ("num_train=[64", "(overrides: num_train=[64)"),
        ("data.kind=tape", "data: Input tag 'tape'"),
        ("vary=[]", "vary is empty, so that all replicates are the same run"),
    ],
)
def test_a_wrong_override_is_told_by_field_and_value(own: Path, override: str, says: str) -> None:
    message = refusal("mine", override, config_dir=own)
    assert says in message
    assert len(message.splitlines()) <= 2, message  # one heading, one mistake


def test_replicates_of_arms_that_an_override_leaves_out_are_dropped_and_told(own: Path) -> None:
    """The study `mine` gives vit and resnet five replicates and makes them its pair."""
    composed = compose_study("mine", ["families=[vit@nano,mixer]", "primary_pair=[mixer,vit]"], own)
    assert composed.spec.replicates == {"default": 3, "vit": 5}
    (note,) = composed.notes
    assert note.startswith("families leaves out resnet, to which the study file gives replicates of its own")
    assert note.endswith("all arms that it does not name have 3")


def test_a_primary_pair_that_lost_an_arm_is_none_and_told(own: Path) -> None:
    composed = compose_study("mine", ["families=[vit,mixer]", "replicates=2"], own)
    assert (composed.spec.primary_pair, composed.spec.replicates) == (None, 2)
    (note,) = composed.notes
    assert note == (
        "families leaves out resnet of the study file's primary_pair, so that none is declared: the two arms are "
        "compared in their order; to have them in another add 'primary_pair=[A,B]', the stronger prior first"
    )
    (of_three,) = compose_study("mine", ["families=[vit,mixer,mlp]", "replicates=2"], own).notes
    assert of_three.endswith("none is declared: to compare two arms add 'primary_pair=[A,B]', the stronger prior first")


@pytest.mark.parametrize(
    "overrides",
    [["families=[vit,resnet,mlp]"], ["+families=[resnet@nano,vit]"], ["tier=nano"], ["num_train=[64]"]],
)
def test_where_no_such_arm_is_left_out_nothing_changes(own: Path, overrides: list[str]) -> None:
    composed = compose_study("mine", overrides, own)
    assert composed.notes == ()
    assert composed.spec.replicates == {"default": 3, "vit": 5, "resnet": 5}
    assert composed.spec.primary_pair == ("resnet", "vit")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("replicates.resnet=4", "replicates names ['resnet'], expected some of families"),
        ("replicates.restnet=4", "replicates names ['restnet'], expected some of families"),
        ("primary_pair=[resnet,vit]", "primary_pair ['resnet', 'vit'] must name two of families ['vit', 'mlp']"),
    ],
)
def test_what_an_override_itself_asks_of_an_arm_that_is_not_there_is_refused(
    own: Path, override: str, says: str
) -> None:
    assert says in refusal("mine", "families=[vit,mlp]", override, config_dir=own)


def test_a_shipped_study_takes_other_families_alone() -> None:
    spec = compose_study("data_scaling", ["families=[vit,resnet]"]).spec
    assert (spec.families, spec.replicates, spec.primary_pair) == (("vit", "resnet"), {"default": 3}, None)


def test_several_mistakes_are_told_at_once(own: Path) -> None:
    message = refusal("mine", "tier=huge", "num_validation=0", "budget.steps=41", config_dir=own)
    assert len(message.splitlines()) == 4
    assert all(field in message for field in ("tier:", "num_validation:", "budget.steps:"))


def test_an_unknown_study_is_told_with_the_closest() -> None:
    assert refusal("data_scalin").startswith("study: 'data_scalin' is not known; did you mean 'data_scaling'?")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=fashion_mnist", "data.name=/no/such"], "data.name: there is no folder /no/such"),
        (["data=folder", "data.root=/no/such"], "data.root: there is no folder /no/such/train"),
        (["data=imagenet_1k", "data.num_train=null"], "data.num_train declared"),
        (
            ["data=imagenet_1k", "tier=small", "families=[vit,mlp]", "primary_pair=null", "replicates=1"],
            "families[1]: family 'mlp' has no variant 'small'",
        ),
        (["data=cifar10", "tier=tiny", "data.image_size=31"], "image size 31 px does not suit the tier 'tiny'"),
        (["num_train=[64,99999]"], "num_train: 99999 images were asked for, but dial"),
        (["recipe.learning_rate.vitt=1"], "recipe.learning_rate.vitt: no such family"),
    ],
)
def test_what_does_not_exist_is_told_when_planning(own: Path, overrides: list[str], says: str) -> None:
    assert says in planning_refusal(own, *overrides)


def planning_refusal(config_dir: Path, *overrides: str) -> str:
    spec = compose_study("mine", overrides, config_dir).spec
    with pytest.raises(ConfigError) as caught:
        asking.plan(spec)
    return str(caught.value)


def test_a_missing_label_column_is_told_with_those_there_are(own: Path, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    rows = {"image": [Picture.new("RGB", (32, 32), (i, 0, 0)) for i in range(4)], "klass": [0, 1, 0, 1]}
    table = Dataset.from_dict(rows, features=Features({"image": Image(), "klass": Value("int64")}))
    for split in ("train", "test"):
        table.to_parquet(str(tmp_path / f"{split}.parquet"))
    message = planning_refusal(own, "data=cifar10", f"data.name={tmp_path}", "data.image_column=image")
    assert "data.label_column" in message
    assert "'label'" in message
    assert "klass" in message


# --- the user's own files --------------------------------------------------------------------------------------


def test_a_study_of_ones_own_takes_the_packaged_defaults(own: Path) -> None:
    write(own, "data/tiny_dial", "kind: dial\nnum_train: 500\nnum_test: 100\n", header="")
    spec = compose_study("mine", ["data=tiny_dial", "num_validation=50"], own).spec
    assert (spec.name, spec.families[0], spec.data.describe().num_train) == ("mine", "vit", 500)
    assert (spec.budget.steps, spec.budget.batch_size) == (240, 96)


@pytest.mark.parametrize("group", GROUPS)
def test_a_file_that_a_packaged_one_would_hide_is_refused(own: Path, group: str) -> None:
    packaged = sorted((CONFIGS / group).glob("*.yaml"))[0].stem
    write(own, f"{group}/{packaged}", "", header="")
    message = refusal("mine", config_dir=own)
    assert f"{own / group / packaged}.yaml: a packaged {group} is named {packaged!r} too and would win" in message


@pytest.mark.parametrize(
    ("text", "header", "says"),
    [
        (
            "familys: [vit]\nname: m\nquestion: q\nnum_train: [64]\n",
            None,
            "familys: is not a known field; did you mean 'families'?",
        ),
        ("familys: [vit]\nname: m\nquestion: q\nnum_train: [64]\n", None, "families: Field required"),
        (
            "name: m\nquestion: q\nnum_train: [64]\nfamilies: [vit]\n",
            "",
            "the first line of its file must be `# @package _global_`",
        ),
        ("name: [m\nquestion: q: q\n", None, "a file is not YAML"),
        (
            "defaults:\n  - override /data: cifar\nname: m\n",
            None,
            "data: 'cifar' is not known; did you mean 'cifar10'?",
        ),
        (
            "name: m\nquestion: q\nnum_train: 64\nfamilies: [vit]\n",
            None,
            "num_train: Input should be a valid tuple (given: 64)",
        ),
    ],
)
def test_a_wrong_study_file_is_told_by_field(own: Path, text: str, header: str | None, says: str) -> None:
    write(own, "study/wrong", text, **({} if header is None else {"header": header}))
    message = refusal("wrong", config_dir=own)
    assert message.startswith("study wrong:")
    assert says in message


def test_a_configuration_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal("mine", config_dir=tmp_path / "no") == f"--config-dir: {tmp_path / 'no'} is not a folder"


# --- inside another Hydra application --------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["tier=nano", "tier=[", "tier=huge"])
def test_a_hydra_application_around_us_is_left_as_it_was(own: Path, tmp_path: Path, override: str) -> None:
    (tmp_path / "app.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3", job_name="app"):
        before = GlobalHydra.instance().hydra
        assert before is not None
        try:
            compose_study("mine", [override], own)
        except ConfigError:
            assert override != "tier=nano"
        assert GlobalHydra.instance().hydra is before
        assert compose("app").answer == 42


def test_no_hydra_application_is_left_behind(own: Path) -> None:
    GlobalHydra.instance().clear()
    compose_study("mine", config_dir=own)
    assert not GlobalHydra.instance().is_initialized()
