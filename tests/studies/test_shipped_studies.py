"""Every study that is shipped: composed, planned as it is, and run whole at its smallest."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest

from studies import asking, running
from studies.compose import Composed, compose_study, list_studies
from studies.store import Store

STUDIES = sorted(path.stem for path in (Path(str(importlib.resources.files("configs"))) / "study").glob("*.yaml"))
NUM_VALIDATION, NUM_PRETRAIN = 60, 200
SHORT = ("train_flops=null", "epochs=null", "steps=40", "batch_size=16", "branches=[1.0]")


def smallest(name: str) -> Composed:
    """One replicate of the smallest set, 40 steps, on the dial; so is every stage before it."""
    spec = compose_study(name).spec
    num_train = min(spec.num_train)
    overrides = [] if spec.data.kind == "dial" else ["data=dial", "tier=nano"]
    overrides += [f"num_train=[{num_train}]", f"num_validation={NUM_VALIDATION}", "replicates=1", "tracking=off"]
    overrides += [f"data.num_train={max(num_train, NUM_PRETRAIN) + NUM_VALIDATION}", "data.num_test=200"]
    overrides += [f"budget.{length}" for length in SHORT]
    for start, declared in spec.pretraining.items():
        stage = f"pretraining.{start}"
        overrides += [f"{stage}.num_train=[{NUM_PRETRAIN}]", *(f"{stage}.budget.{length}" for length in SHORT)]
        if declared.data is not None:
            overrides += [f"{stage}.data.num_train={NUM_PRETRAIN + NUM_VALIDATION}", f"{stage}.data.num_test=200"]
    return compose_study(name, overrides)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_plans_as_it_is(name: str) -> None:
    planned = asking.plan(compose_study(name).spec)
    assert planned.spec.primary_pair is not None
    ids = [cell.id for stage in planned.stages for cell in stage.cells]
    assert len(set(ids)) == len(ids)
    told = list_studies()[name]["cost"].split()[0]
    assert told == f"{len(ids)}", "its file tells another number of cells"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_and_answers(name: str, tmp_path: Path) -> None:
    composed = smallest(name)
    result = running.run(composed, Store(tmp_path))
    assert set(result.states.values()) == {"finished"}, result.outcome
    assert len(result.states) == len(composed.spec.families) * len(composed.spec.rungs)
    assert result.report.statements, "the report does not begin with an answer"
    assert composed.spec.question in result.report.page.read_text()
    answers: dict[str, Any] = json.loads(result.report.answers.read_text())
    assert answers["by_rule"]["selected"]["findings"]
    shown = {path.stem for path in result.report.tables}
    assert ("published" in shown) == (composed.spec.published is not None)
