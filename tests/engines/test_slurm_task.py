"""A task on a node ends as it is asked to, tells what came of it, and is requeued only where it has to be."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from planned import DIAL, planned

from studies.engine_spec import EngineSpec
from studies.engines import Outcome, slurm_task
from studies.engines.lock_witness import witness_folder
from studies.engines.slurm_task import SlurmTask, read_report, report_path, slurm_folder
from studies.errors import StoreError, StudyError
from studies.slurm_spec import SlurmSpec
from studies.stopping import SIGNALS, Stopped
from studies.store import Store
from studies.tracking import TrackingSpec

PLAN = planned()


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What submitit does at USR2, which is to have the job requeued; handlers are put back afterwards."""
    told: list[int] = []

    def as_submitit(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise SystemExit(0)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGUSR2, as_submitit)
    monkeypatch.setattr(slurm_task, "GRACE_SECONDS", 0.0)
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmTask:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    Store(tmp_path).lock_plan(PLAN)
    return SlurmTask(
        store=str(tmp_path),
        study_id=PLAN.study_id,
        cell_ids=tuple(cell.id for cell in PLAN.cells),
        data=json.dumps(DIAL | {"flipped_positions": 3}),
        settings=SlurmSpec(cpus_per_task=3, chunk_steps=7).model_dump_json(),
        tracking=TrackingSpec(kind="off").model_dump_json(),
    )


def does(monkeypatch: pytest.MonkeyPatch, run: Callable[[Sequence[str]], Outcome]) -> list[tuple[Any, ...]]:
    """Has the engine of the task do this; gives what it was made of."""
    made: list[tuple[Any, ...]] = []

    class Engine:
        def __init__(self, *given: Any) -> None:
            made.append(given)

        def run(self, cell_ids: Sequence[str]) -> Outcome:
            return run(cell_ids)

    monkeypatch.setattr(slurm_task, "LocalEngine", Engine)
    for name in ("check_node", "prepare_data"):
        monkeypatch.setattr(slurm_task, name, lambda *given: None)
    return made


def told(task: SlurmTask) -> Any:
    return read_report(slurm_folder(Store(task.store), task.study_id), "7")


def test_it_trains_the_cells_with_what_slurm_gave_it_and_tells_what_came_of_it(
    task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def run(cell_ids: Sequence[str]) -> Outcome:
        trained.extend(cell_ids)
        (own,) = witness_folder(Store(task.store), task.study_id).glob("*.witness")
        assert own.name == "task-7.witness"
        return Outcome([], {"0a": "its worker died"}, ["beware"])

    ((_, plan, settings, tracking),) = (made := does(monkeypatch, run), task(), made)[-1]
    assert trained == list(task.cell_ids)
    assert plan.spec.data.model_dump()["flipped_positions"] == 3, "the data lie where the launcher found them"
    assert settings == EngineSpec(workers=3, device="cpu", chunk_steps=7), "GPUs that Slurm did not give"
    assert tracking == TrackingSpec(kind="off")
    assert (told(task).incomplete, told(task).warnings) == ({"0a": "its worker died"}, ("beware",))
    assert (told(task).restarts, told(task).refused) == (2, "")
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * len(SIGNALS)
    assert requeued == []


def test_gpus_that_slurm_gave_are_used(task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    made = does(monkeypatch, lambda cell_ids: Outcome())
    task()
    assert made[0][2].device == "auto"


def asked(*numbers: int) -> Callable[[Sequence[str]], Outcome]:
    """Signals that come one after the other; while the first is obeyed the others disturb nothing."""

    def run(cell_ids: Sequence[str]) -> Outcome:
        first, *others = numbers
        with pytest.raises(Stopped):
            signal.raise_signal(first)
        for number in others:
            signal.raise_signal(number)
        raise Stopped

    return run


@pytest.mark.parametrize(
    "numbers", [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2], [signal.SIGUSR2, signal.SIGTERM]]
)
def test_by_usr2_it_is_requeued(
    numbers: list[int],
    task: SlurmTask,
    requeued: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    does(monkeypatch, asked(*numbers))
    with pytest.raises(SystemExit) as ended:
        task()
    assert requeued == [signal.SIGUSR2]
    assert ended.value.code == 0
    assert "cells are saved" in capsys.readouterr().err
    assert told(task) is None, "it is not done"


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_by_term_it_is_gone(
    numbers: list[int], task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    does(monkeypatch, asked(*numbers))
    with pytest.raises(SystemExit) as ended:
        task()
    assert (requeued, ended.value.code) == ([], 128 + signal.SIGTERM)


def test_after_term_usr2_is_waited_for(task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_task, "GRACE_SECONDS", 600.0)
    monkeypatch.setattr(slurm_task.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGUSR2))
    does(monkeypatch, asked(signal.SIGTERM))
    with pytest.raises(SystemExit):
        task()
    assert requeued == [signal.SIGUSR2]


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_once_requeued_it_does_the_same(task: SlurmTask) -> None:
    again = task.checkpoint()
    assert again.function is task
    assert (again.args, again.kwargs) == ((), {})


def test_a_node_that_cannot_do_it_says_so_and_forgets_what_it_told_before(
    task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    does(monkeypatch, lambda cell_ids: Outcome())
    task()
    assert told(task).refused == ""

    def unfit(*given: Any) -> None:
        assert told(task) is None, "what it told before it was started again"
        raise StudyError("no such precision here")

    monkeypatch.setattr(slurm_task, "check_node", unfit)
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == slurm_task.CANNOT_RUN
    assert told(task).refused == "no such precision here"
    assert "error: no such precision here" in capsys.readouterr().err
    assert requeued == []


def test_a_node_that_does_not_see_locks_trains_nothing(
    task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(folder: Path, own: Path) -> None:
        assert own.parent == folder
        raise StoreError("launcher-n7-12 is alive and holds a lock")

    made = does(monkeypatch, lambda cell_ids: Outcome())
    monkeypatch.setattr(slurm_task, "check_locks", unseen)
    with pytest.raises(SystemExit):
        task()
    assert made == []
    assert "launcher-n7-12 is alive" in told(task).refused


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"warnings": 3}', '{"warnings": [], "node": "n7"}'])
def test_a_report_that_is_none_is_told(content: str, tmp_path: Path) -> None:
    report_path(tmp_path, "7").write_text(content)
    with pytest.raises(StoreError, match=r"7_report.json is no report of a task"):
        read_report(tmp_path, "7")
    assert read_report(tmp_path, "8") is None


def test_a_task_of_an_array_reports_under_its_name(
    task: SlurmTask, requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    does(monkeypatch, lambda cell_ids: Outcome())
    task()
    assert read_report(slurm_folder(Store(task.store), task.study_id), "12_3") is not None
