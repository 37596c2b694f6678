"""The file of a tuning: read back, refused when altered, and cited with everything that differs said aloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from planned import make_arms, make_spec, planned

from datamodules import parse_data
from studies import compose
from studies.budget import train_flops
from studies.compose import compose_study, list_tunings
from studies.errors import ConfigError
from studies.grid import Plan
from studies.plan_notes import FIXED_RECIPE
from studies.planning import make_plan, networks_of
from studies.spec import StudySpec
from studies.tuned import Conditions, Network, Origin, TunedPoint, Tuning, TuningCost
from studies.tuning import Trial, TuningSpec
from studies.tuning_file import read_tuning, shipped_tunings, write_tuning

STEPS = 80


def point(rate: float, decay: float, **changes: Any) -> TunedPoint:
    trial = Trial(learning_rate=rate, weight_decay=decay, validation_errors=(0.1, 0.3))
    other = Trial(learning_rate=0.0001, weight_decay=decay, validation_errors=(0.4, 0.5), diverged=1)
    content: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": rate,
        "weight_decay": decay,
        "validation_error": 0.1732,
        "at_edge": False,
        "num_trials": 2,
        "trials": (other, trial),
    }
    return TunedPoint(**(content | changes))


def make_tuning(spec: StudySpec | None = None, **changes: Any) -> Tuning:
    """A tuning for `spec` at N = 64 and 256: the rate of every arm falls from 0.004 to 0.001."""
    spec = spec or make_spec()
    content: dict[str, Any] = {
        "name": "small",
        "origin": Origin(
            study_id="small-tuning.0", plan_hashes=("0" * 64,), protocol_version="1", package_versions=("0",)
        ),
        "conditions": Conditions.of(spec, spec.data.describe()),
        "rules": TuningSpec(),
        "cost": TuningCost(trials=12, cells=30, train_flops=10**12),
        "networks": networks_of(make_arms(spec).values()),
        "arms": {arm: {64: point(0.004, 0.02), 256: point(0.001, 0.2)} for arm in ("vit", "resnet", "mlp")},
    }
    return Tuning(**(content | changes)).sealed()


def test_a_network_that_has_changed_since_is_said() -> None:
    tuning = make_tuning()
    assert "forward FLOPs" not in remarks(citing(tuning))
    other = tuning.networks | {"vit": Network(forward_flops=7_000, num_parameters=9_000)}
    text = remarks(citing(make_tuning(networks=other)))
    assert "vit of" in text
    assert "(tuned: 9,000 and 7,000)" in text
    assert "mlp of" not in text


def citing(tuning: Tuning, **changes: Any) -> Plan:
    spec = make_spec(**changes)
    return make_plan(spec, spec.data.describe(), make_arms(spec), tuning)


def remarks(plan: Plan) -> str:
    """The notes that a plan without a tuning does not have."""
    return "\n".join(note for note in plan.notes if note not in planned().notes)


# --- the file --------------------------------------------------------------------------------------------------


def test_a_tuning_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    tuning = make_tuning()
    path = write_tuning(tuning, tmp_path / "deep" / "mine.yaml")
    assert read_tuning(str(path)) == tuning
    text = path.read_text()
    assert "{learning_rate: 0.004, weight_decay: 0.02, validation_errors: [0.1, 0.3], diverged: 0}" in text
    assert max(map(len, text.splitlines())) <= 140
    assert list(yaml.safe_load(text)["arms"]["vit"]) == [64, 256], "sizes are numbers"


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_tuning(make_tuning(), tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    "old",
    [
        "learning_rate: 0.004",
        "weight_decay: 0.2\n",
        "at_edge: false",
        "steps: 80",
        "tier: nano",
        "trials: 12",
        "validation_errors: [0.1, 0.3]",
        "name: small",
    ],
)
def test_an_altered_file_is_refused(old: str, tmp_path: Path) -> None:
    path = write_tuning(make_tuning(), tmp_path / "mine.yaml")
    changes = {"learning_rate: 0.004": "learning_rate: 0.005", "at_edge: false": "at_edge: true",
               "tier: nano": "tier: tiny", "name: small": "name: other"}  # fmt: skip
    new = changes.get(old, re.sub(r"\d(?=\D*$)", "7", old))
    text = path.read_text()
    assert old in text
    assert new != old
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"mine\.yaml was altered: .*study tune"):
        read_tuning(str(path))


def test_comments_and_layout_are_no_alteration(tmp_path: Path) -> None:
    path = write_tuning(make_tuning(), tmp_path / "mine.yaml")
    path.write_text("# a remark\n" + yaml.safe_dump(yaml.safe_load(path.read_text())))
    assert read_tuning(str(path)) == make_tuning()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "neither a shipped tuning .* nor a file that can be read"),
        ("a: [", "is not YAML"),
        ("- 1", "is not a tuning"),
        ("name: x", "is not a tuning: origin: Field required"),
    ],
)
def test_what_is_no_tuning_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tuning(str(path))


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = write_tuning(make_tuning(), tmp_path / "mine.yaml")
    path.write_text(path.read_text() + "comment: faster\n")
    with pytest.raises(ConfigError, match="comment: Extra inputs"):
        read_tuning(str(path))


@pytest.mark.parametrize("name", sorted(shipped_tunings()))
def test_shipped_tunings_are_whole(name: str) -> None:
    tuning = read_tuning(name)
    assert tuning.cost.train_flops > 0
    most = tuning.rules.max_trials
    assert all(point.num_trials <= most for points in tuning.arms.values() for point in points.values())


# --- citing ----------------------------------------------------------------------------------------------------


def test_every_cell_takes_the_values_of_its_arm_and_size() -> None:
    plan = citing(make_tuning(), num_train=(64, 128, 256))
    found = {cell.num_train: (cell.learning_rate, cell.weight_decay) for cell in plan.cells}
    assert found == {64: (0.004, 0.02), 128: (0.002, 0.06325), 256: (0.001, 0.2)}
    assert plan.tuning == make_tuning().citation


def test_a_tuning_made_for_the_study_needs_no_more_than_its_citation() -> None:
    text = remarks(citing(make_tuning()))
    assert text.startswith(
        f"Learning rates and weight decays are those of the tuning small (sha256 {make_tuning().sha256[:12]}"
    )
    assert len(text.splitlines()) == 1
    assert FIXED_RECIPE not in citing(make_tuning()).notes


def test_without_a_tuning_the_recipe_is_called_fixed() -> None:
    plan = planned()
    assert FIXED_RECIPE in plan.notes
    assert plan.tuning is None


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"data": parse_data({"kind": "dial", "num_train": 2_000, "num_test": 500, "flipped_positions": 4})},
             r"data_fingerprint [0-9a-f]{12} \(tuned: [0-9a-f]{12}\)"),
    "tier": ({"tier": "tiny"}, r"tier tiny \(tuned: nano\)"),
    "batch size": ({"budget": {"steps": STEPS, "batch_size": 16}}, r"batch_size 16 \(tuned: 32\)"),
    "steps": ({"budget": {"steps": 160, "batch_size": 32}},
              r"budget differs.*: 160 steps for mlp, resnet, vit \(tuned: 80"),
    "FLOPs": ({"budget": {"train_flops": 2e10, "batch_size": 32}}, r"budget differs.*: 200 steps .*\(tuned: 80\)"),
    "precision": ({"recipe": {"precision": "bf16"}}, r"precision bf16 \(tuned: fp32\)"),
    "smoothing": ({"recipe": {"label_smoothing": 0.1}}, r"label_smoothing 0.1 \(tuned: 0.0\)"),
    "permutation": ({"permutation": "pixels"}, r"permutation pixels \(tuned: none\)"),
    "validation": ({"num_validation": 50}, r"num_validation 50 \(tuned: 100\)"),
    "larger N": ({"num_train": (64, 512)},
                 r"Outside the tuned sizes.*N = 512 for mlp, resnet, vit \(tuned from 64 to 256\)"),
    "smaller N": ({"num_train": (32, 64)}, r"Outside the tuned sizes.*N = 32 for"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_from_the_tuning_is_said_exactly(name: str) -> None:
    changes, expected = DIFFERENT[name]
    text = remarks(citing(make_tuning(), **changes))
    assert re.search(expected, text), text
    spoken = [line for line in text.splitlines() if "tuned:" in line or "tuned from" in line]
    assert len(spoken) == 1, "and nothing else is"
    assert spoken[0].count("(tuned") == 1


def test_another_augmentation_is_said() -> None:
    colour = parse_data({"kind": "hub", "name": "x/y", "label": "y", "image_column": "i", "label_column": "l",
                         "num_train": 2_000, "num_test": 500, "num_classes": 2, "image_size": 16, "in_channels": 3,
                         "label_preserving": ["crop", "flip"]})  # fmt: skip
    tuning = make_tuning(make_spec(data=colour))
    text = remarks(citing(tuning, data=colour, recipe={"augmentation": "label_preserving"}))
    assert "augmentation crop+flip (tuned: none)" in text
    assert "Augmentation: crop, flip, all that keep the labels of y true." in text
    assert "differs" not in remarks(citing(tuning, data=colour))


def test_what_the_data_are_called_is_no_difference() -> None:
    renamed = make_tuning().conditions.model_copy(update={"data": "my copy"})
    assert "differs" not in remarks(citing(make_tuning(conditions=renamed)))


def test_a_rate_left_at_an_edge_is_said_by_those_who_use_it() -> None:
    arms = make_tuning().arms
    edge = arms | {"mlp": arms["mlp"] | {256: point(0.1, 0.2, at_edge=True)}}
    assert "at the edge of its grid after all trials" in remarks(citing(make_tuning(arms=edge)))
    assert "mlp at N = 256 (0.1)" in remarks(citing(make_tuning(arms=edge)))
    without = citing(make_tuning(arms=edge), families=("vit", "resnet"))
    assert "edge" not in remarks(without)


def test_another_protocol_is_said() -> None:
    origin = make_tuning().origin.model_copy(update={"protocol_version": "0"})
    assert "protocol 1 (tuned: 0)" in remarks(citing(make_tuning(origin=origin)))


def test_an_arm_the_tuning_lacks_is_refused_with_those_it_has() -> None:
    arms = {arm: points for arm, points in make_tuning().arms.items() if arm != "mlp"}
    with pytest.raises(
        ConfigError,
        match=r"which has none for 'mlp', only for vit, resnet\. .* add recipe\.tuning=null",
    ):
        citing(make_tuning(arms=arms))


def test_the_hash_covers_the_content_of_a_tuning_and_not_where_it_lies() -> None:
    here = citing(make_tuning(), recipe={"tuning": "/here/tuning.yaml"})
    there = citing(make_tuning(), recipe={"tuning": "/there/tuning.yaml"})
    assert here.hash == there.hash
    other = make_tuning(cost=TuningCost(trials=12, cells=30, train_flops=2 * 10**12))
    assert citing(other).hash != here.hash, "the same values at another cost"
    assert [cell.id for cell in citing(other).cells] == [cell.id for cell in here.cells]


def test_a_plan_with_a_citation_is_read_back() -> None:
    plan = citing(make_tuning())
    assert Plan.from_json(plan.to_json()) == plan
    assert "tuning" not in planned().to_json()


def test_a_plan_locked_before_tunings_existed_is_still_read() -> None:
    content = planned().to_json()
    del content["spec"]["recipe"]["tuning"]
    for cell in content["cells"]:
        del cell["reads_test"]
    assert Plan.from_json(content).hash == planned().hash


def test_budgets_in_epochs_are_held_against_the_tuned_sizes_around_them() -> None:
    arms = {"vit": {64: point(0.004, 0.02, steps=40), 256: point(0.001, 0.2, steps=120)}}
    budget = {"epochs": 10, "batch_size": 32}
    found = citing(
        make_tuning(arms=arms), families=("vit",), primary_pair=None, num_train=(64, 128, 256), budget=budget
    )
    assert {cell.num_train: cell.steps for cell in found.cells} == {64: 40, 128: 40, 256: 80}
    assert "256" not in remarks(found).partition("budget differs")[2]
    assert "80 steps for vit (tuned: 120)" in remarks(found)


# --- found by name ---------------------------------------------------------------------------------------------


def test_a_tuning_of_the_users_is_found_by_name_or_path(tmp_path: Path) -> None:
    path = write_tuning(make_tuning(), tmp_path / "tuning" / "mine.yaml")
    assert list_tunings(tmp_path)["mine"] == path
    by_name = compose_study("data_scaling", ["recipe.tuning=mine"], tmp_path).spec.recipe.tuning
    by_path = compose_study("data_scaling", [f"recipe.tuning={path}"]).spec.recipe.tuning
    assert by_name is not None
    assert by_path is not None
    assert read_tuning(by_name) == read_tuning(by_path) == make_tuning()


def test_a_tuning_of_the_users_does_not_hide_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    write_tuning(make_tuning(), shipped / "tuning" / "mine.yaml")
    monkeypatch.setattr(compose.importlib.resources, "files", lambda package: shipped)
    write_tuning(make_tuning(), tmp_path / "own" / "tuning" / "mine.yaml")
    with pytest.raises(ConfigError, match=r"own/tuning/mine\.yaml: a packaged tuning is named 'mine' too"):
        list_tunings(tmp_path / "own")
    assert read_tuning("mine") == make_tuning(), "by its name alone, wherever the command runs"


def test_a_misspelt_tuning_is_refused_with_a_hint(tmp_path: Path) -> None:
    write_tuning(make_tuning(), tmp_path / "tuning" / "mine.yaml")
    with pytest.raises(ConfigError, match=r"recipe\.tuning: 'mien' is not known; did you mean 'mine'\?.*study tune"):
        compose_study("data_scaling", ["recipe.tuning=mien"], tmp_path)


def test_citing_by_the_name_of_the_section_is_put_right() -> None:
    with pytest.raises(ConfigError, match=r"write recipe\.tuning=mine"):
        compose_study("data_scaling", ["tuning=mine"])


def test_a_mistake_in_the_section_is_one_message() -> None:
    with pytest.raises(ConfigError, match="max_trials 3 is below the 8 trials of the grid"):
        compose_study("data_scaling", ["tuning.max_trials=3"])
    with pytest.raises(ConfigError, match=r"tuning\.max_trial: is not a known field; did you mean 'max_trials'"):
        compose_study("data_scaling", ["tuning.max_trial=30"])


def test_flops_of_the_plan_are_those_of_the_budget() -> None:
    """The test above that cites a budget in FLOPs rests on this arithmetic."""
    assert 2e10 // train_flops(1_010_000, 32) // 40 * 40 == 200
