"""Records of a study whose truth is known, made without training anything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.arms import parse_arm
from studies.grid import Arm, Plan
from studies.planning import make_plan
from studies.records import Branch, Environment, Record, TrainLoss, Validation
from studies.spec import StudySpec
from studies.store import Store

FORWARD_FLOPS = {"vit": 12_100_000, "resnet": 12_000_000, "mixer": 12_050_000, "mlp": 12_000_000}
FIRST_LAYER_FLOPS = {"vit": 300_000, "resnet": 900_000, "mixer": 300_000, "mlp": 8_300_000}
BRANCHES = (0.125, 0.25, 0.5, 1.0)
SIZES = (128, 512, 2048, 8192)
BATCH, STEPS = 128, 200


def prior_error(num_train: float) -> float:
    """PROTOCOL 7, a tenth of it so that it is an error rate; meets `flexible_error` at N = 177 and 11 / 70."""
    return 0.1 * 1.5 * (1 + 8 / (num_train - 9))


def flexible_error(num_train: float) -> float:
    return 0.1 * (1 + 64 / (num_train - 65))


def power_error(amplitude: float, exponent: float, floor: float = 0.0) -> Callable[[float], float]:
    return lambda num_train: min(0.5, floor + amplitude * num_train**-exponent)


CURVES: dict[str, Callable[[float], float]] = {
    "vit": power_error(4.2, 0.5),
    "resnet": power_error(1.6, 0.36, 0.06),
    "mixer": power_error(5.5, 0.5, 0.005),
    "mlp": power_error(1.05, 0.2),
}


def make_record(
    family: str = "vit",
    variant: str = "nano",
    *,
    num_train: int = 512,
    replicate: int = 0,
    error: float = 0.2,
    study: str = "example.0011aabb",
    branch_errors: Sequence[float] | None = None,
    num_test: int = 10_000,
    shared_test: bool = False,
    permutation: str = "none",
    **changes: object,
) -> Record:
    """A finished record whose branch at the full budget has `error` (or all branches `branch_errors`)."""
    forward = FORWARD_FLOPS.get(family, 12_000_000)
    first = FIRST_LAYER_FLOPS.get(family, 500_000)
    errors = branch_errors or [min(0.5, error * scale) for scale in (1.6, 1.3, 1.1, 1.0)]
    best = min(range(len(errors)), key=lambda index: (errors[index], index))
    cell = {
        "family": family,
        "variant": variant,
        "data": "dial",
        "data_fingerprint": "dial-ffff",
        "image_size": 16,
        "in_channels": 1,
        "num_classes": 2,
        "num_train": num_train,
        "num_validation": 2000,
        "num_test": num_test,
        "permutation": permutation,
        "augmentation": [],
        "replicate": replicate,
        "seeds": {
            "subset": replicate,
            "order": 100 + replicate,
            "initialization": 200 + replicate,
            "augmentation": 300 + replicate,
        },
        "learning_rate": 0.001 if family != "resnet" else 0.002,
        "weight_decay": 0.05,
        "label_smoothing": 0.0,
        "batch_size": BATCH,
        "steps": STEPS,
        "branches": list(BRANCHES),
        "warmup_fraction": 0.03,
        "cooldown_fraction": 0.2,
        "precision": "fp32",
        "forward_flops": forward,
        "first_layer_flops": first,
    }
    named = f"{family}{variant}{num_train}{replicate}{shared_test}" + permutation.removeprefix("none")
    cell_id = hashlib.sha256(named.encode()).hexdigest()[:16]
    branches, losses, validations = [], [], []
    for index, (fraction, value) in enumerate(zip(BRANCHES, errors, strict=True)):
        steps = int(STEPS * fraction)
        flops = 3 * forward * BATCH * steps
        branches.append(
            Branch(
                fraction=fraction,
                steps=steps,
                examples=BATCH * steps,
                planned_train_flops=flops,
                train_flops=flops,
                train_flops_exact=flops - first * BATCH * steps,
                epochs=BATCH * steps / num_train,
                sees_every_image=BATCH * steps >= num_train,
                diverged=changes.get("status") == "diverged",
                validation_error=value,
                validation_loss=2 * value,
                test_error=value,
                test_loss=2 * value,
                test_calibration_error=value / 10,
                selected=index == best,
                weights_sha256="ab" * 32,
            )
        )
        validations.append(Validation(branch=fraction, step=steps, train_flops=flops, error=value, loss=2 * value))
        losses.append(TrainLoss(branch=0.0, step=steps, train_flops=flops, loss=0.7 * math.exp(-fraction) + value / 10))
        losses.append(TrainLoss(branch=fraction, step=steps, train_flops=flops, loss=0.6 * math.exp(-fraction)))
    values: dict[str, Any] = {
        "protocol_version": "1",
        "cell_id": cell_id,
        "cell": cell,
        "study": study,
        "plan_hash": "0011aabb" * 8,
        "status": "finished",
        "num_parameters": {"resnet": 170_000, "mlp": 2_900_000}.get(family, 250_000),
        "train_checksum": f"train-{replicate}",
        "test_checksum": "test" if shared_test else f"test-{replicate}",
        "subset_hash": f"subset-{num_train}-{replicate}",
        "validation_hash": f"validation-{replicate}",
        "planned_train_flops": int(1.175 * 3 * forward * BATCH * STEPS),
        "executed_train_flops": int(1.175 * 3 * forward * BATCH * STEPS),
        "evaluation_flops": forward * (num_test + 4000) * 4,
        "branches": tuple(branches),
        "validations": tuple(validations),
        "train_losses": tuple(losses),
        "train_seconds": 11.5 + replicate,
        "evaluation_seconds": 2.5,
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:14Z",
        "predictions_sha256": "",
        "environment": Environment(
            host="node",
            device="cpu",
            python="3.11.2",
            torch="2.11.0",
            timm="1.0.26",
            lightning="2.6.6",
            numpy="2.0.0",
            code_version="0.1.0",
            threads=1,
        ),
    }
    return Record(**(values | changes))


def failed_record(family: str = "vit", *, num_train: int = 512, replicate: int = 0, reason: str = "killed") -> Record:
    record = make_record(family, num_train=num_train, replicate=replicate)
    return record.model_copy(
        update={"status": "failed", "reason": reason, "branches": (), "validations": (), "train_losses": ()}
    )


def study_records(
    curves: dict[str, Callable[[float], float]] | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    replicates: int = 3,
    noise: float = 0.04,
    seed: int = 0,
    **options: bool | int,
) -> list[Record]:
    """A whole study: `curves` with log-normal noise per cell of standard deviation `noise`."""
    generator = np.random.default_rng(seed)
    records = []
    for arm, curve in (CURVES if curves is None else curves).items():
        named = parse_arm(arm, "nano")
        for num_train in sizes:
            for replicate in range(replicates):
                error = min(1.0, curve(num_train) * math.exp(noise * generator.standard_normal()))
                records.append(
                    make_record(
                        named.family, named.variant, num_train=num_train, replicate=replicate, error=error, **options
                    )
                )
    return records


LADDER: dict[str, dict[str, float]] = {
    "resnet": {"none": 0.01, "within_patch": 0.06, "patches": 0.06, "pixels": 0.24},
    "vit": {"none": 0.12, "within_patch": 0.12, "patches": 0.12, "pixels": 0.45},
    "mlp": {"none": 0.25, "within_patch": 0.25, "patches": 0.25, "pixels": 0.25},
}
"""Errors that separate the families as theory has it: only the fully connected net never loses."""


def ladder_records(*, replicates: int = 5, noise: float = 0.08, seed: int = 0, num_train: int = 2048) -> list[Record]:
    """A study of `LADDER` with log-normal noise per cell."""
    generator = np.random.default_rng(seed)
    return [
        make_record(
            family,
            num_train=num_train,
            replicate=replicate,
            error=error * math.exp(noise * generator.standard_normal()),
            permutation=rung,
        )
        for family, rungs in LADDER.items()
        for rung, error in rungs.items()
        for replicate in range(replicates)
    ]


def plan_of(
    name: str = "data_scaling",
    *,
    sizes: Sequence[int] = (128, 512),
    replicates: int = 2,
    rival: str = "resnet",
    ladder: Sequence[str] = (),
) -> Plan:
    """A real plan on the dial for ViT and a ResNet; nothing is generated or trained."""
    spec = StudySpec(
        name=name,
        question="Does a ViT overtake a ResNet?",
        data={"kind": "dial"},
        families=("vit", rival),
        num_train=tuple(sizes),
        num_validation=100,
        replicates=replicates,
        budget={"steps": STEPS, "batch_size": BATCH},
        primary_pair=(rival, "vit"),
        ladder=tuple(ladder),  # type: ignore[arg-type]
    )
    arms = {}
    for name in spec.families:
        named = parse_arm(name, "nano")
        flops = FORWARD_FLOPS[named.family], FIRST_LAYER_FLOPS[named.family]
        arms[name] = Arm(name, named.family, named.variant, *flops, 250_000)
    return make_plan(spec, spec.data.describe(), arms)


def write_study(root: Path, plan: Plan, *, skip: int = 0, shared_test: bool = False) -> list[Record]:
    """Locks `plan` in a store and writes a record with predictions for all its cells but the last `skip`."""
    store = Store(root)
    store.lock_plan(plan)
    records = []
    for index, cell in enumerate(plan.cells[: len(plan.cells) - skip]):
        error = CURVES[cell.family](cell.num_train) * (1 + 0.02 * (index % 3))
        if cell.permutation != "none":
            error = min(0.5, error * LADDER[cell.family][cell.permutation] / LADDER[cell.family]["none"])
        record = make_record(
            cell.family, num_train=cell.num_train, replicate=cell.replicate, error=error, shared_test=shared_test
        )
        changes = {"cell_id": cell.id, "cell": cell.model_dump(mode="json"), "study": plan.study_id}
        record = record.model_copy(update=changes | {"plan_hash": plan.hash})
        records.append(store.write_record(record, predictions_of(record, seed=index)))
    return records


def predictions_of(record: Record, *, seed: int, num_images: int = 200) -> dict[str, np.ndarray]:
    """Predictions whose errors come near those of the record's branches."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, num_images).astype(np.uint16)
    rates = np.array([[branch.test_error] for branch in record.branches])
    wrong = generator.random((len(rates), num_images)) < rates
    return {
        "branch": np.array([branch.fraction for branch in record.branches]),
        "predicted_class": np.where(wrong, 1 - label, label).astype(np.uint16),
        "log_probability": np.where(wrong, -2.0, -0.1).astype(np.float16),
        "label": label,
    }
