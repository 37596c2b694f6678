"""Lanes measured and held against solo runs, in the process that has the GPU."""

from __future__ import annotations

import dataclasses
import gc
import math
from typing import Any

import torch
from torch import Tensor

from studies.lane_width import Timing, best_width, cpu_width

from .study_loop import StudyLoop, replicates
from .timings import steps_for
from .workload import Workload

WARM_UP_STEPS = 10
DIVERGING_RATE = 1e30


def lane_rate(
    workload: Workload, device: str, lanes: int, seconds: float, compile_network: bool = False
) -> dict[str, Any]:
    """Images per second of a program of `lanes` runs, or of the loop without lanes where that is 0."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    runs = replicates(workload, max(1, lanes))
    loop = StudyLoop(runs, device, in_lanes=lanes > 0, compile_network=compile_network)
    try:
        loop.steps(1)
        warm = loop.steps(WARM_UP_STEPS)
        span = loop.steps(steps_for(seconds, WARM_UP_STEPS / warm.seconds))
        return {
            "lanes": lanes,
            "kind": loop.options["kind"],
            "compiled": compile_network,
            "images_per_second": span.images / span.seconds,
            "seconds": span.seconds,
            "gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
            "loss": span.loss,
        }
    finally:
        loop.close()
        del loop
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


def chosen_width(workload: Workload, device: str, seconds: float, most: int) -> int:
    """The number of lanes that a study would take; 0 where a lone run would need no lane program.

    By the study's own rules: on a CPU `lane_width.cpu_width`, on a GPU `lane_width.best_width`.
    """
    if not device.startswith("cuda"):
        width = cpu_width(workload.cell())
        return width if width > 1 else 0
    memory = torch.cuda.get_device_properties(device).total_memory

    def measure(width: int) -> Timing | None:
        try:
            found = lane_rate(workload, device, width, seconds)
        except torch.OutOfMemoryError:
            return None
        share = found["gpu_bytes"] / memory
        return Timing(width, found["images_per_second"] / (width * workload.batch_size), share, found["kind"])

    return best_width(measure, most)[0]


def lane_difference(workload: Workload, device: str, steps: int) -> dict[str, Any]:
    """Three lanes in fp32, one on a tenth of the images and one that diverges, against solo runs of the first two.

    Returns:
        `largest`: the norm of the difference of all weights from the solo run's over the norm of these, of the worse
        lane; `bitwise`: whether all are equal to the last bit.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    sound = dataclasses.replace(workload, precision="fp32")
    small = dataclasses.replace(sound, num_train=sound.num_train // 10, replicate=1)
    wild = dataclasses.replace(sound, learning_rate=DIVERGING_RATE, replicate=2)
    together = StudyLoop([sound, small, wild], device)
    together.steps(steps)
    largest, bitwise = 0.0, True
    for lane, one in enumerate((sound, small)):
        alone = StudyLoop([one], device)
        alone.steps(steps)
        expected, found = alone.snapshot(0)["network"], together.snapshot(lane)["network"]
        largest = max(largest, _relative(found, expected))
        bitwise = bitwise and all(torch.equal(found[name], expected[name]) for name in expected)
    together.close()
    return {"steps": steps, "largest": largest, "bitwise": bitwise}


def _relative(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Distance of two sets of weights over the norm of the second; infinite where something is no number."""
    weights = [name for name, value in expected.items() if value.is_floating_point()]
    difference = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in weights)
    norm = sum(float(expected[name].double().square().sum()) for name in weights)
    return math.sqrt(difference / norm) if math.isfinite(difference) else math.inf
