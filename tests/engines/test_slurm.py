"""The engine `slurm` on a cluster: Slurm's own daemons where they can be started, else stand-ins for its commands."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from planned import finish
from processes import start_run, wait_until
from slurm_cluster import real_cluster, stand_in_cluster, why_not_real
from slurm_launcher import PLAN, cancel, engine, run_all, states

from studies import running
from studies.compose import compose_study
from studies.doctor.holders import holders
from studies.engines.slurm_queue import JobState
from studies.errors import ConfigError, StoreError
from studies.interruption import Interrupted
from studies.records import DETERMINISTIC_COLUMNS, records_frame
from studies.slurm_spec import SlurmSpec
from studies.store import Store
from studies.tracking import TrackingSpec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")

STUDY = (
    "data_scaling",
    "name=queued",
    "data.num_train=1200",
    "data.num_test=500",
    "families=[resnet]",
    "num_train=[64,256]",
    "num_validation=100",
    "replicates=2",
    "primary_pair=null",
    "budget.steps=400",
    "budget.batch_size=64",
    "recipe.tuning=null",
    "tracking=off",
    "engine.checkpoint_seconds=3600",  # so that what is not lost was saved on being asked
    "engine.chunk_steps=5",
)
ON_SLURM = ("engine=slurm", "engine.tasks=2", "engine.poll_seconds=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with stand_in_cluster() if why_not_real() else real_cluster():
        yield


# --- whole studies -------------------------------------------------------------------------------------------------


@pytest.fixture
def launchers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Started by the test; killed if it failed before they ended."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for launcher in started:
        launcher.kill()
        launcher.wait()
        if launcher.stdout is not None:
            launcher.stdout.close()


def test_a_study_is_the_same_through_slurm_whatever_happens_to_its_jobs(
    cluster: None, launchers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Two jobs, one of them requeued and one killed in the middle of a cell, and a second launcher."""
    store = Store(tmp_path / "a store")  # its name has a blank
    launchers.append(start_run(*STUDY, *ON_SLURM, "--store", str(store.root)))
    wait_until(lambda: bool(list(store.root.glob("studies/*/slurm/array.json"))), launchers[0])
    launchers.append(start_run(*STUDY, *ON_SLURM, "--store", str(store.root)))
    folder = next(store.root.glob("studies/*/slurm"))
    array = json.loads((folder / "array.json").read_text())
    preempted, killed = array["job_ids"]

    wait_until(lambda: trains(preempted, store), launchers[0])
    subprocess.run(["scancel", "--signal=USR2", preempted], check=True)
    wait_until(lambda: "cells are saved" in (folder / f"{preempted}_0_log.err").read_text(), launchers[0])
    wait_until(lambda: trains(killed, store), launchers[0])
    os.kill(process_of(killed), signal.SIGKILL)

    said = [launcher.communicate(timeout=600)[0].decode() for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert f"Slurm array {array['array_id']}: 2 tasks submitted for 4 cells" in said[0]
    assert f"Slurm array {array['array_id']} of this study is queued or running: no other is submitted" in said[1]
    assert f"task {preempted} was requeued 1 time" in said[0]
    assert f"task {killed}: FAILED" in said[0]
    assert json.loads((folder / "array.json").read_text()) == array
    found = store.records(store.plan("queued"))
    assert max(record.resumes for record in found) >= 1, "what the preempted job had trained was not saved"
    assert not list(store.root.rglob("*.witness"))

    here = Store(tmp_path / "here")
    running.run(compose_study(STUDY[0], [*STUDY[1:], "engine.workers=2"]), here)
    assert deterministic(store) == deterministic(here)


def process_of(job_id: str) -> int:
    """The launcher that a job has become on its node."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if arguments[2:4] == [b"-m", b"submitit.core._submit"] and is_of(job_id, int(path.parent.name)):
                return int(path.parent.name)  # of python -u
    raise AssertionError(f"no process of job {job_id}")


def is_of(job_id: str, process: int) -> bool:
    """Whether a process was started for this task of an array."""
    array, _, index = job_id.partition("_")
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode()} <= set(environment)


def trains(job_id: str, store: Store) -> bool:
    """A worker of the job has taken steps of a cell that it could lose."""
    for cell_id in store.cell_ids():
        told = store.progress(cell_id)
        with contextlib.suppress(OSError):  # it has ended meanwhile
            mine = any(is_of(job_id, process) for process in holders(store.cell_folder(cell_id) / "lock"))
            if mine and told is not None and not told.starting and told.step > 0:
                return True
    return False


def deterministic(store: Store) -> list[dict[str, Any]]:
    frame = records_frame(store.records(store.plan("queued")))
    assert frame["weights_sha256"].notna().all()
    return frame[list(DETERMINISTIC_COLUMNS)].to_dict("records")


# --- the launcher, whose jobs are held back in the queue -----------------------------------------------------------


def interrupt(running: Sequence[str]) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_cancels_what_was_submitted(either: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_all(engine(store, interrupt))
    assert set(states(store).values()) == {"CANCELLED"}
    assert "cancelled, running cells are saved" in capfd.readouterr().err


@pytest.mark.parametrize("moment", ["submitted", "noted"])
def test_ctrl_c_and_a_full_disk_before_an_array_is_noted_leave_none_behind(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from studies.engines import slurm, slurm_array

    cancelled: list[str] = []
    monkeypatch.setattr(slurm, "check_slurm", lambda store: None)
    monkeypatch.setattr(slurm_array, "cancel", cancelled.append)

    def submitted(self: Any, tasks: Sequence[object], name: str) -> list[str]:
        if moment == "submitted":
            signal.raise_signal(signal.SIGINT)
        return ["7_0", "7_1"]

    def full(path: Path, text: str) -> None:
        if "array_id" in text:
            raise StoreError("no space left")

    monkeypatch.setattr(slurm_array.StudyArray, "_submitted", submitted)
    if moment == "noted":
        monkeypatch.setattr(slurm_array, "write_text", full)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        run_all(engine(Store(tmp_path)))
    assert cancelled == ["7"]
    assert "Slurm array 7: cancelled" in capfd.readouterr().err


def test_a_second_ctrl_c_while_an_array_is_cancelled_says_which_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from studies.engines import slurm, slurm_array

    def interrupted(array_id: str) -> None:
        raise Interrupted

    monkeypatch.setattr(slurm, "check_slurm", lambda store: None)
    monkeypatch.setattr(slurm, "job_states", lambda array_id: dict.fromkeys(["7_0", "7_1"], JobState("PENDING")))
    monkeypatch.setattr(slurm_array, "cancel", interrupted)
    monkeypatch.setattr(slurm_array.StudyArray, "_submitted", lambda self, tasks, name: ["7_0", "7_1"])
    with pytest.raises(KeyboardInterrupt):
        run_all(engine(Store(tmp_path), interrupt))
    assert "scancel 7" in capfd.readouterr().err


def test_detached_jobs_are_found_again_and_left_in_peace(
    either: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    detached = engine(store, detach=True)
    outcome = run_all(detached)
    assert set(outcome.incomplete) == {cell.id for cell in PLAN.cells}
    assert "the same command continues" in detached.told[-1]
    assert f"--store {store.root} tells how far it is" in detached.told[-1], "the command printed has to work"
    assert set(states(store).values()) == {"PENDING"}
    before = states(store)
    again = engine(store, detach=True)
    assert run_all(again).incomplete == outcome.incomplete
    assert "no other is submitted" in again.told[0]
    waiting = engine(store, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all(waiting)
    assert states(store) == before, "an array of another launcher was cancelled"
    assert "goes on without this launcher" in capfd.readouterr().err
    assert any("JobHeldUser" in line for line in waiting.told), "nobody is told why jobs do not begin"
    cancel(store)


def test_two_launchers_at_once_submit_one_array(either: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = [engine(store, detach=True), engine(store, detach=True)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(run_all, made))
    submitted = ["submitted for" in one.told[0] for one in made]
    assert sorted(submitted) == [False, True]
    cancel(store)


def test_once_all_is_recorded_jobs_that_still_wait_are_withdrawn(either: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = engine(store, lambda running: finish(store, PLAN))
    assert run_all(made).incomplete == {}
    wait_until(lambda: set(states(store).values()) == {"CANCELLED"})


def test_cancelled_by_somebody_else_is_told_with_its_state(either: str, tmp_path: Path) -> None:
    store = Store(tmp_path)

    outcome = run_all(engine(store, lambda running: cancel(store)))
    assert all("CANCELLED" in why for why in outcome.incomplete.values())
    assert len(outcome.incomplete) == len(PLAN.cells)
    assert "do all nodes see" in outcome.warnings[0]


def test_what_slurm_refuses_is_one_message(either: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Invalid partition name specified; nothing was submitted"):
        run_all(engine(Store(tmp_path), partition="nosuch"))
    again = engine(Store(tmp_path), detach=True)
    run_all(again)
    assert "2 tasks submitted" in again.told[0], "what was never submitted is in the way"
    cancel(Store(tmp_path))


# --- the task, in a process of its own ----------------------------------------------------------------------------

TASK = """
import os, sys
os.environ["SLURM_JOB_ID"] = "7"
from studies.engines.slurm_task import SlurmTask
SlurmTask(*sys.argv[1:3], tuple(sys.argv[3].split(",")), *sys.argv[4:])()
"""


def test_a_task_whose_node_cannot_do_it_says_so(tmp_path: Path) -> None:
    from studies.engines.slurm_task import read_report, slurm_folder

    store = Store(tmp_path)
    store.lock_plan(PLAN)
    data = PLAN.spec.data.model_copy(update={"num_test": 400}).model_dump_json()  # others than the plan counted
    settings = SlurmSpec().model_dump_json()
    tracking = TrackingSpec(kind="off").model_dump_json()
    arguments = [str(tmp_path), PLAN.study_id, PLAN.cells[0].id, data, settings, tracking]
    environment = dict(os.environ) | {"INDUCTIVE_BIAS_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-c", TASK, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    report = read_report(slurm_folder(store, PLAN.study_id), "7")
    assert ended.returncode == 2, ended.stderr
    assert report is not None
    assert report.refused
    assert f"error: {report.refused}" in ended.stderr
