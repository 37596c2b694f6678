"""A worker that a signal ends, whatever it is doing, costs no result and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from held import answer, held, stand_still
from small import Small

from studies.store import Store

PLACES = ("step", "save", "validation", "record")


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_is_killed_leaves_a_cell_that_continues(small: Small, place: str, tmp_path: Path) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    with held(tmp_path, small.plan, place, stand_still) as (process, connection):
        assert store.state(cell.id) == "running"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with pytest.raises(EOFError):
            connection.recv()
    assert store.state(cell.id) == "interrupted", "status tells what is true"
    record = small.train(tmp_path)
    assert record.resumes == 1, "it began anew"
    small.assert_same(record)
    assert_nothing_is_left(store, cell.id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_is_asked_to_end_saves_and_ends(
    small: Small, place: str, number: signal.Signals, tmp_path: Path
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    with held(tmp_path, small.plan, place, lie_down) as (process, _):
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == 0
    record = store.record(cell.id)
    if record is None:
        assert store.state(cell.id) == "interrupted"
        record = small.train(tmp_path)
        assert record.resumes == 1
    small.assert_same(record)
    assert_nothing_is_left(store, cell.id)


def test_ctrl_c_is_not_for_workers(small: Small, tmp_path: Path) -> None:
    """A terminal sends it to every process; the launcher ends its workers."""
    with held(tmp_path, small.plan, "step", lie_down) as (process, connection):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        assert answer(connection).outcome == "recorded"
    record = Store(tmp_path).record(small.plan.cells[0].id)
    assert record is not None
    small.assert_same(record)


def lie_down() -> None:
    """Waits for a moment, in which a signal can come."""
    time.sleep(1.0)


def assert_nothing_is_left(store: Store, cell_id: str) -> None:
    """That only what a finished cell keeps is in its folder."""
    left = sorted(path.name for path in store.cell_folder(cell_id).iterdir())
    assert left == ["lock", "log.txt", "predictions.npz", "record.json"]
