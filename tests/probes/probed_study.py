"""Two arms, two sizes, two replicates on a tiny dial, trained in seconds."""

from __future__ import annotations

from typing import Any

from studies.asking import plan as plan_study
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.probes.catalogue import chosen
from studies.spec import StudySpec
from studies.store import Store
from studies.train import train_cell

PLAIN = EngineSpec(workers=1, device="cpu", lanes=1)
KEEPING = PLAIN.model_copy(update={"keep_checkpoints": True})
QUICK = chosen(["position_similarity", "first_layer"])
"""Probes that need no images."""


def small_plan(**changes: Any) -> Plan:
    """The plan of the study; `changes` replace fields of it."""
    content: dict[str, Any] = {
        "name": "small",
        "question": "what do they assume?",
        "data": {"kind": "dial", "num_train": 400, "num_test": 200},
        "families": ["vit", "mlp"],
        "num_train": [40, 120],
        "num_validation": 60,
        "replicates": 2,
        "budget": {"steps": 40, "batch_size": 16, "branches": [0.5, 1.0]},
    }
    return plan_study(StudySpec.model_validate(content | changes))


def train_all(plan: Plan, store: Store, settings: EngineSpec = PLAIN) -> None:
    """Trains every cell in this process."""
    store.lock_plan(plan)
    for cell in plan.cells:
        train_cell(cell, plan.spec.data, store, plan.study_id, plan.hash, settings)
