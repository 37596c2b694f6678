"""A study probed: weights made again where that is asked for, every probe applied, the report written anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from studies.answering import report_study
from studies.engine_spec import EngineSpec
from studies.engines.local import devices
from studies.errors import ExitCode
from studies.grid import Plan
from studies.report import ReportPaths
from studies.store import Store
from studies.training_again import train_for_weights

from .catalogue import ProbeKind, chosen
from .job import Probing
from .probe_results import Coverage, coverage, probe_frame
from .probing import probe_networks
from .subjects import subjects
from .summary import probe_summary


@dataclass(frozen=True)
class ProbingResult:
    """What probing a study came to.

    Attributes:
        plan: of the study.
        kinds: the probes that were asked for.
        probing: what was computed, and what was not and why.
        coverage: how many results of these probes are there now.
        frame: all their readings, columns as in `PROBE_COLUMNS`.
        not_trained_again: cell id -> why its weights could not be made again.
        report: the files of the report, written anew where there is something to report.
    """

    plan: Plan
    kinds: tuple[ProbeKind, ...]
    probing: Probing
    coverage: Coverage
    frame: pd.DataFrame = field(repr=False)
    not_trained_again: Mapping[str, str] = field(default_factory=dict)
    report: ReportPaths | None = None

    @property
    def summary(self) -> pd.DataFrame:
        """Means over replicates with intervals; see `probe_summary`."""
        return probe_summary(self.frame, self.plan.spec.x, self.kinds)

    @property
    def exit_code(self) -> ExitCode:
        """Zero only if every probe of every network has its result, and none failed."""
        lacking = self.probing.faults or self.probing.without_weights or self.not_trained_again
        return ExitCode.INCOMPLETE if lacking else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        summary = self.summary.astype(object)
        return {
            "study_id": self.plan.study_id,
            "results": {
                name: {"done": self.coverage.done.get(name, 0), "asked": asked}
                for name, asked in self.coverage.asked.items()
            },
            "computed": self.probing.computed,
            "summary": summary.where(summary.notna(), None).to_dict("records"),
            "failed": self.probing.faults,
            "inapplicable": self.probing.inapplicable,
            "cells_without_weights": self.probing.without_weights,
            "not_trained_again": dict(self.not_trained_again),
        }


def probe(
    study: str = "data_scaling",
    store: Path | str = "results",
    *,
    probes: Sequence[str] = (),
    train_again: bool = False,
    retry_failed: bool = False,
    workers: int | None = None,
    on_message: Callable[[str], None] = lambda message: None,
) -> ProbingResult:
    """Probes the networks of a finished study that have no result yet.

    Args:
        study: name or id.
        store: where its records and weights lie.
        probes: names of `studies.probes.catalogue.KINDS`; by default all that leave the test split alone.
        train_again: first train again the cells whose weights were not kept; their records stay as they are.
        retry_failed: probe again where the result says failed.
        workers: processes at once; by default one per CPU core.
        on_message: called with what a person should know meanwhile.

    Raises:
        ConfigError: there is no such probe, or the study is one whose networks are not probed.
        StoreError: the store has no such study, or cannot be written.
    """
    found = Store(store)
    return probe_study(
        found.plan(study),
        found,
        kinds=chosen(probes),
        again=train_again,
        retry_failed=retry_failed,
        workers=workers,
        on_message=on_message,
    )


def probe_study(
    planned: Plan,
    store: Store,
    *,
    kinds: Sequence[ProbeKind],
    again: bool = False,
    retry_failed: bool = False,
    workers: int | None = None,
    on_training: Callable[[Plan, Store], None] = lambda plan, store: None,
    on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> ProbingResult:
    """As `probe`, of a plan.

    Args:
        on_training: called with what is trained again and the store it is trained in.
        on_poll: called a few times per second with the ids, in that store, of the cells that train.
        on_progress: called with the results that are there, and all that are computed now.
    """
    asked = subjects(planned, kinds)
    store.check_writable()
    engine = EngineSpec(workers=workers)
    not_again: Mapping[str, str] = {}
    if again:
        not_again = train_for_weights(
            planned, store, engine, on_start=on_training, on_poll=on_poll, on_message=on_message
        )
    if any(kind.reads_test for kind in kinds):
        names = ", ".join(kind.name for kind in kinds if kind.reads_test)
        on_message(f"{names} reads the test split, once for every network; it chooses nothing by it")
    probing = probe_networks(
        planned,
        store,
        asked,
        devices=devices(engine),
        retry_failed=retry_failed,
        on_progress=on_progress,
        on_message=on_message,
    )
    for message in probing.messages:
        on_message(message)
    report = None
    if store.records(planned):
        on_message(f"writing the report of {planned.study_id}")  # of a large study that is a minute's work
        report = report_study(planned, store)
    return ProbingResult(
        planned,
        tuple(kinds),
        probing,
        coverage(planned, store, kinds),
        probe_frame(planned, store, kinds),
        not_again,
        report,
    )
