"""Asking, running, answering: from a study file to cells, records, curves and a report.

Names are loaded when first used: reading records and reporting need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.checkpoint import AtomicCheckpointIO
    from studies.compose import Composed, compose_study
    from studies.curves import data_curves, observed_crossing
    from studies.errors import ConfigError, PlanError, StoreError, StudyError
    from studies.planning import Cell, Plan
    from studies.records import COLUMNS, Record, read_predictions, records_frame, selected_rows
    from studies.rounds import TuneResult, plan_tuning, tune
    from studies.spec import Budget, EngineSpec, Recipe, StudySpec
    from studies.store import Store
    from studies.tuned import Tuning
    from studies.tuning import TuningSpec
    from studies.tuning_file import read_tuning
    from studies.workflow import RunResult, load_records, load_study, plan, report_study, run

_MODULES = {
    "studies.checkpoint": ("AtomicCheckpointIO",),
    "studies.compose": ("Composed", "compose_study"),
    "studies.curves": ("data_curves", "observed_crossing"),
    "studies.errors": ("ConfigError", "PlanError", "StoreError", "StudyError"),
    "studies.planning": ("Cell", "Plan"),
    "studies.records": ("COLUMNS", "Record", "read_predictions", "records_frame", "selected_rows"),
    "studies.rounds": ("TuneResult", "plan_tuning", "tune"),
    "studies.tuned": ("Tuning",),
    "studies.tuning": ("TuningSpec",),
    "studies.tuning_file": ("read_tuning",),
    "studies.workflow": ("RunResult", "load_records", "load_study", "plan", "report_study", "run"),
    "studies.spec": ("Budget", "EngineSpec", "Recipe", "StudySpec"),
    "studies.store": ("Store",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "COLUMNS",
    "AtomicCheckpointIO",
    "Budget",
    "Cell",
    "Composed",
    "ConfigError",
    "EngineSpec",
    "Plan",
    "PlanError",
    "Recipe",
    "Record",
    "RunResult",
    "Store",
    "StoreError",
    "StudyError",
    "StudySpec",
    "TuneResult",
    "Tuning",
    "TuningSpec",
    "compose_study",
    "data_curves",
    "load_records",
    "load_study",
    "observed_crossing",
    "plan",
    "plan_tuning",
    "read_predictions",
    "read_tuning",
    "records_frame",
    "report_study",
    "run",
    "selected_rows",
    "tune",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the types are those of the block above
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
