"""What W&B is shown of a record: a run's name, config, history and summary, as plain JSON values."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from studies.records import Record, arm_of
from studies.report.card import StudyCard

Run = dict[str, Any]
Row = dict[str, float]


def runs_folder(folder: Path) -> Path:
    """Where the runs of the study in `folder` lie, and the marker of each."""
    return folder / "wandb"


def run_id(study_id: str, key: str) -> str:
    """The id of a run: the same for the same study and cell, wherever it is mirrored."""
    return hashlib.sha256(f"{study_id}/{key}".encode()).hexdigest()[:20]


def run_name(cell: dict[str, Any], tier: str | None = None) -> str:
    """A name for people: `resnet-circular N=512 r0`; a start adds its images, a trial its rate and decay."""
    start = cell.get("start") or {}
    begun = f" from {start['num_pretrain']}" if start.get("num_pretrain") else ""
    name = f"{arm_of(cell, tier)}{begun} N={cell['num_train']} r{cell['replicate']}"
    trial = f" lr={cell['learning_rate']:g} decay={cell['weight_decay']:g}"
    return name if cell.get("reads_test", True) else name + trial


def cell_run(record: Record, card: StudyCard, probed: Mapping[str, float] = MappingProxyType({})) -> Run:
    """The run of one recorded cell.

    Args:
        record: of the cell.
        card: the study as declared.
        probed: values that probes read off its networks, by the name they have in the summary.
    """
    cell = record.cell
    summary: dict[str, Any] = {"status": record.status, "reason": record.reason}
    for branch in record.branches:
        if branch.selected:
            summary |= {"selected/branch": branch.fraction} | {
                f"selected/{name}": getattr(branch, name)
                for name in ("test_error", "test_loss", "test_calibration_error", "validation_error", "train_flops")
            }
        if branch.fraction == 1.0:
            summary["full_budget/test_error"] = branch.test_error
    summary |= {"train_seconds": record.train_seconds, "evaluation_seconds": record.evaluation_seconds, **probed}
    return described(
        {
            "id": run_id(card.study_id, record.cell_id),
            "name": run_name(cell, card.tier),
            "group": card.study_id,
            "job_type": arm_of(cell, card.tier),
            "tags": [card.name, record.status],
            "notes": card.question,
            "config": cell_config(record, card),
            "history": list(history(record)),
            "summary": {name: value for name, value in summary.items() if is_known(value)},
        }
    )


def cell_config(record: Record, card: StudyCard) -> dict[str, Any]:
    """All axes, budget, hashes and seeds of a cell."""
    cell = record.cell
    config = {
        **cell,
        "arm": arm_of(cell, card.tier),
        "study": card.study_id,
        "cell_id": record.cell_id,
        "budget_flops": 3 * cell["forward_flops"] * cell["batch_size"] * cell["steps"],
        "trained_by_study": record.study,
    }
    names = (
        "plan_hash protocol_version schema_version num_parameters planned_train_flops executed_train_flops "
        "evaluation_flops train_checksum test_checksum subset_hash validation_hash predictions_sha256 resumes "
        "started_at finished_at"
    )
    config |= {name: getattr(record, name) for name in names.split()}
    if record.environment is not None:
        config["environment"] = record.environment.model_dump(mode="json")
    return config


def history(record: Record) -> Iterable[Row]:
    """Rows in order of training FLOPs, every one with both step metrics.

    `train/loss` is the trunk's, `train/loss_cooldown_<fraction>` a branch's own; `validation/*` and `test/*` are
    taken at the end of branches, with `branch` beside them.
    """
    batch_size = record.cell["batch_size"]
    rows: list[Row] = []
    for entry in record.train_losses:
        rows.append(train_row(entry.branch, entry.train_flops, entry.step * batch_size, entry.loss))
    for look in record.validations:
        rows.append(validation_row(look.branch, look.train_flops, look.step * batch_size, look.error, look.loss))
    for branch in record.branches:
        test = {f"test/{name}": getattr(branch, f"test_{name}") for name in ("error", "loss", "calibration_error")}
        rows.append(
            {
                "train_flops": branch.train_flops,
                "examples": branch.examples,
                "branch": branch.fraction,
                **test,  # None in a trial of a tuning, and then left out below
                "train_flops_exact": branch.train_flops_exact,
            }
        )
    for row in sorted(rows, key=lambda row: row["train_flops"]):
        yield {name: value for name, value in row.items() if is_known(value)}


def train_row(branch: float, train_flops: int, examples: int, loss: float) -> Row:
    """A row of training loss, of a finished cell as of a running one; `branch` 0 is the trunk."""
    name = "train/loss" if branch == 0 else f"train/loss_cooldown_{branch:g}"
    return {"train_flops": train_flops, "examples": examples, name: loss}


def validation_row(branch: float, train_flops: int, examples: int, error: float, loss: float) -> Row:
    """A row of validation, of a finished cell as of a running one."""
    row: Row = {"train_flops": train_flops, "examples": examples, "branch": branch}
    return row | {"validation/error": error, "validation/loss": loss}


def described(run: Run) -> Run:
    """The run with a digest of its content; pictures count by their bytes."""
    content = dict(run)
    content["images"] = {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in run.get("images", {}).items()
    }
    text = json.dumps(content, sort_keys=True)
    return run | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def is_known(value: object) -> bool:
    """Whether a value can be shown as a number or a word: neither None nor NaN nor infinite."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
