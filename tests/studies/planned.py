"""A small study planned by arithmetic alone, and records of its cells: no torch, no training, truth known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules import parse_data
from studies.arms import parse_arm
from studies.budget import train_flops, train_flops_exact
from studies.cell import Cell
from studies.grid import Arm, Plan
from studies.planning import make_plan
from studies.records import Branch, Environment, Record, Status, TrainLoss, Validation
from studies.spec import StudySpec
from studies.store import Store

FORWARD_FLOPS = {"vit": 1_000_000, "resnet": 1_010_000, "mlp": 995_000}
FIRST_LAYER_FLOPS = 30_000
OWN_STUDY = """# @package _global_
defaults:
  - override /data: dial_position
  - override /budget: short
  - override /recipe: plain
name: mine
question: why?
families: [vit, resnet, mixer, mlp]
num_train: [128, 512]
num_validation: 1000
replicates: {default: 3, vit: 5, resnet: 5}
primary_pair: [resnet, vit]
"""
DIAL = {"kind": "dial", "num_train": 2_000, "num_test": 500}
COLOURED = {"kind": "hub", "name": "owner/set", "num_train": 2_000, "num_test": 500, "num_classes": 2, "image_size": 16,
            "in_channels": 3, "label_preserving": ["crop", "flip"]}  # fmt: skip


def make_spec(**changes: Any) -> StudySpec:  # any field of a study
    """Two sizes, three arms and two replicates; `changes` replace fields."""
    content: dict[str, Any] = {
        "name": "small",
        "question": "who wins?",
        "data": parse_data(DIAL),
        "families": ("vit", "resnet", "mlp"),
        "num_train": (64, 256),
        "num_validation": 100,
        "replicates": 2,
        "budget": {"steps": 80, "batch_size": 32},
        "primary_pair": ("resnet", "vit"),
    }
    return StudySpec.model_validate(content | changes)


def own_configs(folder: Path) -> Path:
    """A user's configuration folder, its name with a blank, holding the study `mine`."""
    (folder / "my configs" / "study").mkdir(parents=True)
    (folder / "my configs" / "study" / "mine.yaml").write_text(OWN_STUDY)
    return folder / "my configs"


def make_arms(spec: StudySpec, forward: Mapping[str, int] = FORWARD_FLOPS) -> dict[str, Arm]:
    arms = {}
    for name in spec.families:
        named = parse_arm(name, spec.tier)
        arms[name] = Arm(name, named.family, named.variant, forward.get(name, 1_000_000), FIRST_LAYER_FLOPS, 20_000)
    return arms


def planned(forward: Mapping[str, int] = FORWARD_FLOPS, **changes: Any) -> Plan:
    spec = make_spec(**changes)
    return make_plan(spec, spec.data.describe(), make_arms(spec, forward))


def only_cell(**changes: Any) -> Cell:  # any field of a study
    """The first cell of the smallest study."""
    return planned(
        **({"families": ("vit",), "num_train": (64,), "replicates": 1, "primary_pair": None} | changes)
    ).cells[0]


def record_of(
    plan: Plan,
    cell: Cell,
    *,
    errors: tuple[float, ...] = (0.4, 0.3, 0.2, 0.25),
    status: Status = "finished",
    reason: str = "",
    seconds: float = 2.0,
) -> Record:
    """The record a cell would leave whose branches have the validation and test `errors`, cheapest branch first."""
    base: dict[str, Any] = {
        "protocol_version": cell.protocol_version,
        "cell_id": cell.id,
        "cell": cell.model_dump(mode="json"),
        "study": plan.study_id,
        "plan_hash": plan.hash,
        "status": status,
        "reason": reason,
    }
    if status == "failed":
        return Record(**base)
    best = min(range(len(errors)), key=lambda index: (errors[index], index))
    branches, losses = [], []
    for index, (branch, error) in enumerate(zip(cell.branch_plans, errors, strict=True)):
        examples = branch.steps * cell.batch_size
        flops = train_flops(cell.forward_flops, examples)
        branches.append(
            Branch(
                fraction=branch.fraction,
                steps=branch.steps,
                examples=examples,
                planned_train_flops=flops,
                train_flops=flops,
                train_flops_exact=train_flops_exact(cell.forward_flops, cell.first_layer_flops, examples),
                epochs=examples / cell.num_train,
                sees_every_image=examples >= cell.num_train,
                diverged=False,
                validation_error=error,
                validation_loss=2 * error,
                test_error=error,
                test_loss=2 * error,
                test_calibration_error=error / 10,
                selected=index == best,
                weights_sha256="ab" * 32,
            )
        )
        losses.append(TrainLoss(branch=branch.fraction, step=branch.steps, train_flops=flops, loss=error))
    return Record(
        **base,
        num_parameters=20_000,
        planned_train_flops=cell.executed_flops,
        executed_train_flops=cell.executed_flops,
        evaluation_flops=cell.forward_flops * len(branches) * (cell.num_validation + cell.num_test),
        branches=tuple(branches),
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
        train_losses=tuple(losses),
        train_seconds=seconds,
        evaluation_seconds=seconds / 2,
        environment=Environment(
            host="node",
            device="cpu",
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


def predictions_of(record: Record, num_test: int = 500, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Predictions whose error rates are close to those of the record."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, num_test).astype(np.uint16)
    wrong = generator.random((len(record.branches), num_test)) < [[branch.test_error] for branch in record.branches]
    return {
        "branch": np.array([branch.fraction for branch in record.branches]),
        "predicted_class": np.where(wrong, 1 - label, label).astype(np.uint16),
        "log_probability": generator.normal(-1, 0.3, wrong.shape).astype(np.float16),
        "label": label,
    }


def finish(store: Store, plan: Plan, cells: tuple[Cell, ...] | None = None) -> list[Record]:
    """Locks the plan and writes a record for each of `cells` (all by default)."""
    store.lock_plan(plan)
    written = []
    for index, cell in enumerate(plan.cells if cells is None else cells):
        last = 0.1 + 0.2 / (1 + index)
        record = record_of(plan, cell, errors=(0.4, 0.35, last + 0.01, last))
        written.append(store.write_record(record, predictions_of(record, cell.num_test, seed=index)))
    return written
