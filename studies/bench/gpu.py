"""`study bench gpu`: all that a GPU has to show, in one command that keeps within its minutes.

The most important measurements come first, each in a process of its own with a deadline; after every one the results so
far are written, so that an interrupted run is worth what it measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.budget import branch_plans, executed_steps, steps_for_flops
from studies.errors import StudyError

from .children import running
from .workload import Workload, as_json, workloads

SCHEMA = 2
LANE_WIDTHS = (0, 1, 5, 10, 20, 40)
"""Runs trained as one, at most the 40 that a family of the full study has; 0 is the loop without lanes."""
MEASURED_SECONDS = 1.0
LEAST_GAIN = 1.05
COMPARED_STEPS = 50
LOADER_WORKERS = 14
LONGEST_SECONDS = 90.0
"""Of one process: a compilation that takes longer is left out and said to be."""


@dataclass(frozen=True)
class FullStudy:
    """configs/study/cifar10_full.yaml, whose minutes are planned from the measured speeds."""

    num_sizes: int = 8
    replicates: int = 5
    train_flops: float = 0.5e15
    batch_size: int = 96
    branches: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    cooldown_fraction: float = 0.2

    def images_per_family(self, costliest_forward_flops: int) -> int:
        """Images that all cells of a family are trained on, trunks and every cooldown."""
        steps = steps_for_flops(self.train_flops, costliest_forward_flops, self.batch_size)
        taken = executed_steps(branch_plans(steps, self.branches, self.cooldown_fraction))
        return self.num_sizes * self.replicates * taken * self.batch_size


@dataclass
class _Task:
    """One process of measurements: what is told of it, and what it does with the time it is given."""

    name: str
    work: Callable[[dict[str, Any], float], None]


def measure_gpu(
    minutes: float,
    device: str = "cuda",
    save: Callable[[dict[str, Any]], object] = lambda result: None,
    report: Callable[[str], None] = lambda line: None,
    image_size: int = 32,
) -> dict[str, Any]:
    """Measures until all is measured or the time is up.

    Args:
        minutes: after which it ends, whatever is left.
        save: called with the result so far after every measurement.

    Returns:
        Plain values: machine, peaks, `lanes` (speeds by family and width), `equal` (lanes against solo runs), `timm`
        (speeds by flags), `study_minutes` without and with compiled networks, and what was `left_out` and why.
    """
    deadline = time.monotonic() + 60 * minutes
    result: dict[str, Any] = {"schema": SCHEMA, "kind": "gpu", "machine": {}, "peaks": {}, "lanes": [], "equal": [],
                              "timm": [], "study_minutes": {}, "left_out": []}  # fmt: skip
    for task in _tasks(device, image_size):
        left = deadline - time.monotonic()
        if left <= 0:
            result["left_out"].append({"what": task.name, "why": "the time was up"})
            continue
        try:
            task.work(result, time.monotonic() + min(left, LONGEST_SECONDS))
        except StudyError as error:
            result["left_out"].append({"what": task.name, "why": str(error)})
        result["study_minutes"] = study_minutes(result, image_size)
        save(result)
        report(f"{task.name} ({max(0.0, deadline - time.monotonic()):.0f} s left)")
    save(result)
    return result


def _tasks(device: str, image_size: int) -> Iterator[_Task]:
    tiny, nano = (workloads(tier, None, image_size=image_size, precision="bf16") for tier in ("tiny", "nano"))
    yield _Task("the machine's peaks", lambda result, until: _measure_peaks(result, device, until))
    for workload in tiny:
        yield _lanes_task(workload, device)
    first = [workload for workload in tiny if workload.arm in ("vit", "resnet")]
    for workload in first:
        yield _timm_task(workload, device)
    for workload in nano:
        yield _lanes_task(workload, device)
    for workload in (*(one for one in tiny if one not in first), *nano):
        yield _timm_task(workload, device)


def _measure_peaks(result: dict[str, Any], device: str, until: float) -> None:
    with running([{"contender": "machine", "device": device, "threads": LOADER_WORKERS}], until) as crew:
        result["machine"] = crew.children[0].ask("describe")
        for precision in ("bf16", "fp32"):
            result["peaks"][precision] = crew.children[0].ask("peaks", precision=precision, seconds=0.5)


def _lanes_task(workload: Workload, device: str) -> _Task:
    name = f"{workload.tier} {workload.arm}: this package"

    def work(result: dict[str, Any], until: float) -> None:
        job = {"contender": "lanes", "workload": as_json(workload), "device": device, "threads": LOADER_WORKERS}
        with running([job], until) as crew:
            child, best, best_lanes = crew.children[0], 0.0, 0

            def measure(lanes: int, *, compiled: bool = False) -> float:
                row = child.ask("rate", lanes=lanes, seconds=MEASURED_SECONDS, compile_network=compiled)
                if "error" in row:
                    result["left_out"].append({"what": f"{name}, {lanes} lanes", "why": row["error"]})
                    return 0.0
                result["lanes"].append(_row(workload, result, row))
                return float(row["images_per_second"])

            for lanes in LANE_WIDTHS:
                rate = measure(lanes)
                if lanes > 1 and rate < LEAST_GAIN * best:
                    break  # wider is no faster any more
                if rate > best:
                    best, best_lanes = rate, lanes
            result["equal"].append(_named(workload) | child.ask("compare", steps=COMPARED_STEPS))
            if best_lanes:
                measure(best_lanes, compiled=True)

    return _Task(name, work)


def _timm_task(workload: Workload, device: str) -> _Task:
    eager = {"workers": LOADER_WORKERS, "channels_last": True, "fused": True}
    flags = (eager, eager | {"compile": "default"}, eager | {"compile": "reduce-overhead"})

    def work(result: dict[str, Any], until: float) -> None:
        job = {"contender": "timm", "workload": as_json(workload), "device": device, "threads": LOADER_WORKERS,
               "flags": {"workers": LOADER_WORKERS}}  # fmt: skip
        with running([job], until) as crew:
            for one in flags:
                row = crew.children[0].ask("try_flags", flags=one, seconds=MEASURED_SECONDS)
                result["timm"].append(_row(workload, result, row | {"flags": one}))

    return _Task(f"{workload.tier} {workload.arm}: timm", work)


def _named(workload: Workload) -> dict[str, Any]:
    return {"tier": workload.tier, "arm": workload.arm}


def _row(workload: Workload, result: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement with its FLOP/s, and its share of the matmul peak where that was measured."""
    flops = workload.flops.train_exact * measured["images_per_second"]
    peak = result["peaks"].get(workload.precision, {}).get("flops")
    return _named(workload) | dict(measured) | {"flops": flops, "mfu": flops / peak if peak else None}


def fastest(rows: Sequence[Mapping[str, Any]], tier: str, arm: str) -> Mapping[str, Any] | None:
    """The row of a family with the most images per second."""
    found = [row for row in rows if (row["tier"], row["arm"]) == (tier, arm)]
    return max(found, key=lambda row: float(row["images_per_second"])) if found else None


def study_minutes(result: Mapping[str, Any], image_size: int = 32) -> dict[str, Any]:
    """Minutes of training in the full CIFAR-10 study at the measured speeds, evaluation and start-up left out.

    Only speeds of lanes count: on a GPU a study trains lone cells by a program too.

    Returns:
        For `eager`, the study's default `engine.compile=false`, and for `compiled`, with `engine.compile=true`: minutes
        per family that was measured so, their `total`, and whether it is `complete`.
    """
    arms = workloads("tiny", None, image_size=image_size)
    images = FullStudy().images_per_family(max(one.flops.total for one in arms))

    def at(*, compiled: bool) -> dict[str, Any]:
        rows = [row for row in result["lanes"] if row["lanes"] and row["compiled"] is compiled]
        found = {workload.arm: fastest(rows, "tiny", workload.arm) for workload in arms}
        minutes = {arm: images / row["images_per_second"] / 60 for arm, row in found.items() if row is not None}
        return {"families": minutes, "total": sum(minutes.values()), "complete": len(minutes) == len(arms)}

    return {"eager": at(compiled=False), "compiled": at(compiled=True)}
