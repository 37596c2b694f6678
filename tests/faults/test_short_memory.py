"""Memory that runs out is a fault of the machine: nothing is recorded of the cell, and it continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from held import answer, assignment_of, raise_memory_error, run_short_of_memory, started, work_with
from small import Small

from studies.store import Store


@pytest.mark.parametrize(
    ("act", "told"), [(run_short_of_memory, "can't allocate memory"), (raise_memory_error, "MemoryError")]
)
@pytest.mark.parametrize("place", ["step", "validation"])
def test_a_cell_that_memory_was_too_short_for_is_not_failed(
    small: Small, place: str, act: Callable[[], None], told: str, tmp_path: Path
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)
    with started(work_with, assignment_of(tmp_path, small.plan), place, tmp_path / "marker", act) as (_, connection):
        connection.send((cell.id,))
        result = answer(connection)
    assert result.outcome == "machine fault"
    assert told in result.message
    assert store.state(cell.id) == "interrupted"
    small.assert_same(small.train(tmp_path))
