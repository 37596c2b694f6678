"""Asking, running, answering: from a study file to cells, records, curves and a report.

Names are loaded when first used: reading records and reporting need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.analysis.answers import Answers, analyse
    from studies.analysis.choice import choose, needed
    from studies.analysis.crossover import crossover
    from studies.analysis.fitting import fit_curve, fit_curves
    from studies.analysis.interaction import difference_of_differences
    from studies.analysis.ladder import Ladder, permutation_ladder
    from studies.analysis.multiplier import multiplier
    from studies.analysis.of_records import block_counts, records_table
    from studies.analysis.paired import paired_tests
    from studies.analysis.summary import data_curves
    from studies.analysis.table import Columns, curve_table
    from studies.analysis.variance import variance_split
    from studies.answering import load_answers, load_ladder, load_probes, load_records, report_study
    from studies.asking import load_study, plan
    from studies.budget import Budget
    from studies.cell import Cell
    from studies.checkpoint import AtomicCheckpointIO
    from studies.compose import Composed, compose_study
    from studies.engine_spec import EngineSpec
    from studies.errors import ConfigError, PlanError, StoreError, StudyError
    from studies.few_shot import FewShot, evaluate_few_shot
    from studies.grid import Plan
    from studies.probes.probe_results import probe_frame
    from studies.probes.study_probing import ProbingResult, probe
    from studies.recipe import Recipe
    from studies.records import COLUMNS, Record, read_predictions, records_frame, selected_rows
    from studies.rounds import TuneResult, plan_tuning, tune
    from studies.running import RunResult, run
    from studies.spec import StudySpec
    from studies.store import Store
    from studies.tuned import Tuning
    from studies.tuning import TuningSpec
    from studies.tuning_file import read_tuning

_MODULES = {
    "studies.analysis.answers": ("Answers", "analyse"),
    "studies.analysis.choice": ("choose", "needed"),
    "studies.analysis.crossover": ("crossover",),
    "studies.analysis.fitting": ("fit_curve", "fit_curves"),
    "studies.analysis.interaction": ("difference_of_differences",),
    "studies.analysis.multiplier": ("multiplier",),
    "studies.analysis.of_records": ("block_counts", "records_table"),
    "studies.analysis.paired": ("paired_tests",),
    "studies.analysis.summary": ("data_curves",),
    "studies.analysis.table": ("Columns", "curve_table"),
    "studies.analysis.variance": ("variance_split",),
    "studies.analysis.ladder": ("Ladder", "permutation_ladder"),
    "studies.answering": ("load_answers", "load_ladder", "load_probes", "load_records", "report_study"),
    "studies.asking": ("load_study", "plan"),
    "studies.budget": ("Budget",),
    "studies.cell": ("Cell",),
    "studies.checkpoint": ("AtomicCheckpointIO",),
    "studies.compose": ("Composed", "compose_study"),
    "studies.engine_spec": ("EngineSpec",),
    "studies.errors": ("ConfigError", "PlanError", "StoreError", "StudyError"),
    "studies.few_shot": ("FewShot", "evaluate_few_shot"),
    "studies.grid": ("Plan",),
    "studies.probes.probe_results": ("probe_frame",),
    "studies.probes.study_probing": ("ProbingResult", "probe"),
    "studies.recipe": ("Recipe",),
    "studies.records": ("COLUMNS", "Record", "read_predictions", "records_frame", "selected_rows"),
    "studies.rounds": ("TuneResult", "plan_tuning", "tune"),
    "studies.running": ("RunResult", "run"),
    "studies.spec": ("StudySpec",),
    "studies.store": ("Store",),
    "studies.tuned": ("Tuning",),
    "studies.tuning": ("TuningSpec",),
    "studies.tuning_file": ("read_tuning",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "COLUMNS",
    "Answers",
    "AtomicCheckpointIO",
    "Budget",
    "Cell",
    "Columns",
    "Composed",
    "ConfigError",
    "EngineSpec",
    "FewShot",
    "Ladder",
    "Plan",
    "PlanError",
    "ProbingResult",
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
    "analyse",
    "block_counts",
    "choose",
    "compose_study",
    "crossover",
    "curve_table",
    "data_curves",
    "difference_of_differences",
    "evaluate_few_shot",
    "fit_curve",
    "fit_curves",
    "load_answers",
    "load_ladder",
    "load_probes",
    "load_records",
    "load_study",
    "multiplier",
    "needed",
    "paired_tests",
    "permutation_ladder",
    "plan",
    "plan_tuning",
    "probe",
    "probe_frame",
    "read_predictions",
    "read_tuning",
    "records_frame",
    "records_table",
    "report_study",
    "run",
    "selected_rows",
    "tune",
    "variance_split",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the types are those of the block above
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
