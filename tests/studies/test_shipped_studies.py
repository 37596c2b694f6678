"""Every study that is shipped: composed, planned as it is, and run whole at its smallest."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest

from studies import workflow
from studies.arms import parse_arm
from studies.compose import Composed, compose_study, list_studies
from studies.spec import StudySpec
from studies.store import Store

STUDIES = sorted(path.stem for path in (Path(str(importlib.resources.files("configs"))) / "study").glob("*.yaml"))
NUM_VALIDATION, NUM_PRETRAIN = 60, 200


def smallest(name: str) -> Composed:
    """One replicate of the smallest set, 40 steps, on the dial."""
    spec = compose_study(name).spec
    on_the_dial = spec.data.kind == "dial"
    stages = [f"pretraining.{start}" for start in spec.starts]
    own = [f"pretraining.{start}.data" for start in spec.starts if spec.pretraining[start].data is not None]
    num_train, images = min(spec.num_train), max(min(spec.num_train), NUM_PRETRAIN if stages else 0)
    overrides = [
        *([] if on_the_dial else ["data=dial", "tier=nano"]),
        f"num_train=[{num_train}]",
        f"num_validation={NUM_VALIDATION}",
        "replicates=1",
        f"data.num_train={images + NUM_VALIDATION}",
        "data.num_test=200",
        "budget.train_flops=null",
        "budget.epochs=null",
        "budget.steps=40",
        "budget.batch_size=16",
        "budget.branches=[1.0]",
        "tracking=off",
        *(f"{stage}.num_train=[{NUM_PRETRAIN}]" for stage in stages),
        *(f"{data}.{short}" for data in own for short in ("num_train=400", "num_test=200")),
        *(f"{stage}.budget.{short}" for stage in stages for short in ("steps=40", "batch_size=16")),
    ]
    return compose_study(name, overrides)


def num_starts(spec: StudySpec, arm: str) -> int:
    """How many cells an arm has at a train size and replicate."""
    start = parse_arm(arm, spec.tier).start
    return 1 if start is None else len(spec.pretraining[start].num_train)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_plans_as_it_is(name: str) -> None:
    planned = workflow.plan(compose_study(name).spec)
    spec = planned.spec
    runs = sum(spec.num_replicates(arm) * num_starts(spec, arm) for arm in spec.families)
    assert len(planned.cells) == len(spec.num_train) * runs
    cells = [cell.id for stage in planned.stages for cell in stage.cells]
    assert len(set(cells)) == len(cells)
    assert spec.primary_pair is not None
    assert str(len(cells)) in list_studies()[name]["cost"].split()[0], "the file tells another number of cells"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_and_answers(name: str, tmp_path: Path) -> None:
    composed = smallest(name)
    result = workflow.run(composed, Store(tmp_path))
    assert set(result.states.values()) == {"finished"}, result.outcome
    assert len(result.states) == len(composed.spec.families)
    assert result.report.statements, "the report does not begin with an answer"
    page = result.report.page.read_text()
    assert composed.spec.question in page
    answers: dict[str, Any] = json.loads(result.report.answers.read_text())
    assert answers["by_rule"]["selected"]["findings"]
    if composed.spec.published is not None:
        table = (tmp_path / "studies" / result.plan.study_id / "report" / "tables" / "published.md").read_text()
        assert "| published |" in table
