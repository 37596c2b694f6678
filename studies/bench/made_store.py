"""A store of any number of valid records that nobody trained, to measure how long reading takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from studies.arms import parse_arm
from studies.budget import train_flops, train_flops_exact
from studies.cell import Cell
from studies.grid import Arm, Plan
from studies.planning import make_plan
from studies.record_file import record_text
from studies.records import Branch, Environment, Record, TrainLoss, Validation
from studies.spec import StudySpec
from studies.store import Store

ARMS = ("vit", "resnet", "hybrid", "mixer", "lstm", "mlp", "resnet-circular", "vit-learned2d")
SIZES = tuple(64 * 2**power for power in range(10))
FORWARD_FLOPS, FIRST_LAYER_FLOPS, PARAMETERS = 12_000_000, 300_000, 250_000
LOSSES = 60
"""Entries of the training loss that a record has, as one of a study with four branches does."""
NOISE = 0.1
"""Standard deviation of log error over replicates."""


def made_plan(name: str, *, arms: int, sizes: int, replicates: int) -> Plan:
    """A study on generated images whose arms cost the same; nothing is generated."""
    spec = StudySpec.model_validate(
        {
            "name": name,
            "question": "How long does reading take?",
            "data": {"kind": "dial", "num_train": 2 * SIZES[-1]},
            "families": ARMS[:arms],
            "num_train": SIZES[:sizes],
            "num_validation": 1000,
            "replicates": replicates,
            "budget": {"steps": 400, "batch_size": 96},
            "primary_pair": ("resnet", "vit"),
        }
    )
    made = {}
    for arm in spec.families:
        named = parse_arm(arm, spec.tier)
        made[arm] = Arm(arm, named.family, named.variant, FORWARD_FLOPS, FIRST_LAYER_FLOPS, PARAMETERS)
    return make_plan(spec, spec.data.describe(), made)


def make_store(root: Path, plan: Plan, seed: int = 0) -> Store:
    """Locks a plan and writes a record for each of its cells, without predictions and without waiting for the disk."""
    store, generator = Store(root), np.random.default_rng(seed)
    store.lock_plan(plan)
    order = {arm.key: index for index, arm in enumerate(plan.arms)}
    for cell in plan.cells:
        error = _error(order[cell.arm_key], cell.num_train) * math.exp(NOISE * generator.standard_normal())
        folder = store.cell_folder(cell.id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_bytes(record_text(_record(plan, cell, min(0.5, error))))
    return store


def _error(arm: int, num_train: int) -> float:
    """Power laws whose floors fall and whose amplitudes rise from arm to arm, so that neighbours cross."""
    return 0.08 / (1 + arm) + (1 + 0.5 * arm) * math.pow(num_train, -0.45)


def _record(plan: Plan, cell: Cell, error: float) -> Record:
    planned = cell.branch_plans
    errors = [min(0.5, error * (1 + 0.1 * (len(planned) - 1 - index))) for index in range(len(planned))]
    branches = tuple(
        Branch(
            fraction=one.fraction,
            steps=one.steps,
            examples=one.steps * cell.batch_size,
            planned_train_flops=train_flops(cell.forward_flops, one.steps * cell.batch_size),
            train_flops=train_flops(cell.forward_flops, one.steps * cell.batch_size),
            train_flops_exact=train_flops_exact(
                cell.forward_flops, cell.first_layer_flops, one.steps * cell.batch_size
            ),
            epochs=one.steps * cell.batch_size / cell.num_train,
            sees_every_image=one.steps * cell.batch_size >= cell.num_train,
            diverged=False,
            validation_error=value,
            validation_loss=2 * value,
            test_error=value,
            test_loss=2 * value,
            test_calibration_error=value / 10,
            selected=one is planned[-1],
            weights_sha256=4 * cell.id,
        )
        for one, value in zip(planned, errors, strict=True)
    )
    losses = tuple(
        TrainLoss(
            branch=0.0 if index % 3 else 1.0,
            step=1 + index * cell.steps // LOSSES,
            train_flops=train_flops(cell.forward_flops, (1 + index * cell.steps // LOSSES) * cell.batch_size),
            loss=0.7 * math.exp(-index / LOSSES) + error / 7,
        )
        for index in range(LOSSES)
    )
    return Record(
        protocol_version=cell.protocol_version,
        cell_id=cell.id,
        cell=cell.model_dump(mode="json"),
        study=plan.study_id,
        plan_hash=plan.hash,
        status="finished",
        num_parameters=PARAMETERS,
        train_checksum=f"train {cell.replicate}",
        test_checksum=f"test {cell.replicate}",
        subset_hash=f"subset {cell.num_train} {cell.replicate}",
        validation_hash=f"validation {cell.replicate}",
        planned_train_flops=cell.executed_flops,
        executed_train_flops=cell.executed_flops,
        evaluation_flops=cell.forward_flops * len(branches) * (cell.num_validation + cell.num_test),
        branches=branches,
        validations=tuple(
            Validation(
                branch=one.fraction,
                step=one.steps,
                train_flops=one.train_flops,
                error=one.validation_error,
                loss=one.validation_loss,
            )
            for one in branches
        ),
        train_losses=losses,
        train_seconds=10.0 + error,
        evaluation_seconds=1.0,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:11+00:00",
        environment=Environment(
            host="made",
            device="cpu (made)",
            python="3.11",
            torch="2.11",
            timm="1.0.26",
            lightning="2.6.6",
            numpy="2.0",
            code_version="0.1.0",
            threads=1,
            lanes=0,
        ),
    )
