"""Reading the records of a study for its report, by two processes where there are two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from .company import Company
from .grid import Plan
from .report.gathered import Gathered, Part, gather_part, together
from .store import Labelled, Store, labelled


def begin_gathering(planned: Plan, store: Store, second: Company | None = None) -> Callable[[], Gathered]:
    """Lets a second process begin to read, where there is one.

    Returns:
        A function that reads the rest and returns what the report of a study takes from its records.
    """
    cells, spec = [labelled(cell) for cell in planned.cells], planned.spec
    own = len(cells) if second is None else len(cells) // 2
    awaited = None if second is None else second.asked(part_of, store.root, cells[own:], spec.tier, spec.x)

    def gathered() -> Gathered:
        parts = [part_of(store.root, cells[:own], spec.tier, spec.x)]
        if awaited is not None:
            parts.append(awaited())
        found = together(parts)
        pa.default_memory_pool().release_unused()
        return found

    return gathered


def part_of(root: Path, cells: Sequence[Labelled], tier: str, x: str) -> Part:
    """Of some cells of a store."""
    unreadable: list[str] = []
    part = gather_part(Store(root).each_labelled(cells, unreadable), tier, x, unreadable)
    pa.default_memory_pool().release_unused()
    return part
