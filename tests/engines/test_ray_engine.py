"""The engine `ray` against a stand-in for Ray whose actors do as a test says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planned import planned

from studies import readiness
from studies.engine_spec import EngineSpec, RaySpec
from studies.engines import make_engine, ray_engine
from studies.engines.lock_witness import check_locks, launcher_name, witness_folder
from studies.engines.ray_engine import RayEngine
from studies.engines.ray_worker import Origin
from studies.engines.worker import Assignment, JobResult
from studies.errors import StudyError
from studies.store import Store
from studies.tracking import TrackingSpec

PLAN = planned(families=("mlp",), num_train=(64,), replicates=4, primary_pair=None)
IDS = [cell.id for cell in PLAN.cells]


class _RayError(Exception):
    pass


class _Method:
    """A method of an actor: `remote` gives a reference, which is a list that holds the answer once there is one."""

    def __init__(self, answer: Any) -> None:
        self.remote = answer

    def options(self, concurrency_group: str) -> _Method:
        assert concurrency_group == ray_engine.MESSAGES
        return self


class _Actor:
    def __init__(self, prepared: Any, dies: bool = False) -> None:
        self.dies, self.waiting, self.job = dies, _Reference(), ()
        self.prepare = _Method(lambda: _Reference(prepared))
        self.messages = _Method(self._messages)
        self.run = _Method(self._run)

    def _messages(self) -> _Reference:
        self.waiting = _Reference()
        return self.waiting

    def _run(self, job: Sequence[str]) -> None:
        died = _RayError("The actor died unexpectedly before finishing this task.\n\tpid: 7\nIts node has died.")
        self.waiting.answers = [died if self.dies else [JobResult(cell_id, "recorded") for cell_id in job]]


class _Reference:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)


class _Ray:
    """As much of the module `ray` as the engine uses."""

    exceptions = SimpleNamespace(RayError=_RayError)

    def __init__(self, *actors: _Actor) -> None:
        self.actors, self.killed = list(actors), list[_Actor]()
        self.options: list[dict[str, Any]] = []
        self.witnesses = set[Path]()
        self.resources = {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        self.options.append(options)

        def with_options(**more: Any) -> Any:
            self.options.append(more)
            return SimpleNamespace(remote=begin)

        def begin(assignment: Assignment, origin: Origin) -> _Actor:
            check_locks(origin.witness.parent, living=origin.witness)  # as every actor does
            self.witnesses.add(origin.witness)
            return self.actors.pop(0)

        return lambda cls: SimpleNamespace(options=with_options)

    def wait(self, references: list[_Reference], num_returns: int = 1, timeout: float = 0) -> Any:
        return [one for one in references if one.answers], [one for one in references if not one.answers]

    def get(self, reference: _Reference) -> Any:
        if isinstance(reference.answers[0], Exception):
            raise reference.answers[0]
        return reference.answers[0]

    def kill(self, actor: _Actor) -> None:
        self.killed.append(actor)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.0}


def engine(folder: Path, monkeypatch: pytest.MonkeyPatch, ray: _Ray, **settings: Any) -> RayEngine:
    @contextlib.contextmanager
    def connected(spec: RaySpec) -> Iterator[_Ray]:
        yield ray

    monkeypatch.setattr(ray_engine, "connected", connected)
    made = make_engine(Store(folder), PLAN, RaySpec(lanes=1, **settings), TrackingSpec(kind="off"))
    assert isinstance(made, RayEngine)
    return made


def test_it_trains_every_cell_and_kills_every_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [_Actor(None), _Actor(None)]
    ray = _Ray(*actors)
    made = engine(tmp_path, monkeypatch, ray, memory_gb=1.5, environment={"HERE": "1", "OMP_NUM_THREADS": "9"})
    assert sorted(made.run(IDS).recorded) == sorted(IDS)
    assert set(actors) <= set(ray.killed)
    first, *others = ray.options
    assert (first["num_cpus"], first["memory"]) == (1, 1_500_000_000)
    assert (first["max_restarts"], first["max_task_retries"]) == (0, 0), "what is tried again is decided here"
    environment = first["runtime_env"]["env_vars"]
    assert environment["HERE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "glibc.malloc.hugetlb=1" in environment["GLIBC_TUNABLES"]
    assert set(first["runtime_env"]) == {"env_vars"}, "nothing is packed and uploaded"
    assert others == [{"num_gpus": 0}] * 2
    assert ray.witnesses == {witness_folder(made._store, PLAN.study_id) / f"{launcher_name()}.witness"}


def test_on_a_cluster_with_gpus_each_actor_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(_Actor(None))
    ray.resources = {"CPU": 8.0, "GPU": 1.0}
    assert sorted(engine(tmp_path, monkeypatch, ray).run(IDS).recorded) == sorted(IDS)
    assert ray.options[1:] == [{"num_gpus": 1}]


def test_an_actor_with_nothing_more_to_do_is_given_back_while_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _Actor(None), _Actor(None)
    jobs: list[Sequence[str]] = []
    second.run = _Method(jobs.append)
    ray, looks = _Ray(first, second), 0
    made = engine(tmp_path, monkeypatch, ray)

    def look(running: Sequence[str]) -> None:
        nonlocal looks
        looks += 1
        assert looks < 100, "an actor that nobody needs is kept"
        if first in ray.killed and jobs:
            second.waiting.answers = [[JobResult(cell_id, "recorded") for cell_id in jobs.pop()]]

    made._on_poll = look
    assert sorted(made.run(IDS[:2]).recorded) == sorted(IDS[:2])


def test_interrupted_it_waits_until_killed_actors_have_let_go_of_their_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = _Actor(None)
    never.run = _Method(lambda job: None)
    ray, locked = _Ray(never), [True, True, False]
    made = engine(tmp_path, monkeypatch, ray, workers=1)

    def interrupt(running: Sequence[str]) -> None:
        if running:
            monkeypatch.setattr(made._store, "is_locked", lambda cell_id: locked.pop(0))
            raise KeyboardInterrupt

    made._on_poll = interrupt
    with pytest.raises(KeyboardInterrupt):
        made.run(IDS)
    assert locked == []
    assert never in ray.killed


def test_actors_that_fail_to_start_now_and_then_are_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it that one has died which had started, nor how long the others take once one has."""

    def unlucky() -> list[_Actor]:
        return [_Actor(_RayError("no room in /tmp")) for _ in range(2)]

    ray = _Ray(*unlucky(), _Actor(None, dies=True), *unlucky(), _Actor(None))
    outcome = engine(tmp_path, monkeypatch, ray, workers=1, max_restarts=9).run(IDS)
    assert sorted(outcome.recorded) == sorted(IDS)
    ray = _Ray(_Actor(None), _Actor(None))
    started = engine(tmp_path / "quick", monkeypatch, ray, workers=1, start_seconds=1e-9).run(IDS)
    assert sorted(started.recorded) == sorted(IDS)


def test_a_lost_actor_is_replaced_and_its_cell_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = _Actor(None, dies=True)
    ray = _Ray(lost, _Actor(None), _Actor(None))
    outcome = engine(tmp_path, monkeypatch, ray, workers=1).run(IDS)
    assert sorted(outcome.recorded) == sorted(IDS)
    assert lost in ray.killed, "it may only have been out of reach"


def test_a_cell_whose_actors_die_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(*(_Actor(None, dies=True) for _ in range(2)))
    outcome = engine(tmp_path, monkeypatch, ray, workers=1, max_restarts=1).run(IDS[:1])
    assert outcome.incomplete == {IDS[0]: "its worker died: Its node has died. (2 attempts)"}


def test_an_unfit_node_ends_the_study_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [_Actor("node n7: the file system keeps locks to each machine"), _Actor(None)]
    ray = _Ray(*actors)
    with pytest.raises(StudyError, match="node n7: the file system keeps locks"):
        engine(tmp_path, monkeypatch, ray).run(IDS)
    assert set(actors) <= set(ray.killed)


def test_actors_that_cannot_start_are_not_replaced_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(*(_Actor(_RayError("ModuleNotFoundError: No module named 'studies'")) for _ in range(9)))
    with pytest.raises(StudyError, match=r"installed on every node.*No module named 'studies'"):
        engine(tmp_path, monkeypatch, ray).run(IDS)
    assert len(ray.actors) >= 5


def test_a_cluster_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = _Actor(None)
    never.prepare = _Method(_Reference)
    ray = _Ray(never)
    with pytest.raises(StudyError, match=r"start_seconds.*has 2 CPU, 0 GPU, free are 0 CPU"):
        engine(tmp_path, monkeypatch, ray, workers=1, start_seconds=0.01).run(IDS)
    assert never in ray.killed


def test_a_cluster_that_goes_away_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(_Actor(None), _Actor(None))

    def gone(*arguments: Any, **rest: Any) -> Any:
        raise _RayError("GCS is unavailable")

    def too_late(actor: _Actor) -> None:
        raise ValueError("Ray has not been started")

    monkeypatch.setattr(ray, "wait", gone)
    monkeypatch.setattr(ray, "kill", too_late)
    with pytest.raises(StudyError, match=r"GCS is unavailable; continue with the same command"):
        engine(tmp_path, monkeypatch, ray).run(IDS)


def test_what_an_actors_machine_can_do_is_not_asked_of_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(readiness, "check_precision", lambda precision, device: asked.append(device))
    monkeypatch.setattr(readiness, "worker_devices", lambda settings: ["cuda:0"] * 3)
    assert readiness.check_machine(PLAN, RaySpec(), Store(tmp_path)) == ["cuda:0"] * 3
    assert asked == []
    readiness.check_machine(PLAN, EngineSpec(), Store(tmp_path))
    assert asked == ["cuda:0"]
    assert RaySpec(device="cuda").here == EngineSpec(), "few-shot evaluations need no GPU on the launcher's machine"
