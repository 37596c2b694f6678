"""Several launchers on one store, launchers that are asked to end, and a forkserver that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from held import SETTINGS, answer, assignment_of, held, started
from small import Small, deterministic
from training import tiny_plan

from studies.engines import local
from studies.engines.local import LocalEngine
from studies.engines.worker import work
from studies.errors import StudyError
from studies.interruption import KEPT
from studies.store import Store
from studies.tracking import TrackingSpec


def test_of_four_launchers_one_trains_a_cell_and_the_others_are_told(small: Small, tmp_path: Path) -> None:
    """Each through a worker of its own, all asked at the same moment, and again when the cell is done."""
    store, (cell,) = Store(tmp_path), small.plan.cells
    store.lock_plan(small.plan)
    with ExitStack() as stack:
        assignment = assignment_of(tmp_path, small.plan)
        connections = [stack.enter_context(started(work, assignment))[1] for _ in range(4)]
        for connection in connections:
            connection.send((cell.id,))
        outcomes = []
        waiting = list(connections)
        while waiting:
            for connection in wait(waiting):
                outcomes.append(answer(connection).outcome)  # type: ignore[arg-type]
                waiting.remove(connection)  # type: ignore[arg-type]
    assert outcomes.count("recorded") >= 1
    assert set(outcomes) <= {"recorded", "busy"}
    assert (store.cell_folder(cell.id) / "log.txt").read_text().count("takes up") == 1
    record = store.record(cell.id)
    assert record is not None
    small.assert_same(record)


ASKED = """
import signal, sys
from studies.interruption import told_once
with told_once():
    try:
        signal.raise_signal(getattr(signal, sys.argv[1]))
    finally:
        signal.raise_signal(getattr(signal, sys.argv[2]))  # while it tidies up
print("went on")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_launcher_that_is_asked_to_end_says_so_once(name: str) -> None:
    ended = subprocess.run([sys.executable, "-c", ASKED, name, name], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (128 + getattr(signal, name), "")
    assert ended.stderr == f"ended by {name}: {KEPT}\n"


def test_what_is_ignored_stays_ignored() -> None:
    program = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ASKED
    command = [sys.executable, "-c", program, "SIGTERM", "SIGTERM"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "went on\n", "")


IMPORTING = """
import importlib, os, sys, time
sys.modules["studies.train"] = None
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "studies.train":
            print(os.getpid(), flush=True)
            time.sleep(60)
del sys.modules["studies.train"]
sys.meta_path.insert(0, Slow())
if os.fork() == 0:
    import studies.engines.preload
else:
    time.sleep(60)
"""


def test_a_forkserver_does_not_outlive_its_launcher_while_it_imports() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", IMPORTING], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    importing = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 20
    while is_running(importing):
        assert time.monotonic() < deadline, "it imports for nobody"
        time.sleep(0.05)
    launcher.stdout.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_forkserver_that_dies_costs_nothing(tmp_path: Path) -> None:
    """Killed while workers train, which go on; the next ones come from another, in the environment they need."""
    plan, store = tiny_plan(num_train=[40, 50, 60]), Store(tmp_path)
    store.lock_plan(plan)
    killed: list[int] = []
    environments: list[bytes] = []

    def kill_once(running: Sequence[str]) -> None:
        pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        if running and not killed:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        elif killed and pid != killed[0]:
            environments.append(Path(f"/proc/{pid}/environ").read_bytes())

    engine = LocalEngine(store, plan, SETTINGS, TrackingSpec(kind="off"), kill_once)
    outcome = engine.run([cell.id for cell in plan.cells])
    assert killed
    assert sorted(outcome.recorded) == sorted(cell.id for cell in plan.cells)
    assert not outcome.incomplete
    assert environments
    assert all(b"glibc.malloc.hugetlb=1" in environment for environment in environments)
    for record in store.records(plan):
        assert record.status == "finished"
        assert len(deterministic(record)) == len(plan.cells[0].branch_plans)


def test_a_cell_whose_lock_is_held_is_told_to_be_running_by_every_other_process(small: Small, tmp_path: Path) -> None:
    from held import stand_still

    with held(tmp_path, small.plan, "validation", stand_still):
        command = [sys.executable, "-m", "studies", "status", small.plan.study_id, "--json", "--store", str(tmp_path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert '"state": "running"' in told
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '"state": "interrupted"' in told


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_forkserver_that_dies_under_a_new_worker_is_begun_anew(
    deaths: int, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(Store(tmp_path), small.plan, SETTINGS, TrackingSpec(kind="off"))
    dying = iter([EOFError("unexpected EOF")] * deaths)
    began: list[str] = []
    monkeypatch.setattr(local, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(local, "warm_up", lambda: began.append("forkserver"))

    def begin(device: str) -> str:
        if (error := next(dying, None)) is not None:
            raise error
        return f"a worker on {device}"

    monkeypatch.setattr(engine, "_begin_worker", begin)
    if deaths == 2:
        assert engine._start_worker("cpu") == "a worker on cpu"
    else:
        with pytest.raises(StudyError, match="no worker could be started in 3 attempts: the forkserver died"):
            engine._start_worker("cpu")
    assert len(began) == 3
