"""How long a study will take and how much disk it needs, before it runs.

Seconds per training FLOP are read off finished records of the same arm and device where the store has some, and
measured on a few steps otherwise: nothing is looked up in a table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .cell import Cell
from .grid import Arm, Plan
from .records import Record

BYTES_PER_PREDICTION = 4  # uint16 class and float16 log-probability, before compression
BYTES_PER_RECORD = 32_768
CHECKPOINT_COPIES = 2  # the present one and the previous one
MEASURED_STEPS = 3
MEASURED_FLOPS = 2e9  # a measured step costs at most about this much: a second or less on one core


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Attributes:
        seconds: wall seconds of the study on `num_workers` workers; None where nobody knows: on a GPU, until cells of
            all arms have been trained on one.
        bytes_kept: records and predictions of all cells.
        bytes_while_running: checkpoints of the cells that run at once.
        measured_arms: arms that were timed now; the others come from records.
    """

    seconds: float | None
    num_workers: int
    bytes_kept: int
    bytes_while_running: int
    measured_arms: tuple[str, ...]


def estimate(
    plan: Plan,
    records: list[Record],
    num_workers: int,
    *,
    num_running: int | None = None,
    done: frozenset[str] = frozenset(),
    device: str = "cpu",
) -> Estimate:
    """Time and disk for the cells of `plan` that are not in `done`.

    Args:
        records: finished records to learn speeds from, of any study; those of another kind of device are left out.
        num_running: cells that train at one time (`jobs.cells_at_once`), whose checkpoints the disk must hold; one for
            each worker if None.
        device: where the cells will run; `cpu`, or `cuda:0`.
    """
    kind = device.partition(":")[0]
    rates = _recorded_rates(records, kind)
    measured = tuple(arm.name for arm in plan.arms if (arm.family, arm.variant) not in rates)
    kept, running = disk_needed(plan, num_running or num_workers)
    if measured and kind != "cpu":  # a step on this process's CPU would say nothing of it
        return Estimate(None, num_workers, kept, running, ())
    for arm in plan.arms:
        if arm.name in measured:
            rates[arm.family, arm.variant] = _measured_rate(plan, arm)
    waiting = [cell for cell in plan.cells if cell.id not in done]
    seconds = sum(rates[cell.family, cell.variant] * (cell.executed_flops + evaluation_flops(cell)) for cell in waiting)
    return Estimate(
        seconds=seconds / max(1, min(num_workers, len(waiting))),
        num_workers=num_workers,
        bytes_kept=kept,
        bytes_while_running=running,
        measured_arms=measured,
    )


def disk_needed(plan: Plan, num_running: int, *, keeps_weights: bool = False) -> tuple[int, int]:
    """Bytes kept of all records and predictions, and bytes of the checkpoints of `num_running` cells.

    Args:
        keeps_weights: whether the final weights of every branch are kept too, float32.
    """
    arms = {(arm.family, arm.variant): arm for arm in plan.arms}
    largest = max((_running_bytes(arms[cell.family, cell.variant], cell) for cell in plan.cells), default=0)
    kept = sum(_kept_bytes(cell) for cell in plan.cells)
    if keeps_weights:
        kept += sum(4 * arms[cell.family, cell.variant].num_parameters * len(cell.branches) for cell in plan.cells)
    return kept, num_running * largest


def evaluation_flops(cell: Cell) -> int:
    """Forward FLOPs of validation and test, outside the budget."""
    num_test = cell.num_test if cell.reads_test else 0
    return cell.forward_flops * len(cell.branches) * (cell.num_validation + num_test)


def _kept_bytes(cell: Cell) -> int:
    if not cell.reads_test:
        return BYTES_PER_RECORD
    return BYTES_PER_RECORD + BYTES_PER_PREDICTION * cell.num_test * (len(cell.branches) + 1)


def _running_bytes(arm: Arm, cell: Cell) -> int:
    """Weights and two moments, now and on the trunk, and the weights of every finished branch; float32."""
    copies = 3 + 3 + len(cell.branches)
    return CHECKPOINT_COPIES * 4 * arm.num_parameters * copies


def _recorded_rates(records: list[Record], kind: str) -> dict[tuple[str, str], float]:
    rates: dict[tuple[str, str], list[float]] = {}
    for record in records:
        known = record.environment is None or record.environment.device.startswith(kind)
        if known and record.status == "finished" and record.executed_train_flops:
            key = (record.cell["family"], record.cell["variant"])
            spent = record.train_seconds + record.evaluation_seconds
            rates.setdefault(key, []).append(spent / (record.executed_train_flops + record.evaluation_flops))
    return {key: statistics.median(values) for key, values in rates.items()}


def _measured_rate(plan: Plan, arm: Arm) -> float:
    """Seconds per training FLOP of one thread, the median over a few steps on random images."""
    import torch
    from torch.nn import functional as F

    from models import build_network, build_optimizer, forward_flops

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = plan.data
        size: dict[str, Any] = {"image_size": data.image_size, "in_channels": data.in_channels}
        size |= {"num_classes": data.num_classes, "designed_for": arm.designed_for, "head": plan.spec.head}
        cost = forward_flops(arm.family, arm.variant, **size).total  # of classification, whatever the objective
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network(arm.family, arm.variant, **size)
            affordable = int(MEASURED_FLOPS / (3 * cost))
            batch_size = max(2, min(plan.spec.budget.batch_size, affordable))
            images = torch.randn(batch_size, data.in_channels, data.image_size, data.image_size)
            labels = torch.randint(data.num_classes, (batch_size,))
        optimizer = build_optimizer(network, learning_rate=0.0, weight_decay=0.0)
        seconds = []
        for _ in range(1 + MEASURED_STEPS):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:]) / (3 * cost * batch_size)
    finally:
        torch.set_num_threads(threads)


def describe_bytes(count: float) -> str:
    """`1.2 MB` for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:  # what rounds to 1000 is written in the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def describe_seconds(seconds: float) -> str:
    """`7 min 30 s` for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def describe_flops(flops: float) -> str:
    """`1.5 TFLOP` for people."""
    for unit in ("", "K", "M", "G", "T", "P", "E"):
        if abs(flops) < 999.95 or unit == "E":  # what rounds to 1000 is written in the next unit
            return f"{flops:.4g} {unit}FLOP"
        flops /= 1000
    raise AssertionError


def shares(plan: Plan) -> Mapping[str, int]:
    """Executed training FLOPs per arm."""
    totals = {arm.name: 0 for arm in plan.arms}
    for cell in plan.cells:
        totals[plan.arm(cell).name] += cell.executed_flops
    return totals
