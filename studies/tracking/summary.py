"""The W&B run that shows a study as a whole. Apart from those of cells: it needs the analysis, and they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.analysis.ladder import unpermuted
from studies.analysis.of_records import RULES
from studies.analysis.summary import data_curves
from studies.counts import counted
from studies.records import Record, records_frame
from studies.report.card import StudyCard

from .runs import Run, described, is_known, run_id


def summary_run(
    records: Sequence[Record], card: StudyCard, figures: Sequence[Path], answers: Mapping[str, Any] | None = None
) -> Run:
    """The run that shows the study as a whole: the curves as a table, the answers, the figures.

    Args:
        records: of the study so far.
        card: the study as declared.
        figures: of its report.
        answers: of its report, `answers.json`.
    """
    frame = unpermuted(records_frame(records, card.tier))
    summary: dict[str, Any] = {"cells": len(records), "cells_planned": card.num_cells}
    columns: list[str] = []
    rows: list[list[Any]] = []
    for rule in RULES:
        curves = data_curves(frame, rule, x=card.x)
        columns = ["rule", *curves.columns]
        rows += [
            [rule, *(value if is_known(value) else None for value in row.values())] for row in curves.to_dict("records")
        ]
        if answers is not None and rule in answers["by_rule"]:
            summary |= {f"{rule}/{name}": value for name, value in answer_values(answers["by_rule"][rule]).items()}
    if answers is not None:
        summary |= few_shot_values(answers.get("few_shot"))
    run = described(
        {
            "name": f"{card.name}: summary of {counted(len(records), 'cell')}",
            "group": card.study_id,
            "job_type": "summary",
            "tags": [card.name, "summary"],
            "notes": card.question,
            "config": {
                "study": card.study_id,
                "question": card.question,
                "plan_hash": card.plan_hash,
                "protocol_version": card.protocol_version,
                "data": card.data_name,
                "primary_pair": list(card.primary_pair or ()),
            },
            "history": [],
            "summary": summary,
            "table": {"columns": columns, "rows": rows},
            "images": {path.stem: str(path.resolve()) for path in sorted(figures)},
        }
    )
    return run | {"id": run_id(card.study_id, f"summary/{run['digest']}")}


def answer_values(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of `Answers.as_dict` for a dashboard: crossover and multipliers of the declared pair, floors.

    `crossover` is where the mean curves meet: a number where they meet once. `crossover_low` and `crossover_high` are
    the ends of its confidence set where that is one bounded stretch. What is not known is absent.
    """
    values: dict[str, Any] = {}
    pair = answers["pair"] or ()
    for one in answers["findings"]:
        if one["kind"] == "Crossover" and [one["first"], one["second"]] == list(pair):
            values |= {"decision": one["decision"], "statement": one["statement"]}
            roots = [round(root["x"], 1) for root in one["roots"]]
            values["crossover"] = roots[0] if len(roots) == 1 else roots
            stretches = one["confidence_set"] or []
            if len(stretches) == 1 and not (stretches[0]["open_below"] or stretches[0]["open_above"]):
                values |= {f"crossover_{end}": stretches[0][end] for end in ("low", "high")}
        elif one["kind"] == "Multiplier" and [one["prior"], one["flexible"]] == list(pair):
            values |= {f"multiplier/{row['x_prior']:.0f}": row["multiplier"] for row in one["by_x"]}
        elif one["kind"] == "Floor":
            values |= {f"floor/{one['family']}{end}": one[key] for end, key in _ENDS}
    return {name: value for name, value in values.items() if value is not None}


def few_shot_values(answers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The numbers of `FewShotAnswers.as_dict` for a dashboard: mean error by arm, pretraining images and shots."""
    return {
        f"few_shot/{one['arm']}/{_pretrained(one['num_pretrain'])}/{one['shots']}": one["mean"]
        for one in (answers or {"curves": []})["curves"]
    }


def _pretrained(size: float | None) -> str:
    return "unknown" if size is None else f"{size:.0f}" if size else "untrained"


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))
