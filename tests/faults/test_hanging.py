"""A worker that hangs is ended, and says where; one that is slow is left alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from held import PATIENT, hang_asleep, hang_with_the_interpreter, held
from small import Small

from studies.engines.worker import how_it_ended
from studies.store import Progress, Store
from studies.terminal import status_tables


@pytest.mark.parametrize("hang", [hang_asleep, hang_with_the_interpreter])
def test_a_hanging_worker_is_ended_and_its_log_says_where_it_hung(
    small: Small, hang: Callable[[], None], tmp_path: Path
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    with held(tmp_path, small.plan, "step", hang, PATIENT) as (process, _):
        process.join(60)
        assert process.exitcode == 1
    log = store.cell_folder(cell.id) / "log.txt"
    assert f"in {hang.__name__}" in log.read_text()
    assert how_it_ended(1, log) == f"its worker made no progress for engine.stall_seconds; {log} says where it hung"
    assert store.state(cell.id) == "interrupted"
    small.assert_same(small.train(tmp_path))


SLOW = """
import time
from studies.stall import progressed, watched
with watched(3):
    for _ in range(8):
        time.sleep(0.5)
        progressed()
with watched(0.5, step_flops=2.5e9):
    time.sleep(2)
with watched(None):
    time.sleep(0.1)
time.sleep(1.5)
print("lives")
"""


def test_who_makes_progress_or_is_granted_its_time_is_left_alone() -> None:
    """Four seconds under a limit of three; two under a half, for a step that may take two and a half more."""
    ended = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "lives\n"), ended.stderr


@pytest.mark.parametrize(
    ("exit_code", "log", "told"),
    [
        (-9, "process 1 takes up x", "its worker was ended by SIGKILL; the system does so where memory is short"),
        (-15, "process 1 takes up x", "its worker was ended by SIGTERM"),
        (3, "process 1 takes up x", "its worker ended with exit code 3"),
        (1, "Timeout (0:00:03)!\nprocess 1 takes up x", "its worker ended with exit code 1"),
    ],
)
def test_how_a_worker_ended_is_told(exit_code: int, log: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert how_it_ended(exit_code, tmp_path / "log.txt") == told
    assert how_it_ended(3, tmp_path / "none.txt") == "its worker ended with exit code 3"


def test_status_says_for_how_long_there_was_no_progress(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)

    def remark(seconds: float) -> str:
        told = Progress(7, 47, time.time() - seconds)
        monkeypatch.setattr(store, "progress", lambda cell_id: told)
        with store.lock(cell.id):
            _, table, *_ = status_tables(small.plan, store.states(small.plan), store)
        return str(next(iter(table.columns[-1].cells)))  # type: ignore[union-attr]

    assert remark(10) == "step 7 of 47"
    assert remark(310) == "step 7 of 47, no progress for 5 minutes"
    assert remark(-7200) == "step 7 of 47", "a clock that went back is no reason to worry"
