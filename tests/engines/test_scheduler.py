"""Dealing out cells, with workers that are no processes but do as a test says, and come when it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from planned import planned

from studies.engine_spec import EngineSpec
from studies.engines import Outcome, scheduler
from studies.engines.scheduler import Death, Scheduler, WorkerHandle
from studies.engines.worker import JobResult
from studies.stopping import Stopped
from studies.store import Store
from studies.tracking import TrackingSpec

PLAN = planned(families=("mlp",), num_train=(64,), replicates=4, primary_pair=None)
IDS = [cell.id for cell in PLAN.cells]


@dataclass
class _Fake(WorkerHandle):
    number: int = 0
    jobs: list[tuple[str, ...]] = field(default_factory=list)
    ended: bool = False


class _FakeEngine(Scheduler[_Fake, EngineSpec]):
    """Workers come when they are `let_in`, and record one cell per look."""

    def __init__(
        self,
        folder: Path,
        num_workers: int = 2,
        let_in: Sequence[int] = range(99),
        lanes: int | Literal["auto"] = 1,
        max_attempts: int = scheduler.MAX_ATTEMPTS,
    ) -> None:
        settings = EngineSpec(lanes=lanes)
        plan, off = PLAN, TrackingSpec(kind="off")
        super().__init__(Store(folder), plan, settings, off)
        self.num_workers, self.attempts = num_workers, max_attempts
        self.started: list[_Fake] = []
        self.let_in, self.looks = set(let_in), 0
        self.fates: dict[str, list[str]] = {}  # what becomes of a cell at its next attempts, instead of a record

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        return self._deal(cell_ids, ["cpu"] * self.num_workers, self.attempts)

    def _start_worker(self, device: str) -> _Fake:
        self.started.append(_Fake(device, number=len(self.started)))
        self.started[-1].ready = False
        return self.started[-1]

    def _send(self, worker: _Fake, job: tuple[str, ...]) -> None:
        assert worker.ready
        assert not worker.ended
        worker.jobs.append(job)

    def _receive(self, workers: Sequence[_Fake]) -> Iterator[tuple[_Fake, JobResult | str | Death]]:
        self.looks += 1
        for worker in workers:
            if not worker.ready:
                worker.ready = worker.number in self.let_in
            elif worker.job:
                cell_id = worker.job[0]
                fate = self.fates[cell_id].pop(0) if self.fates.get(cell_id) else "recorded"
                if fate != "still training":
                    yield worker, Death("died") if fate == "died" else JobResult(cell_id, fate, "why")  # type: ignore[arg-type]

    def _stays(self, worker: _Fake, *, more: bool) -> bool:
        return more

    def _end(self, worker: _Fake) -> None:
        worker.ended = True

    def _kill(self, workers: Sequence[_Fake]) -> None:
        for worker in workers:
            worker.ended = True


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "BUSY_SECONDS", 0.0)


def test_who_is_on_the_way_holds_no_cell_up(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=9, let_in=[1])
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert len(engine.started) == 4, "nobody else is asked for while some are on their way"
    assert [len(worker.jobs) for worker in engine.started] == [0, 4, 0, 0]
    assert all(worker.ended for worker in engine.started)


def test_no_more_workers_are_asked_for_than_there_are_jobs(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=9)
    engine.run(IDS)
    assert len(engine.started) == len(IDS)


def test_who_has_nothing_more_to_do_ends_before_the_others(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path)
    engine.fates = {IDS[0]: ["still training"] * 6}
    ended: list[list[bool]] = []
    engine._on_poll = lambda running: ended.append([worker.ended for worker in engine.started])
    engine.run(IDS)
    assert [worker.jobs for worker in engine.started] == [[(IDS[0],)], [(cell_id,) for cell_id in IDS[1:]]]
    assert ended[-2] == [False, True]


def test_cells_of_the_dead_are_tried_again_as_often_as_told(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, max_attempts=2)
    engine.fates = {IDS[0]: ["died"], IDS[1]: ["died", "machine fault"]}
    outcome = engine.run(IDS)
    assert sorted(outcome.recorded) == sorted({*IDS} - {IDS[1]})
    assert outcome.incomplete == {IDS[1]: "why (2 attempts)"}
    assert len(engine.started) == 4, "each of the dead is replaced"


def test_cells_that_a_worker_gives_back_are_the_next_to_be_trained(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=1, lanes=2)
    engine.fates = {IDS[0]: ["returned"]}
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert engine.started[0].jobs == [(IDS[0], IDS[1]), (IDS[0], IDS[2]), (IDS[3],)]


def test_cells_that_another_launcher_has_are_asked_for_last(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=1)
    engine.fates = {IDS[0]: ["busy"]}
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert engine.started[0].jobs == [(cell_id,) for cell_id in [*IDS, IDS[0]]]


def test_a_cell_that_another_launcher_has_is_left_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(scheduler, "BUSY_SECONDS", 10.0)
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=lambda: now, sleep=lambda seconds: None))
    engine = _FakeEngine(tmp_path, num_workers=1)
    engine.fates = {IDS[0]: ["busy"]}

    def turn(running: Sequence[str]) -> None:
        nonlocal now
        now += 1.0

    engine._on_poll = turn
    engine._stays = lambda worker, more: True  # type: ignore[method-assign]
    assert sorted(engine.run(IDS[:2]).recorded) == sorted(IDS[:2])
    assert engine.started[0].jobs == [(IDS[0],), (IDS[1],), (IDS[0],)]
    assert now >= 10.0


def test_cells_that_have_a_record_by_now_are_trained_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _FakeEngine(tmp_path)
    monkeypatch.setattr(engine._store, "state", lambda cell_id: "failed" if cell_id == IDS[0] else "waiting")
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert (IDS[0],) not in [job for worker in engine.started for job in worker.jobs]


def test_as_many_lanes_as_a_worker_has_measured(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=1, lanes="auto")
    engine.fates = {IDS[0]: ["returned"]}
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert [len(job) for job in engine.started[0].jobs] == [2, 1, 1, 1]


def test_asked_to_stop_workers_save_before_they_are_killed(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path)
    saved: list[bool] = []

    def stop(running: Sequence[str]) -> None:
        raise Stopped

    engine._on_poll = stop
    engine._let_save = lambda workers: saved.extend(worker.ended for worker in workers)  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        engine.run(IDS)
    assert saved == [False, False]
    assert all(worker.ended for worker in engine.started)


def test_of_the_lanes_of_a_job_whose_worker_died_each_is_tried_alone(tmp_path: Path) -> None:
    engine = _FakeEngine(tmp_path, num_workers=1, lanes=2)
    engine.fates = {IDS[0]: ["died"]}
    assert sorted(engine.run(IDS).recorded) == sorted(IDS)
    assert [job for worker in engine.started for job in worker.jobs] == [
        (IDS[0], IDS[1]),
        (IDS[2], IDS[3]),
        (IDS[0],),
        (IDS[1],),
    ]


def test_who_dies_once_the_record_is_there_costs_no_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _FakeEngine(tmp_path, max_attempts=1)
    engine.fates = {IDS[0]: ["died"]}

    def state(cell_id: str) -> str:
        was_sent = any((cell_id,) in worker.jobs for worker in engine.started)
        return "finished" if cell_id == IDS[0] and was_sent else "waiting"

    monkeypatch.setattr(engine._store, "state", state)
    outcome = engine.run(IDS)
    assert outcome.incomplete == {}
    assert sorted(outcome.recorded) == sorted(IDS)
