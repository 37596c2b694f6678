"""Reading the records of a study for its report, by two processes where there are two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from .company import Company
from .grid import Plan
from .report.gathered import Gathered, Part, gather_part, together
from .store import Labelled, Store, labelled


def gather_study(planned: Plan, store: Store, second: Company | None = None) -> Gathered:
    """What the report of a study takes from its records.

    Args:
        second: reads half of the records, where it is there.
    """
    cells, spec = [labelled(cell) for cell in planned.cells], planned.spec
    half = len(cells) if second is None else len(cells) // 2
    awaited = None if second is None else second.asked(part_of, store.root, cells[half:], spec.tier, spec.x)
    parts = [part_of(store.root, cells[:half], spec.tier, spec.x)]
    if awaited is not None:
        parts.append(awaited())
    gathered = together(parts)
    pa.default_memory_pool().release_unused()
    return gathered


def part_of(root: Path, cells: Sequence[Labelled], tier: str, x: str) -> Part:
    """Of some cells of a store."""
    unreadable: list[str] = []
    part = gather_part(Store(root).each_labelled(cells, unreadable), tier, x, unreadable)
    pa.default_memory_pool().release_unused()
    return part
