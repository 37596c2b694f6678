"""What one trained cell leaves behind: a record, and per test image its predicted class and log-probability.

A record is one JSON file written once, at the end of a cell (`studies.store`). Beside it lies `predictions.npz` with a
row per branch and a column per test image. `records_frame` turns records into the long table (a row per cell and
branch) that the analysis, the report, the export and the W&B mirror read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from models.tiers import split_variant

from .arms import arm_name
from .strict import Strict

SCHEMA_VERSION = 1

Status = Literal["finished", "diverged", "invalid", "failed"]


class Validation(Strict):
    """One look at the validation split."""

    branch: float
    step: int
    train_flops: int
    error: float
    loss: float


class TrainLoss(Strict):
    """Mean training loss over the steps since the previous entry of the same branch."""

    branch: float  # the branch whose cooldown this is; 0 on the trunk
    step: int
    train_flops: int
    loss: float


class Branch(Strict):
    """A cooldown of the trunk at a fraction of the budget (PROTOCOL 3): what it cost and what came out.

    The test fields are None in a trial of a tuning, which never reads the test split.
    """

    fraction: float
    steps: int
    examples: int
    planned_train_flops: int
    train_flops: int
    train_flops_exact: int
    epochs: float
    sees_every_image: bool
    diverged: bool
    validation_error: float
    validation_loss: float
    test_error: float | None
    test_loss: float | None
    test_calibration_error: float | None
    selected: bool
    weights_sha256: str


class Environment(Strict):
    """Where and with what the cell was trained.

    Attributes:
        lanes: cells that its program had when it ended, itself included; 0 for the loop of a lone cell, None where it
            was not trained, or before this was noted.
    """

    host: str
    device: str
    python: str
    torch: str
    timm: str
    lightning: str
    numpy: str
    code_version: str
    threads: int
    lanes: int | None = None


class Record(Strict):
    """Everything known of one finished cell. `COLUMNS` documents the fields in the names of the table."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: str
    cell_id: str
    cell: dict[str, Any]
    study: str
    plan_hash: str
    status: Status
    reason: str = ""
    num_parameters: int = 0
    train_checksum: str = ""
    test_checksum: str = ""
    subset_hash: str = ""
    validation_hash: str = ""
    planned_train_flops: int = 0
    executed_train_flops: int = 0
    evaluation_flops: int = 0
    branches: tuple[Branch, ...] = ()
    validations: tuple[Validation, ...] = ()
    train_losses: tuple[TrainLoss, ...] = ()
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    resumes: int = 0
    started_at: str = ""
    finished_at: str = ""
    predictions_sha256: str = ""
    kept_sha256: str = ""  # of the file of weights of the full budget, where they were kept
    start_sha256: str = ""  # of the file of weights that the cell began from
    wandb_url: str = ""
    environment: Environment | None = None


COLUMNS: dict[str, str] = {
    "study": "name and plan hash of the study that trained the cell",
    "plan_hash": "hash of the locked plan",
    "cell_id": "hash of the cell's resolved content; the key of the store",
    "status": "finished | diverged (some branch ended at chance with a non-finite loss) | "
    "invalid (FLOPs off plan by more than 0.5%) | failed",
    "reason": "why a cell is not finished; empty otherwise",
    "arm": "family, with the tier where it is not the study's and the form where it is not the plain one: the unit of "
    "comparison",
    "family": "family of architectures",
    "variant": "size tier, with its form after a dash",
    "data": "name of the data set",
    "data_fingerprint": "hash of the data's source: revision or file hashes, split, preprocessing",
    "image_size": "side of the square images in pixels",
    "designed_for": "side of the images that the network is sized for; differs from image_size where it is applied to "
    "others",
    "num_train": "training images, validation images not counted",
    "num_validation": "validation images, the same for every size and family",
    "start": "name of what the weights begin from; empty where they are drawn",
    "num_pretrain": "images the start was trained on; 0 without a start, empty where its file does not say",
    "pretrain_flops": "training FLOPs of the start, outside the budget; 0 without one, empty where its file does not "
    "say",
    "start_origin": "id of the cell that the weights begin from, or SHA-256 of a file",
    "start_sha256": "hash of the file of weights that the cell began from",
    "objective": "what is learnt and measured: classification | masked_patches (errors are then of patch colours)",
    "head": "last layer or layers: linear | hidden",
    "permutation": "pixel permutation control: none | within_patch | patches | pixels",
    "augmentation": "augmentations joined by +, none if empty",
    "replicate": "index of the setting of seeds",
    "subset_seed": "chooses validation and the nested subset, and the fresh images of the dial",
    "order_seed": "order of the training images",
    "initialization_seed": "initial weights",
    "augmentation_seed": "random crops and flips",
    "learning_rate": "peak learning rate of AdamW",
    "weight_decay": "weight decay of AdamW, on matrices only",
    "batch_size": "images per optimiser step",
    "precision": "numeric precision of training",
    "num_parameters": "trainable parameters",
    "forward_flops": "forward FLOPs per image, multiply-add = 2",
    "budget_flops": "planned training FLOPs of the full budget C",
    "branch": "fraction of the budget C at which this row's cooldown ends",
    "steps": "optimiser steps of this branch: its part of the trunk and its cooldown",
    "examples": "images seen by this branch, counted from the batches executed",
    "epochs": "examples / num_train",
    "sees_every_image": "false where the branch sees fewer images than num_train once",
    "compute_limited": "true where the full budget passes over the training images fewer than 30 times",
    "planned_train_flops": "3 x forward FLOPs x batch x steps, from the plan",
    "train_flops": "3 x forward FLOPs x images actually trained on",
    "train_flops_exact": "the same without the input gradient of the first layer",
    "validation_error": "fraction of validation images misclassified at the end of the branch",
    "validation_loss": "mean negative log-likelihood on validation, nats",
    "selected": "true for the branch with the smallest validation error (ties: the cheapest): the primary number",
    "test_error": "fraction of test images misclassified; empty, as all of test, in a trial of a tuning",
    "test_loss": "mean negative log-likelihood on test, nats",
    "test_calibration_error": "expected calibration error on test, 15 bins",
    "num_test": "test images",
    "diverged": "true where the loss of this branch was not finite; its error is then chance",
    "weights_sha256": "hash of the branch's final weights and buffers",
    "subset_hash": "hash of the training indices",
    "validation_hash": "hash of the validation indices",
    "train_checksum": "hash of the decoded training pool",
    "test_checksum": "hash of the decoded test split",
    "executed_train_flops": "training FLOPs of the whole cell: its trunk and all of its cooldowns",
    "train_seconds": "wall seconds of training, of the whole cell; cells trained together share them equally; packed "
    "runs, not a speed measurement",
    "evaluation_seconds": "wall seconds of validation and test, of the whole cell",
    "evaluation_flops": "forward FLOPs of validation and test, outside the budget",
    "resumes": "times the cell was continued from a checkpoint",
    "started_at": "UTC time of the first start",
    "finished_at": "UTC time of the record",
    "host": "machine",
    "device": "device the cell was trained on",
    "lanes": "cells trained together as lanes of one program, this one included; 0: the loop of a lone cell, whose "
    "rounding differs; empty in records of before this was noted",
    "torch": "version of torch",
    "code_version": "version of this package",
    "protocol_version": "version of the protocol",
    "wandb_url": "address of the live W&B run if there was one",
}

# Columns that may differ between two runs of one cell on one machine; all others are bit-for-bit functions of the cell
# and of the kind of loop that trains it (`lanes`), which on a CPU is a function of the cell and `engine.lanes`.
INCIDENTAL_COLUMNS: frozenset[str] = frozenset(
    {
        "study",
        "plan_hash",
        "train_seconds",
        "evaluation_seconds",
        "resumes",
        "started_at",
        "finished_at",
        "host",
        "device",
        "lanes",
        "torch",
        "code_version",
        "wandb_url",
    }
)
DETERMINISTIC_COLUMNS: tuple[str, ...] = tuple(column for column in COLUMNS if column not in INCIDENTAL_COLUMNS)

RECORDS_AT_ONCE = 1_000  # made into rows together
COMPUTE_LIMITED_EPOCHS = 30  # PROTOCOL 3: fewer passes of the trunk than this are labelled


def arm_of(cell: Mapping[str, Any], tier: str | None = None) -> str:
    """The unit of comparison a recorded cell belongs to, by name; see `arm_name`.

    Args:
        cell: the cell's resolved content.
        tier: the tier that needs no mention; None: no tier is mentioned.
    """
    return arm_name(cell["family"], cell["variant"], (cell.get("start") or {}).get("name"), tier)


def records_frame(records: Iterable[Record], tier: str | None = None) -> pd.DataFrame:
    """The long table of `records`: one row per cell and branch, columns as in `COLUMNS`.

    A failed cell has one row with `branch` missing, so that it is seen and never silently absent.

    Args:
        tier: the study's, which the names of arms do not mention. Where it is not given, records of a single tier do
            not mention it, and records of several all do.
    """
    if tier is None:
        records = list(records)
        if len({split_variant(record.cell["variant"])[0] for record in records}) > 1:
            tier = ""
    return joined_rows(list(record_rows(records, tier)))


def record_rows(records: Iterable[Record], tier: str | None) -> Iterator[pd.DataFrame]:
    """The rows of `records_frame` in parts, in the order of the records: of thousands few are in memory at once.

    Args:
        tier: which tier the names of arms do not mention; None: they mention none.
    """
    records = iter(records)
    while True:
        shared: list[Mapping[str, Any]] = []
        branches: list[Mapping[str, Any]] = []
        counts: list[int] = []
        for record in itertools.islice(records, RECORDS_AT_ONCE):
            shared.append(_shared(record, tier))
            branches += [vars(branch) for branch in record.branches] or shared[-1:]
            counts.append(max(1, len(record.branches)))
        if not counts:
            return
        of_records = {name: [one.get(name, math.nan) for one in shared] for name in COLUMNS if name not in _OF_BRANCH}
        of_branches = {name: [one.get(field, math.nan) for one in branches] for name, field in _OF_BRANCH.items()}
        repeated = pd.DataFrame(of_records).take(np.repeat(np.arange(len(counts)), counts)).reset_index(drop=True)
        yield pd.concat([repeated, pd.DataFrame(of_branches)], axis=1)[list(COLUMNS)]


_ORDER = ("arm", "num_train", "num_pretrain", "replicate", "branch")
ONE_ORDER = (*_ORDER, "cell_id")
"""What rows are sorted by where their order must not depend on that of the records they were made from."""


def joined_rows(parts: list[pd.DataFrame], order: Sequence[str] = _ORDER) -> pd.DataFrame:
    """The long table of several parts, the same as of all their records at once.

    Args:
        parts: of `record_rows`, whose columns are taken from them: thousands of rows need not be there twice.
        order: columns by which rows are sorted; of equal ones the earlier is first.
    """
    parts = parts or [pd.DataFrame(columns=list(COLUMNS))]
    keys = pd.DataFrame({name: _joined([part[name] for part in parts]) for name in order})
    places = keys.sort_values(list(order), kind="stable").index.to_numpy()
    columns = {name: _joined([part.pop(name) for part in parts]).take(places).array for name in COLUMNS}
    return pd.DataFrame(columns)


def _joined(parts: Sequence[pd.Series[Any]]) -> pd.Series[Any]:
    """A column; where the parts are of several types, its type is that of all values together."""
    if len({part.dtype for part in parts}) == 1:
        return pd.concat(parts, ignore_index=True)
    return pd.Series([value for part in parts for value in part.tolist()])


_OF_BRANCH = {"branch": "fraction"} | {name: name for name in Branch.model_fields if name in COLUMNS}
"""Column -> the field of a branch that stands there."""
_OF_RECORD = tuple(name for name in COLUMNS if name in Record.model_fields)


def _shared(record: Record, tier: str | None) -> dict[str, Any]:
    """What all rows of a record have in common."""
    cell = record.cell
    seeds = cell["seeds"]
    environment = record.environment
    shared: dict[str, Any] = {
        **{name: getattr(record, name) for name in _OF_RECORD},
        **{name: value for name, value in cell.items() if name in COLUMNS},
        "arm": arm_of(cell, tier),
        "augmentation": "+".join(cell["augmentation"]) or "none",
        **_start_columns(cell),
        "subset_seed": seeds["subset"],
        "order_seed": seeds["order"],
        "initialization_seed": seeds["initialization"],
        "augmentation_seed": seeds["augmentation"],
        "budget_flops": 3 * cell["forward_flops"] * cell["batch_size"] * cell["steps"],
        "compute_limited": cell["batch_size"] * cell["steps"] < COMPUTE_LIMITED_EPOCHS * cell["num_train"],
    }
    shared.pop("steps", None)
    if environment is not None:
        shared |= {
            "host": environment.host,
            "device": environment.device,
            "lanes": environment.lanes,
            "torch": environment.torch,
            "code_version": environment.code_version,
        }
    return shared


def size_of(cell: Mapping[str, Any], x: str) -> int:
    """The size of a recorded cell: its `num_train`, or its `num_pretrain`, 0 where that is not known."""
    return int((_start_columns(cell)["num_pretrain"] or 0) if x == "num_pretrain" else cell[x])


def _start_columns(cell: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights begin from, and what a record from before there were starts does not say."""
    start = cell.get("start") or {"name": "", "origin": "", "num_pretrain": 0, "train_flops": 0}
    return {
        "start": start["name"],
        "start_origin": start["origin"],
        "num_pretrain": start["num_pretrain"],
        "pretrain_flops": start["train_flops"],
        "designed_for": cell.get("designed_for") or cell["image_size"],
        "objective": cell.get("objective", "classification"),
        "head": cell.get("head", "linear"),
    }


def selected_rows(frame: pd.DataFrame, rule: Literal["selected", "full_budget"] = "selected") -> pd.DataFrame:
    """One row per cell: the branch chosen on validation (primary), or the branch at exactly C (secondary)."""
    chosen = frame["selected"].isin([True]) if rule == "selected" else frame["branch"] == 1.0
    return frame[frame["status"].isin(["finished", "diverged"]) & chosen].reset_index(drop=True)


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Reads `predictions.npz`.

    Returns:
        `branch` float64 [b], `predicted_class` uint16 [b, n], `log_probability` float16 [b, n] (of the true class,
        nats), `label` uint16 [n].
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in ("branch", "predicted_class", "log_probability", "label")}
