"""Which cells train together: the tuples of cell ids that an engine hands to its workers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .cell import Cell
from .engine_spec import EngineSpec

MAX_LANES = 64
"""Most lanes of a program whose width is chosen by measurement."""
CPU_LANES = 3
"""Lanes of a program on a CPU, where lanes pay at all (`lane_width.cpu_width`)."""

DIFFERS = frozenset(
    {"data", "replicate", "num_train", "num_validation", "seeds", "learning_rate", "weight_decay", "start"}
)
"""What cells of one program may differ in; everything else decides what a device step does."""


@dataclass(frozen=True)
class Waiting:
    """A cell that could be dispatched.

    Attributes:
        key: its `program_key`.
        place: segment and step of its checkpoint: only cells at one place can go on in lockstep.
        alone: it shares no program, because one that it was in died.
    """

    cell_id: str
    key: str
    place: tuple[int, int] = (0, 0)
    alone: bool = False


def program_key(cell: Cell) -> str:
    """Equal for cells that one program can train: one architecture, one schedule, one kind of batch."""
    return json.dumps(cell.model_dump(mode="json", exclude=set(DIFFERS)), sort_keys=True)


def most_lanes(settings: EngineSpec, device: str) -> int:
    """Most lanes of a program: as told, else as many as may be tried on such a device."""
    if settings.devices_per_cell > 1:
        return 1
    if settings.lanes != "auto":
        return settings.lanes
    return CPU_LANES if device == "cpu" else MAX_LANES


def cells_at_once(cells: Sequence[Cell], settings: EngineSpec, devices: Sequence[str]) -> int:
    """Most cells that train at one time.

    Args:
        devices: one per worker.
    """
    widest = max(Counter(map(program_key, cells)).values(), default=0)
    return min(len(cells), len(devices) * min(most_lanes(settings, devices[0]), widest))


def next_job(waiting: Sequence[Waiting], width: int, num_workers: int) -> tuple[str, ...]:
    """The first waiting cell, with those that can join it, in the order they wait.

    Cells that fit into one program are dealt out evenly, so that the last program is not a narrow one, and over as many
    workers as are their share of all that waits, so that no GPU is idle.

    Args:
        waiting: at least one cell.
        width: most lanes of the first one's program.
        num_workers: workers that there are, busy or not.
    """
    first = waiting[0]
    if first.alone or width == 1:
        return (first.cell_id,)
    joining = [one for one in waiting if (one.key, one.place, one.alone) == (first.key, first.place, False)]
    share = math.ceil(num_workers * len(joining) / len(waiting))
    num_jobs = max(math.ceil(len(joining) / width), min(share, len(joining)))
    return tuple(one.cell_id for one in joining[: math.ceil(len(joining) / num_jobs)])
