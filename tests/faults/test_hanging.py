"""A worker that hangs is ended, and says where; so is one that is stopped for good; one that is slow is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
from held import (
    HELD_SECONDS,
    PATIENT,
    hang_asleep,
    hang_with_the_interpreter,
    held,
    stop_at,
    stop_before_ending,
    stop_forkserver,
)
from small import Small

from studies.engines import local, standstill
from studies.engines.local import LocalEngine, warm_up
from studies.engines.standstill import Standstill
from studies.engines.worker import how_it_ended
from studies.store import Progress, Store
from studies.terminal import status_tables
from studies.tracking import TrackingSpec


@pytest.mark.parametrize("hang", [hang_asleep, hang_with_the_interpreter])
def test_a_hanging_worker_is_ended_and_its_log_says_where_it_hung(
    small: Small, hang: Callable[[], None], tmp_path: Path
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    with held(tmp_path, small.plan, "step", hang, PATIENT) as (process, _):
        process.join(600)
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


class GivenUpSoon(Standstill):
    """After a thousandth of the time. A test whose stopped worker is never ended fails: nobody else would end it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds / 1000)
        self._last = time.monotonic() + HELD_SECONDS

    def overdue(self, processes: Iterable[int]) -> list[int]:
        if time.monotonic() > self._last:
            raise TimeoutError("a stopped worker is waited for without end")
        return super().overdue(processes)


@pytest.mark.parametrize(("stop", "takes"), [(stop_at, 2), (stop_before_ending, 1)])
def test_a_worker_that_is_stopped_and_not_continued_is_ended_by_its_launcher(
    stop: Callable[..., None], takes: int, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own watchdog, which has more patience here, would stand still with it."""
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)
    monkeypatch.setattr(standstill, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(local, "Standstill", GivenUpSoon)
    monkeypatch.setattr(local, "work", partial(stop, tmp_path / "stopped"))
    engine = LocalEngine(store, small.plan, PATIENT, TrackingSpec(kind="off"))
    outcome = engine.run([cell.id])
    assert (tmp_path / "stopped").exists()
    assert (outcome.recorded, outcome.incomplete) == ([cell.id], {})
    assert (store.cell_folder(cell.id) / "log.txt").read_text().count("takes up") == takes
    record = store.record(cell.id)
    assert record is not None
    small.assert_same(record)


def test_a_cell_whose_workers_are_all_stopped_says_so(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)
    monkeypatch.setattr(standstill, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(local, "Standstill", GivenUpSoon)
    monkeypatch.setattr(local, "work", partial(stop_at, None))
    engine = LocalEngine(store, small.plan, PATIENT, TrackingSpec(kind="off"))
    told = "its worker was stopped, and ended since nobody continued it for engine.stall_seconds (3 attempts)"
    assert engine.run([cell.id]).incomplete == {cell.id: told}


@contextmanager
def continued_at_last() -> Iterator[int]:
    """The process id of the forkserver, which goes on if nobody has ended it: a test that is red does not hang."""
    warm_up()
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    rescue = threading.Timer(HELD_SECONDS, os.kill, (pid, signal.SIGCONT))
    rescue.start()
    try:
        yield pid
    finally:
        rescue.cancel()


@pytest.mark.parametrize("while_it_trains", [False, True])
def test_a_forkserver_that_is_stopped_and_not_continued_is_ended_and_another_begun(
    while_it_trains: bool, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would begin no worker; or one that has trained its cell would end, and nobody be told."""
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)
    monkeypatch.setattr(standstill, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(local, "Standstill", GivenUpSoon)
    engine = LocalEngine(store, small.plan, PATIENT, TrackingSpec(kind="off"))
    with continued_at_last() as pid:
        if while_it_trains:
            monkeypatch.setattr(local, "work", partial(stop_forkserver, tmp_path / "stopped"))
        else:
            os.kill(pid, signal.SIGSTOP)
        outcome = engine.run([cell.id])
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z", "it is there still"
    assert (tmp_path / "stopped").exists() is while_it_trains
    assert (outcome.recorded, outcome.incomplete) == ([cell.id], {})
    record = store.record(cell.id)
    assert record is not None
    small.assert_same(record)


def test_only_the_time_counts_that_a_process_was_seen_to_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while it runs, nor while its launcher stood still too, nor for ever where no limit is set."""
    clock = iter([0.0, 1.0, 2.0, 1000.0, 1001.0, 1002.0, 1002.5, 1003.0])
    monkeypatch.setattr(standstill, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stopped = {7, 8}
    monkeypatch.setattr(standstill, "is_stopped", stopped.__contains__)
    look = Standstill(5.0)
    assert look.overdue([7, 8]) == []  # 1 s
    assert look.overdue([7, 8]) == []  # 2 s
    stopped.discard(8)
    assert look.overdue([7, 8]) == []  # 998 s later, which count as 2
    stopped.add(8)
    assert look.overdue([8]) == []  # begins anew
    assert look.overdue([7, 8]) == [7]
    assert look.overdue([7]) == []  # looked at a moment ago
    assert look.overdue([8]) == []  # 3 s, not 5
    monkeypatch.undo()
    assert Standstill(None).overdue([os.getpid()]) == []


def test_stopped_is_who_waits_for_a_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            assert not standstill.is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert standstill.is_stopped(process.pid)
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED)
            assert not standstill.is_stopped(process.pid)
        finally:
            process.kill()
    assert not standstill.is_stopped(process.pid)


def test_the_name_of_a_process_is_not_taken_for_its_state() -> None:
    program = "open('/proc/self/comm', 'w').write('a) T (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "(a) T (b)" in Path(f"/proc/{process.pid}/stat").read_text()
        assert not standstill.is_stopped(process.pid)
        process.kill()


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
