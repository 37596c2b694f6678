"""Lanes measured and held against solo runs, in the process that has the GPU."""

from __future__ import annotations

import dataclasses
import gc
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .loops import TrainingLoop
from .study_loop import LaneLoop, StudyLoop, find_lane_program, replicates
from .timings import steps_for
from .workload import Workload

WARM_UP_STEPS = 10
DIVERGING_RATE = 1e30


def lane_rate(
    workload: Workload, device: str, lanes: int, seconds: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Images per second of a lane program, or of the study's chunked loop where `lanes` is 0."""
    loop: TrainingLoop = (
        LaneLoop(replicates(workload, lanes), device, **options) if lanes else StudyLoop(workload, device)
    )
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    loop.steps(1)
    warm = loop.steps(WARM_UP_STEPS)
    span = loop.steps(steps_for(seconds, WARM_UP_STEPS / warm.seconds))
    found = {
        "lanes": lanes,
        "options": dict(options) | dict(loop.options),
        "images_per_second": span.images / span.seconds,
        "seconds": span.seconds,
        "gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "loss": span.loss,
    }
    del loop
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def lane_difference(workload: Workload, device: str, steps: int) -> dict[str, Any]:
    """Three lanes in fp32, one on a tenth of the images and one that diverges, against solo runs of the first two.

    Returns:
        `largest`: the largest difference of a weight from its solo run, relative to the largest weight of its tensor;
        `bitwise`: whether all are equal to the last bit.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    sound = dataclasses.replace(workload, precision="fp32")
    small = dataclasses.replace(sound, num_train=sound.num_train // 10, replicate=1)
    wild = dataclasses.replace(sound, learning_rate=DIVERGING_RATE, replicate=2)
    together = LaneLoop([sound, small, wild], device)
    together.steps(steps)
    lanes: Any = together.network
    largest, bitwise = 0.0, True
    for index, one in enumerate((sound, small)):
        alone = StudyLoop(one, device)
        alone.steps(steps)
        expected, found = alone.network.state_dict(), lanes.lane_state(index)
        largest = max(largest, *(_relative(found[name], expected[name]) for name in expected))
        bitwise = bitwise and all(torch.equal(found[name], expected[name]) for name in expected)
    return {"steps": steps, "largest": largest, "bitwise": bitwise}


def program_options() -> list[str]:
    """Options of this version's lane program that the measurement knows to switch; `none` without a program."""
    program = find_lane_program()
    if program is None:
        return ["none"]
    return [name for name in ("compile",) if name in inspect.signature(program).parameters]


def _relative(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.abs().max()) or 1.0
    return float((found.to(expected.device).double() - expected.double()).abs().max()) / scale
