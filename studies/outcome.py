"""From trained branches to a record: selection on validation, the test split, FLOPs held against the plan."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules import ImageSplit, StepBatches, index_hash

from .budget import train_flops, train_flops_exact
from .cell import Cell
from .evaluation import TestOutcome, test_branch
from .records import Branch, Environment, Record, Status, TrainLoss, Validation

FLOPS_TOLERANCE = 0.005  # PROTOCOL 2: achieved and planned FLOPs agree within 0.5% or the cell is invalid
LOSS_WINDOWS = 40  # training losses are kept as means over S / 40 steps


class TrainedBranch(TypedDict):
    """What is kept of a cooldown until the test split is read; plain values, so that a checkpoint can hold it."""

    fraction: float
    weights: dict[str, Tensor] | None  # None where the loss was not finite
    examples: int
    validation_error: float
    validation_loss: float


@dataclass(frozen=True)
class TrainedCell:
    """A cell after its last validation, before its test split is read.

    Attributes:
        subset: rows of the training split that were trained on [N].
        validation: rows held out [V].
        losses: training loss of every executed step, float64, in the order of execution.
        total_examples: images trained on, trunk and all cooldowns, counted from the batches executed.
        start_sha256: of the file of weights it began from.
    """

    cell: Cell
    network: torch.nn.Module
    batches: StepBatches
    subset: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    branches: list[TrainedBranch]
    losses: Tensor
    total_examples: int
    train_seconds: float
    validation_seconds: float
    resumes: int
    started_at: str
    start_sha256: str = ""


def assess(
    trained: TrainedCell, test: ImageSplit | None, study_id: str, plan_hash: str, environment: Environment, now: str
) -> tuple[Record, dict[str, npt.NDArray[Any]] | None]:
    """Reads the test split once for all branches and writes everything down.

    Args:
        test: None in a trial of a tuning.

    Returns:
        The record, and the arrays of `predictions.npz` where there was a test.
    """
    cell, started = trained.cell, time.monotonic()
    selected = select(trained.branches)
    outcomes = [
        None if test is None else test_branch(trained.network, branch["weights"], trained.batches, test, cell)
        for branch in trained.branches
    ]
    branches = tuple(
        _branch(cell, branch, outcome, selected=branch is selected)
        for branch, outcome in zip(trained.branches, outcomes, strict=True)
    )
    executed = train_flops(cell.forward_flops, trained.total_examples)
    status, reason = _status(branches, executed, cell.executed_flops)
    record = Record(
        protocol_version=cell.protocol_version,
        cell_id=cell.id,
        cell=cell.model_dump(mode="json"),
        study=study_id,
        plan_hash=plan_hash,
        status=status,
        reason=reason,
        num_parameters=sum(parameter.numel() for parameter in trained.network.parameters()),
        train_checksum=trained.batches.split.checksum,
        test_checksum=test.checksum if test is not None else "",
        subset_hash=index_hash(trained.subset),
        validation_hash=index_hash(trained.validation),
        planned_train_flops=cell.executed_flops,
        executed_train_flops=executed,
        evaluation_flops=cell.forward_flops
        * len(branches)
        * (cell.num_validation + (len(test) if test is not None else 0)),
        branches=branches,
        validations=tuple(_validation(branch) for branch in branches),
        train_losses=_train_losses(cell, trained.losses),
        train_seconds=trained.train_seconds,
        evaluation_seconds=trained.validation_seconds + time.monotonic() - started,
        resumes=trained.resumes,
        started_at=trained.started_at,
        finished_at=now,
        start_sha256=trained.start_sha256,
        environment=environment,
    )
    if test is None:
        return record, None
    tested = [outcome for outcome in outcomes if outcome is not None]
    predictions = {
        "branch": np.array([branch.fraction for branch in branches]),
        "predicted_class": np.stack([outcome.predicted_class for outcome in tested]),
        "log_probability": np.stack([outcome.log_probability for outcome in tested]),
        "label": tested[0].label,
    }
    return record, predictions


def select(branches: list[TrainedBranch]) -> TrainedBranch:
    """The branch with the smallest validation error, ties to the cheapest; never by the test split (PROTOCOL 3)."""
    return min(branches, key=lambda branch: (branch["weights"] is None, branch["validation_error"], branch["fraction"]))


def weights_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _branch(cell: Cell, trained: TrainedBranch, outcome: TestOutcome | None, *, selected: bool) -> Branch:
    plan = next(plan for plan in cell.branch_plans if plan.fraction == trained["fraction"])
    examples = trained["examples"]
    return Branch(
        fraction=plan.fraction,
        steps=plan.steps,
        examples=examples,
        planned_train_flops=train_flops(cell.forward_flops, cell.batch_size * plan.steps),
        train_flops=train_flops(cell.forward_flops, examples),
        train_flops_exact=train_flops_exact(cell.forward_flops, cell.first_layer_flops, examples),
        epochs=examples / cell.num_train,
        sees_every_image=examples >= cell.num_train,
        diverged=trained["weights"] is None,
        validation_error=trained["validation_error"],
        validation_loss=trained["validation_loss"],
        test_error=outcome.error if outcome else None,
        test_loss=outcome.loss if outcome else None,
        test_calibration_error=outcome.calibration_error if outcome else None,
        selected=selected,
        weights_sha256=weights_sha256(trained["weights"]) if trained["weights"] is not None else "",
    )


def _validation(branch: Branch) -> Validation:
    return Validation(
        branch=branch.fraction,
        step=branch.steps,
        train_flops=branch.train_flops,
        error=branch.validation_error,
        loss=branch.validation_loss,
    )


def _status(branches: tuple[Branch, ...], executed: int, planned: int) -> tuple[Status, str]:
    if any(branch.diverged for branch in branches):
        at = ", ".join(f"{branch.fraction:g} C" for branch in branches if branch.diverged)
        return "diverged", f"the training loss was not finite; chance is reported for {at}"
    pairs = [(branch.train_flops, branch.planned_train_flops) for branch in branches]
    worst = max((*pairs, (executed, planned)), key=lambda pair: abs(pair[0] / pair[1] - 1))
    if abs(worst[0] / worst[1] - 1) > FLOPS_TOLERANCE:
        return "invalid", f"{worst[0]:.6g} training FLOPs were executed where {worst[1]:.6g} were planned"
    return "finished", ""


def _train_losses(cell: Cell, losses: Tensor) -> tuple[TrainLoss, ...]:
    """Means over windows of S / 40 steps, on the trunk and on every cooldown, in the order of execution."""
    window, executed, trunk_steps, entries = max(1, cell.steps // LOSS_WINDOWS), 0, 0, []
    for plan in cell.branch_plans:
        for branch, first, last in (
            (0.0, trunk_steps, plan.trunk_steps),
            (plan.fraction, plan.trunk_steps, plan.steps),
        ):
            for start in range(first, last, window):
                stop = min(start + window, last)
                mean = float(losses[executed : executed + stop - start].mean())
                executed += stop - start
                if math.isfinite(mean):
                    flops = train_flops(cell.forward_flops, stop * cell.batch_size)
                    entries.append(TrainLoss(branch=branch, step=stop, train_flops=flops, loss=mean))
        trunk_steps = plan.trunk_steps
    return tuple(entries)
