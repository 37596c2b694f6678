"""Jobs of several cells: how the engine deals them out, and real processes, really killed in the midst of one."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from planned import planned, record_of
from processes import finish, kill_all, start_run, wait_until
from training import train

from studies.engine_spec import EngineSpec
from studies.engines import local
from studies.engines.local import LocalEngine, _Worker
from studies.engines.worker import JobResult
from studies.records import records_frame
from studies.store import Store
from studies.tracking import TrackingSpec

PLAN = planned(families=("vit",), num_train=(64, 256), replicates=5, primary_pair=None)  # ten cells of one program
IDS = [cell.id for cell in PLAN.cells]
WorkerBody = Callable[[Sequence[str], Connection], None]


class _FakeProcess:
    exitcode, pid = 9, None

    def kill(self) -> None: ...

    def join(self) -> None: ...


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[LocalEngine, list[tuple[str, ...]]]]:
    """An engine on GPUs whose workers are threads that answer as told; and the jobs they were given."""
    monkeypatch.setattr(local, "warm_up", lambda: None)

    def make(body: WorkerBody, num_workers: int = 1, **settings: Any) -> tuple[LocalEngine, list[tuple[str, ...]]]:
        monkeypatch.setattr(local, "devices", lambda settings: [f"cuda:{index}" for index in range(num_workers)])
        made = LocalEngine(Store(tmp_path), PLAN, EngineSpec(**settings), TrackingSpec(kind="off"))
        jobs: list[tuple[str, ...]] = []

        def start(device: str) -> _Worker:
            ours, theirs = Pipe()

            def serve() -> None:
                theirs.send(True)
                with contextlib.suppress(EOFError, OSError):  # the engine is gone, or the body closed the connection
                    for job in iter(theirs.recv, None):
                        jobs.append(job)
                        body(job, theirs)

            threading.Thread(target=serve, daemon=True).start()
            return _Worker(device, _FakeProcess(), ours)  # type: ignore[arg-type]

        monkeypatch.setattr(made, "_start_worker", start)
        return made, jobs

    return make


def record_all(job: Sequence[str], connection: Connection) -> None:
    for cell_id in job:
        connection.send(JobResult(cell_id, "recorded"))


Engine = Callable[..., tuple[LocalEngine, list[tuple[str, ...]]]]


def test_jobs_are_as_wide_as_told(engine: Engine) -> None:
    made, jobs = engine(record_all, lanes=4)
    assert sorted(made.run(IDS).recorded) == sorted(IDS)
    assert [len(job) for job in jobs] == [4, 3, 3]


def test_what_a_worker_gives_back_waits_first_and_tells_the_width(engine: Engine) -> None:
    def narrow(job: Sequence[str], connection: Connection) -> None:
        for cell_id in reversed(job[3:]):
            connection.send(JobResult(cell_id, "returned"))
        record_all(job[:3], connection)

    made, jobs = engine(narrow)
    outcome = made.run(IDS)
    assert outcome.recorded == IDS, "in the order they waited"
    assert [len(job) for job in jobs] == [10, 3, 2, 2], "once it is known, programs are of even width"


def test_wide_programs_go_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take long: at the end no worker should wait long for another."""
    made, jobs = engine(record_all)
    narrow = {cell_id: f"narrow {index}" for index, cell_id in enumerate(IDS[:6])}  # waiting before the others
    monkeypatch.setattr(made, "_keys", narrow | dict.fromkeys(IDS[6:], "wide"))
    monkeypatch.setattr(made, "_widths", dict.fromkeys(narrow.values(), 1) | {"wide": 2})
    made.run(IDS)
    assert jobs == [tuple(IDS[6:8]), tuple(IDS[8:]), *((cell_id,) for cell_id in IDS[:6])]


def test_cells_of_a_job_whose_worker_died_go_on_alone(engine: Engine) -> None:
    culprit = IDS[1]

    def dying(job: Sequence[str], connection: Connection) -> None:
        if culprit in job:
            connection.close()
        else:
            record_all(job, connection)

    made, jobs = engine(dying, lanes=5)
    outcome = made.run(IDS)
    assert sorted(outcome.recorded) == sorted(set(IDS) - {culprit})
    assert outcome.incomplete == {culprit: "its worker ended with exit code 9 (3 attempts)"}
    assert [len(job) for job in jobs if culprit in job] == [5, 1, 1]


def test_busy_recorded_and_faulty_cells_leave_the_rest_of_their_job_alone(engine: Engine, tmp_path: Path) -> None:
    Store(tmp_path).write_record(record_of(PLAN, PLAN.cells[0]))
    seen: dict[str, int] = {}

    def mixed(job: Sequence[str], connection: Connection) -> None:
        for cell_id in job:
            seen[cell_id] = seen.get(cell_id, 0) + 1
            if cell_id == IDS[1] and seen[cell_id] == 1:
                connection.send(JobResult(cell_id, "busy"))
            elif cell_id == IDS[2]:
                connection.send(JobResult(cell_id, "machine fault", "no space"))
            else:
                connection.send(JobResult(cell_id, "recorded"))
        connection.send("6 lanes did not fit")

    made, _ = engine(mixed, lanes=10)
    outcome = made.run(IDS)
    assert sorted(outcome.recorded) == sorted(set(IDS) - {IDS[2]})
    assert outcome.incomplete == {IDS[2]: "no space (3 attempts)"}
    assert seen == {cell_id: {1: 2, 2: 3}.get(index, 1) for index, cell_id in enumerate(IDS) if index}
    assert "6 lanes did not fit" in outcome.warnings


def test_without_lanes_every_cell_on_a_cpu_has_a_process_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, jobs = engine(record_all, lanes=1)
    monkeypatch.setattr(made, "_devices", ["cpu"])
    made.run(IDS)
    assert [len(job) for job in jobs] == [1] * 10


STUDY = (
    "data_scaling",
    "name=lanes",
    "data.num_train=700",
    "data.num_test=200",
    "families=[mlp]",
    "num_train=[20,256]",
    "num_validation=100",
    "replicates=2",
    "primary_pair=null",
    "budget.steps=120",
    "budget.batch_size=64",
    "recipe.tuning=null",
    "recipe.learning_rate=0.0003",
    "tracking=off",
    "engine.checkpoint_seconds=0",
    "engine.chunk_steps=5",
    "engine.workers=1",
)


def start(store: Path) -> subprocess.Popen[bytes]:
    return start_run(*STUDY, "engine.lanes=3", "--store", str(store))


def test_a_killed_group_and_two_launchers_leave_the_records_of_solo_runs(tmp_path: Path) -> None:
    grouped = start(tmp_path / "lanes")
    saved = "cells/*/checkpoint.pt.sha256"  # of the cells of one job, under way
    wait_until(lambda: len(list((tmp_path / "lanes").glob(saved))) >= 2, grouped, seconds=200)
    kill_all(grouped)
    store = Store(tmp_path / "lanes")
    plan = store.plan("lanes")
    begun = [cell_id for cell_id, state in store.states(plan).items() if state == "interrupted"]
    assert len(begun) == 2, "four cells and three lanes make two programs of two"
    assert not any(store.is_locked(cell_id) for cell_id in store.cell_ids())

    for launcher in [start(tmp_path / "lanes"), start(tmp_path / "lanes")]:
        finish(launcher)
    ours, theirs = store.records(plan), [train(cell, plan, tmp_path / "solo", EngineSpec()) for cell in plan.cells]
    assert {record.cell_id for record in ours if record.resumes} == set(begun), "no cell began anew"
    columns = ["cell_id", "branch", "steps", "train_flops", "selected", "status"]
    assert records_frame(ours)[columns].equals(records_frame(theirs)[columns])
    for mine, other in zip(ours, theirs, strict=True):
        for one, two in zip(mine.branches, other.branches, strict=True):
            assert one.test_loss == pytest.approx(two.test_loss, rel=1e-4)
    logs = [path.read_text() for path in (tmp_path / "lanes").glob("cells/*/log.txt")]
    assert [log.count("takes up") >= 1 for log in logs] == [True] * 4, "every cell has a log of its own"
    assert any("lane 2 of 2" in log for log in logs)
