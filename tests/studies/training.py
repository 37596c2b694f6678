"""A study small enough to train whole in a test: seconds on one core, every branch, every step of the way real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules import parse_data
from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.planning import make_plan
from studies.records import Record
from studies.spec import StudySpec
from studies.store import Store
from studies.survey import survey_arms
from studies.train import train_cell

TINY_DIAL = {"kind": "dial", "num_train": 400, "num_test": 300, "flipped_positions": 4}
IMMEDIATE = EngineSpec(checkpoint_seconds=0)


def tiny_spec(**changes: Any) -> StudySpec:
    content: dict[str, Any] = {
        "name": "tiny",
        "question": "does it work?",
        "data": parse_data(TINY_DIAL),
        "families": ["mlp"],
        "num_train": [50],
        "num_validation": 60,
        "replicates": 1,
        "budget": {"steps": 40, "batch_size": 16},
    }
    return StudySpec.model_validate(content | changes)


def tiny_plan(**changes: Any) -> Plan:
    spec = tiny_spec(**changes)
    info = spec.data.describe()
    return make_plan(spec, info, survey_arms(spec, info))


def train(cell: Cell, plan: Plan, folder: Path, settings: EngineSpec = IMMEDIATE) -> Record:
    return train_cell(cell, plan.spec.data, Store(folder), plan.study_id, plan.hash, settings)
