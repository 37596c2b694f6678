"""What `study list` shows: every study with its question and cost, and below it what of it is done in a store."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .errors import StoreError
from .store import Store

DONE = ("finished", "diverged")
OWN_FILE_IS_ELSEWHERE = "its file is not here: name its folder with --config-dir"


@dataclass(frozen=True)
class StageDone:
    """One locked plan of a study: the study itself, what it pretrains, or a tuning of either.

    Attributes:
        study_id: of the plan in the store.
        stage: `study`, `pretraining` (and the start), `tuning`, `pretraining of the tuning` or `pretraining tuning`.
        states: how many cells are in which state.
        problem: why its plan cannot be read; empty otherwise.
    """

    study_id: str
    stage: str
    states: Mapping[str, int]
    problem: str = ""

    @property
    def done(self) -> int:
        """Cells with a result."""
        return sum(self.states.get(state, 0) for state in DONE)

    @property
    def cells(self) -> int:
        """Cells planned."""
        return sum(self.states.values())

    def __str__(self) -> str:
        """`pretraining: 3 of 8 cells, 1 failed (transfer-pretraining.0a1b2c3d)`."""
        stage = "" if self.stage == "study" else f"{self.stage}: "
        if self.problem:
            return f"{stage}{self.problem}"
        shown = ("running", "diverged", "failed", "invalid", "damaged", "interrupted")
        others = "".join(f", {self.states[state]} {state}" for state in shown if self.states.get(state))
        cells = "cell" if self.cells == 1 else "cells"
        return f"{stage}{self.done} of {self.cells} {cells}{others} ({self.study_id})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {"done": self.done, "cells": self.cells, "states": dict(self.states)}
        return {"study_id": self.study_id, "stage": self.stage, **counts, "problem": self.problem}


@dataclass(frozen=True)
class ListedStudy:
    """A study and what of it is done."""

    name: str
    question: str
    cost: str
    stages: tuple[StageDone, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        stages = [stage.to_json() for stage in self.stages]
        return {"study": self.name, "question": self.question, "cost": self.cost, "runs": stages}


def listed_studies(files: Mapping[str, Mapping[str, Any]], store: Store) -> list[ListedStudy]:
    """Every study that has a file, then those that only the store knows.

    Args:
        files: name -> content of the study files.
        store: where plans and records are.
    """
    stages: dict[str, list[StageDone]] = {name: [] for name in files}
    file_of = {str(content.get("name", name)): name for name, content in files.items()}  # nearly always the same
    for study_id in store.study_ids():
        study, stage = _stage_of(study_id.rpartition(".")[0], file_of)
        stages.setdefault(file_of.get(study, study), []).append(_stage_done(study_id, stage, store))
    found = []
    for name, of_study in stages.items():
        content = files.get(name, {"question": "", "cost": OWN_FILE_IS_ELSEWHERE})
        question, cost = str(content.get("question", "")), str(content.get("cost", ""))
        found.append(ListedStudy(name, question, cost, tuple(of_study)))
    return found


def listing_table(studies: list[ListedStudy]) -> Iterator[RenderableType]:
    """The same for people."""
    table = Table("study", "question", "cost", "done", show_lines=True)
    for study in studies:
        done = "\n".join(map(str, study.stages)) or "nothing yet"
        table.add_row(study.name, *map(Text, (study.question, study.cost, done)))
    yield table


def _stage_of(planned: str, known: Mapping[str, str]) -> tuple[str, str]:
    """The study a plan belongs to, and as what.

    A plan is named like its study, then `-tuning`, then `-pretraining`, and the start where there are several; a tuning
    of a stage ends in `-tuning`.
    """
    if planned in known:
        return planned, "study"
    parts = re.fullmatch(
        r"(?P<study>.+?)(?P<of>-tuning)?(?P<pretraining>-pretraining(?P<start>-(?!tuning$)[\w-]+?)?)?(?P<tuning>-tuning)?",
        planned,
    )
    assert parts is not None  # a study has a name
    words = [
        "pretraining" if parts["pretraining"] else "",
        (parts["start"] or "").removeprefix("-"),
        "of the tuning" if parts["of"] and parts["pretraining"] else "",
        "tuning" if parts["tuning"] or (parts["of"] and not parts["pretraining"]) else "",
    ]
    return parts["study"], " ".join(filter(None, words)) or "study"


def _stage_done(study_id: str, stage: str, store: Store) -> StageDone:
    try:
        return StageDone(study_id, stage, Counter(store.states(store.plan(study_id)).values()))
    except StoreError as error:  # one damaged plan must not hide all other studies
        return StageDone(study_id, stage, {}, str(error))
