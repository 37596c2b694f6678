"""There is one array of a study in the queue, wherever the launcher that submits it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from processes import wait_until
from slurm_launcher import PLAN, array_id, cancel, engine, run_all, states

from studies.engines import slurm_array
from studies.engines.slurm_queue import JobState, QueueError
from studies.errors import ConfigError, StoreError, StudyError
from studies.store import Store

pytestmark = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")

LAUNCHER = """
import sys
sys.path[:0] = sys.argv[2:]
from slurm_launcher import engine, run_all
from studies.store import Store
run_all(engine(Store(sys.argv[1])))
"""
AFTERWARDS = '{sbatch} "$@" > {folder}/said; kill -9 $PPID'
MEANWHILE = 'kill -9 $PPID; while [ ! -e {folder}/go ]; do sleep 0.02; done; {sbatch} "$@" > {folder}/said'


def killed_by_sbatch(store: Store, how: str, folder: Path) -> None:
    """Runs a launcher that is killed with -9 by the `sbatch` it has called.

    Args:
        how: shell commands in the place of `sbatch`.
    """
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text("#!/bin/sh\n" + how.format(sbatch=shutil.which("sbatch"), folder=folder))
    script.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    here = Path(__file__).parent
    nowhere = subprocess.DEVNULL  # what stands for `sbatch` outlives the launcher, and would hold a pipe open
    command = [sys.executable, "-c", LAUNCHER, str(store.root), str(here), str(here.parent / "studies")]
    ended = subprocess.run(command, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_killed_once_the_array_is_submitted_and_before_it_is_noted(either: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    killed_by_sbatch(store, AFTERWARDS, tmp_path / "bin")
    again = engine(store, detach=True)
    run_all(again)
    submitted = (tmp_path / "bin" / "said").read_text().split()[-1]
    assert again.told[0] == f"Slurm array {submitted} of this study is queued or running: no other is submitted"
    assert states(store) == {f"{submitted}_0": "PENDING", f"{submitted}_1": "PENDING"}
    cancel(store)


def asks_again(waits: threading.Event) -> Callable[[IO[bytes], int], None]:
    """A `flock` that tells when it has to wait."""
    flock = fcntl.flock

    def asked(file: IO[bytes], how: int) -> None:
        while True:
            try:
                return flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                waits.set()
                time.sleep(0.01)

    return asked


def test_killed_while_the_array_is_submitted_the_next_launcher_waits_for_it(
    either: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "bin"
    killed_by_sbatch(store, MEANWHILE, folder)
    waits, again = threading.Event(), engine(store, detach=True)
    monkeypatch.setattr(slurm_array.fcntl, "flock", asks_again(waits))
    with ThreadPoolExecutor() as threads:
        run = threads.submit(run_all, again)
        try:
            wait_until(lambda: waits.is_set() or run.done())
        finally:
            (folder / "go").touch()
        run.result()
    assert "no other is submitted" in again.told[0]
    assert array_id(store) == (folder / "said").read_text().split()[-1]
    cancel(store)


def test_an_array_that_nobody_knows_of_any_more_is_not_waited_for(either: str, tmp_path: Path) -> None:
    """Killed before `sbatch` did anything; and after an array whose jobs have ended since."""
    store = Store(tmp_path / "store")
    killed_by_sbatch(store, "kill -9 $PPID", tmp_path / "bin")
    for _ in range(2):
        again = engine(store, detach=True)
        run_all(again)
        assert "2 tasks submitted" in again.told[0]
        cancel(store)
        wait_until(lambda: set(states(store).values()) == {"CANCELLED"})


@pytest.mark.parametrize("name", ["array.json", "submitting.json"])
@pytest.mark.parametrize("content", ["", "[]", "7", '"name"', '{"array_id": "7"}'])
def test_a_note_that_says_nothing_is_refused(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    made = engine(Store(tmp_path))
    made._folder.mkdir(parents=True)
    (made._folder / name).write_text(content)
    with pytest.raises(StoreError, match=rf"{name} does not say what was submitted last.* then remove the file"):
        run_all(made)


def test_nothing_is_submitted_where_its_name_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        assert path.name == "submitting.json"
        raise StoreError("no space left")

    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    monkeypatch.setattr(slurm_array, "write_text", full)
    monkeypatch.setattr(slurm_array.StudyArray, "_submitted", lambda self, tasks, name: pytest.fail("submitted"))
    with pytest.raises(StoreError, match="no space left"):
        run_all(engine(Store(tmp_path)))


def test_what_was_found_by_its_name_is_known_by_its_jobs_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    monkeypatch.setattr(slurm_array, "job_states", lambda array_id: {f"{array_id}_0": JobState("RUNNING")})
    names: list[str] = []
    monkeypatch.setattr(slurm_array, "jobs_named", lambda name: names.append(name) or ["12_0", "12_1"])
    for _ in range(2):
        made = engine(Store(tmp_path), detach=True)
        made._folder.mkdir(parents=True, exist_ok=True)
        if not names:
            (made._folder / "submitting.json").write_text('{"name": "study-small"}')
        run_all(made)
        assert "Slurm array 12 of this study is queued or running" in made.told[0]
    assert names == ["study-small"]
    assert json.loads((made._folder / "array.json").read_text()) == {"array_id": "12", "job_ids": ["12_0", "12_1"]}


class _Executor:
    """As much of submitit as is asked to submit: keeps what it was told, and fails if it is to."""

    told: dict[str, Any]
    environment: dict[str, str]
    fault: Exception | None = None

    def __init__(self, folder: Path, max_num_timeout: int) -> None:
        type(self).told = {"requeues": max_num_timeout}

    def update_parameters(self, **told: Any) -> None:
        self.told.update(told)

    def submit_array(self, tasks: Sequence[object]) -> list[SimpleNamespace]:
        type(self).environment = dict(os.environ)
        if self.fault is not None:
            raise self.fault
        return [SimpleNamespace(job_id=f"12_{index}") for index in range(len(tasks))]


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> type[_Executor]:
    class Own(_Executor): ...

    monkeypatch.setattr("submitit.SlurmExecutor", Own)
    monkeypatch.setattr(slurm_array, "jobs_named", lambda name: [])
    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    return Own


def test_slurm_is_asked_for_what_the_settings_say(tmp_path: Path, executor: type[_Executor]) -> None:
    more = {"constraint": "a100"}
    asked = {"partition": "gpu", "memory": "16G", "gpus_per_task": 2, "cpus_per_task": 3, "time_limit": 240}
    run_all(engine(Store(tmp_path), detach=True, requeues=5, tasks=3, additional_parameters=more, **asked))
    told = executor.told
    assert re.fullmatch(rf"study-{re.escape(PLAN.study_id)}-[0-9a-f]{{8}}", told.pop("job_name"))
    assert told == {
        "requeues": 5,
        "partition": "gpu",
        "mem": "16G",
        "time": 240,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": 3,
        "gpus_per_node": 2,
        "signal_delay_s": 90,
        "array_parallelism": 3,
        "wckey": None,
        "setup": None,
        "srun_args": ["--cpus-per-task=3"],
        "additional_parameters": {"constraint": "a100", "requeue": True},
    }
    assert json.loads(next(tmp_path.rglob("array.json")).read_text()) == {
        "array_id": "12",
        "job_ids": ["12_0", "12_1", "12_2"],
    }


def test_never_more_tasks_than_cells(tmp_path: Path, executor: type[_Executor]) -> None:
    engine(Store(tmp_path), detach=True, tasks=9).run([cell.id for cell in PLAN.cells[:2]])
    assert executor.told["array_parallelism"] == 9
    assert len(json.loads(next(tmp_path.rglob("array.json")).read_text())["job_ids"]) == 2


def test_of_the_environment_it_sees_what_the_settings_leave_open(
    tmp_path: Path, executor: type[_Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of the job in which a study is started are not those of its array."""
    for name in ("SLURM_CONF", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_TIMELIMIT"):
        monkeypatch.setenv(name, "x")
    run_all(engine(Store(tmp_path), detach=True, account="lab"))
    seen = {name for name in executor.environment if name.startswith(("SLURM_", "SBATCH_"))}
    assert seen == {"SLURM_CONF", "SBATCH_PARTITION"}
    assert os.environ["SBATCH_TIMELIMIT"] == "x"


def test_a_folder_that_submitit_cannot_write_is_one_message(tmp_path: Path, executor: type[_Executor]) -> None:
    executor.fault = OSError(28, "No space left on device")
    with pytest.raises(StoreError, match=r"slurm: nothing was submitted: No space left on device"):
        run_all(engine(Store(tmp_path)))


@pytest.mark.parametrize("fault", [None, OSError(28, "No space left on device")])
def test_the_lock_that_sbatch_inherits_is_let_go_afterwards(
    tmp_path: Path, executor: type[_Executor], fault: Exception | None
) -> None:
    executor.fault = fault
    before, made = os.fstat(0), engine(Store(tmp_path), detach=True)
    with contextlib.suppress(StoreError):
        run_all(made)
    assert os.path.samestat(os.fstat(0), before), "standard input is another"
    with (made._folder / "submit.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _refusal(text: str) -> Exception:
    from submitit.core.utils import FailedSubmissionError

    return FailedSubmissionError(text)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(28, "No space left on device"), r"slurm: it was not submitted as it has to be: No space left"),
        ("sbatch: error: Socket timed out", r"Socket timed out; it was not submitted as it has"),
    ],
)
def test_an_array_that_came_into_the_queue_before_the_fault_is_cancelled(
    fault: OSError | str,
    told: str,
    tmp_path: Path,
    executor: type[_Executor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """submitit writes after `sbatch` too, which itself may fail to hear what the controller has done."""
    executor.fault = _refusal(fault) if isinstance(fault, str) else fault
    names, cancelled = list[str](), list[str]()
    monkeypatch.setattr(slurm_array, "jobs_named", lambda name: names.append(name) or ["12_0", "12_1"])
    monkeypatch.setattr(slurm_array, "cancel", cancelled.append)
    with pytest.raises(StudyError, match=told):
        run_all(engine(Store(tmp_path)))
    assert (names, cancelled) == ([executor.told["job_name"]], ["12"])
    assert "Slurm array 12: cancelled" in capsys.readouterr().err


def test_where_the_queue_cannot_be_asked_nothing_is_promised(
    tmp_path: Path, executor: type[_Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(name: str) -> list[str]:
        raise QueueError("squeue has not answered for 60 s")

    executor.fault = _refusal("sbatch: error: Socket timed out")
    monkeypatch.setattr(slurm_array, "jobs_named", silent)
    with pytest.raises(ConfigError, match="timed out; nothing was submitted as far as is known; if an array was"):
        run_all(engine(Store(tmp_path)))
    assert list(tmp_path.rglob("submitting.json")), "by which the next launcher asks"


def test_a_launcher_without_a_standard_input_submits_too(tmp_path: Path) -> None:
    kept, lock = os.dup(0), (tmp_path / "lock").open("ab")
    try:
        os.close(0)
        with slurm_array._inherited(lock):
            assert os.path.samestat(os.fstat(0), os.fstat(lock.fileno()))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        lock.close()
