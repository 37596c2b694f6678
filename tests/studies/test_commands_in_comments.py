"""The commands that the comments of the shipped studies give are planned as they stand, without reading an image."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

import configs
from studies import asking
from studies.asking import load_study

FOLDER = Path(configs.__file__).parent / "study"
OVERRIDE = re.compile(r"~|[\w@.]+=")


def commands_of(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Study and overrides of every `study run` in the comments of a study file; those that need a user's folder not."""
    comments = " ".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    found = []
    for text in comments.split("study run ")[1:]:
        name, *rest = (word.rstrip(",") for word in re.findall(r"(?:'[^']*'|[^\s'])+", text))
        overrides = tuple(shlex.split(" ".join(takewhile(lambda word: OVERRIDE.match(word.strip("'")), rest))))
        if overrides:
            found.append((name, overrides))
    return found


COMMANDS = [command for path in sorted(FOLDER.glob("*.yaml")) for command in commands_of(path)]


def test_the_comments_name_commands() -> None:
    assert {"transfer", "masked_pretraining", "pooling", "position_embedding", "model_size", "compute",
            "regularization", "hybrid", "sequence", "real_images", "permutation_ladder"
            } == {name for name, _ in COMMANDS}  # fmt: skip
    assert ("sequence", ("permutation=patches", "name=sequence_permuted")) in COMMANDS


@pytest.mark.parametrize(("name", "overrides"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_command_in_a_comment_is_planned(name: str, overrides: tuple[str, ...]) -> None:
    spec = load_study(name, overrides).spec
    plan = asking.plan(spec)
    assert plan.cells
    if len(plan.pretraining) > 1:
        steps = {cell.steps for stage in plan.pretraining for cell in stage.cells}
        assert len(steps) == 1, "the stages that are compared train equally long"


def test_the_readme_names_no_arm_that_a_shipped_tuning_lacks() -> None:
    """Whoever copies a command from there must not be told that an arm has no learning rate."""
    readme = (FOLDER.parents[1] / "README.md").read_text().replace("\n", " ")
    tuned = {}
    for path in (FOLDER.parent / "tuning").glob("*.yaml"):
        tuned[path.stem] = set(yaml.safe_load(path.read_text())["arms"])
    checked = 0
    for name, rest in re.findall(r"study (?:run|plan) +(\w+)((?: +(?:'[^']*'|[\w.]+=[^\s`)]+))*)", readme):
        content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) if (FOLDER / f"{name}.yaml").exists() else {}
        families, tuning = re.search(r"families=\[([^\]]*)\]", rest), content.get("recipe", {}).get("tuning")
        if families and tuning and "recipe.tuning=" not in rest:
            checked += 1
            assert set(families[1].split(",")) <= tuned[tuning], (name, rest)
    assert checked >= 2, "the dial with more flipped places, and the control"
