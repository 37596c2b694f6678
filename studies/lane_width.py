"""How many lanes a program should have: on a GPU measured at first use and remembered in the cache folder.

A wider program does more work per kernel. Its throughput, in steps of single lanes per second, grows with the width
until the device is full; from there on more lanes only take memory.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.cache import cache_folder
from models.lanes import why_no_lanes, why_not_stacked

from .cell import Cell
from .course import batches_of
from .engine_spec import EngineSpec
from .errors import StudyError
from .files import write_text
from .job_data import JobData
from .jobs import CPU_LANES, MAX_LANES
from .lane_program import LaneProgram
from .program import initial_network
from .sources import code_version

LEAST_GAIN = 1.1  # twice the lanes must be at least this much faster
LEAST_BRANCH_GAIN = 1.3  # lanes that share no kernels must earn their keep: DESIGN, "CNN stream lanes"
MEMORY_SHARE = 0.6  # of what is free
MOST_CPU_FLOPS = 2_000_000
"""Forward FLOPs per image up to which lanes pay on a CPU, where every core has a program of its own.

Measured on one core of a 2-core AMD EPYC, process time of solo steps over lane steps, batch 96 and 128: at 1.3 MFLOP
(nano, 16 px) 1.18 for ViT, 1.13 for the Mixer, 1.35 for the LSTM with three lanes, and no more with five; at 4.6 MFLOP
(nano, 32 px) 0.94, 0.96 and 0.94. Fixed and not measured at first use, so that a study gives the same bits every time.
"""
LEAST_CPU_REUSE = 4
"""Multiply-adds of an image per weight from which on they pay: a fully connected net (1) is bound by its weights."""
TIMED_SECONDS = 0.5
TIMED_STEPS = 40


@dataclass(frozen=True)
class Timing:
    """One width, measured.

    Attributes:
        steps_per_second: of the whole program; times the width it is the throughput.
        memory_share: memory it took, as a part of what was free before.
        kind: how its lanes are made, `stacked` or `branches`.
    """

    width: int
    steps_per_second: float
    memory_share: float
    kind: str

    @property
    def throughput(self) -> float:
        """Steps of single lanes per second."""
        return self.width * self.steps_per_second


def best_width(measure: Callable[[int], Timing | None], most: int = MAX_LANES) -> tuple[int, list[Timing]]:
    """Doubles the width for as long as it pays.

    Args:
        measure: times a program of some width; None where memory does not suffice.
        most: the largest width to try.

    Returns:
        The width, and all that was measured on the way.
    """
    timings: list[Timing] = []
    width = 1
    while (timing := measure(width)) is not None:
        timings.append(timing)
        if len(timings) > 1 and timing.throughput < LEAST_GAIN * timings[-2].throughput:
            width //= 2
            break
        if 2 * timing.memory_share > MEMORY_SHARE or 2 * width > most:
            break
        width *= 2
    else:
        width = max(1, width // 2)
    kept = next((one for one in timings if one.width == width), None)
    if kept is None or (kept.kind == "branches" and kept.throughput < LEAST_BRANCH_GAIN * timings[0].throughput):
        width = 1
    return width, timings


def takes_lanes(cell: Cell, settings: EngineSpec, device: str) -> bool:
    """Whether such cells train by a program of lanes, a lone one too, so that company changes no bit of its result."""
    if settings.devices_per_cell > 1 or settings.lanes == 1:
        return device != "cpu" and settings.devices_per_cell == 1
    return settings.lanes != "auto" or device != "cpu" or cpu_width(cell) > 1


def cpu_width(cell: Cell) -> int:
    """The lanes a program of such cells should have on a CPU: several of stacked, small networks, else one."""
    if cell.forward_flops > MOST_CPU_FLOPS:
        return 1
    network = initial_network(cell)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    if cell.forward_flops < 2 * LEAST_CPU_REUSE * num_parameters:
        return 1
    shape = (cell.in_channels, cell.image_size, cell.image_size)
    if why_no_lanes(network, shape) is not None or why_not_stacked(network, shape) is not None:
        return 1
    return CPU_LANES


def width_of(cell: Cell, data: JobData, settings: EngineSpec, device: str) -> int:
    """The lanes a program of such cells should have.

    On a CPU by rule (`cpu_width`), on a CUDA device measured unless this machine has done so before.

    What is measured is the program itself, on the cell's own images.
    """
    if device == "cpu":
        return cpu_width(cell)
    path = cache_folder() / "lane_widths.json"
    key = _key(cell, settings, torch.cuda.get_device_name(device))
    known = _read(path)
    if key not in known:
        torch.cuda.set_device(device)
        width, timings = _measured(cell, data, settings, device)
        known = _read(path) | {key: {"width": width, "timings": [asdict(one) for one in timings]}}
        with contextlib.suppress(OSError, StudyError):  # a cache that cannot be written costs the next study a minute
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(known, indent=1))
    width_known: int = known[key]["width"]
    return width_known


def _measured(cell: Cell, data: JobData, settings: EngineSpec, device: str) -> tuple[int, list[Timing]]:
    shape = (cell.in_channels, cell.image_size, cell.image_size)
    if why_no_lanes(initial_network(cell), shape) is not None:
        return 1, []
    batches = batches_of(cell, data, device, pooled=True)
    count = min(TIMED_STEPS, cell.steps)

    def measure(width: int) -> Timing | None:
        torch.cuda.empty_cache()
        free, before = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            program = LaneProgram(
                [cell] * width, [batches] * width, device, chunk_steps=count, compile_network=settings.compile
            )
        except torch.OutOfMemoryError:
            return None
        try:
            program.run(0, count)
            torch.cuda.synchronize(device)
            steps, started = 0, time.perf_counter()
            while (seconds := time.perf_counter() - started) < TIMED_SECONDS or not steps:
                program.run(0, count)
                torch.cuda.synchronize(device)
                steps += count
            taken = torch.cuda.max_memory_reserved(device) - before
            return Timing(width, steps / seconds, taken / free, program.network.kind)
        except torch.OutOfMemoryError:
            return None
        finally:
            program.close()

    return best_width(measure)


def _key(cell: Cell, settings: EngineSpec, device_name: str) -> str:
    """What decides how fast a program is, and how wide it should be."""
    architecture = (cell.family, cell.variant, cell.in_channels, cell.image_size, cell.num_classes, cell.batch_size)
    design = (cell.designed_for, cell.head, cell.objective)
    treatment = (cell.augmentation, cell.permutation, cell.precision, settings.compile)
    return json.dumps([device_name, str(torch.__version__), code_version(), *architecture, *design, *treatment])


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: entry for key, entry in content.items() if isinstance(entry, dict) and isinstance(entry.get("width"), int)
    }
