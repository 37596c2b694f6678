"""What the launcher makes of what the queue and the jobs' reports say, whatever either has forgotten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from planned import finish
from slurm_launcher import PLAN, engine, run_all

from studies.engines import slurm
from studies.engines.slurm_array import Array
from studies.engines.slurm_queue import JobState, QueueError
from studies.engines.slurm_task import TaskReport, report_path, slurm_folder
from studies.store import Store

RUNNING, FAILED, DONE = JobState("RUNNING"), JobState("FAILED", "NonZeroExitCode", "n7"), JobState("COMPLETED", "None")
WHY = "its task ended without training it; the same command continues"
Answers = list[dict[str, JobState] | QueueError]


@pytest.fixture(autouse=True)
def no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of Slurm, and nobody waits."""
    monkeypatch.setattr(slurm, "check_slurm", lambda store: None)
    monkeypatch.setattr(slurm, "recorded_states", lambda array_id: {})
    monkeypatch.setattr(slurm, "cancel", lambda *given, **rest: pytest.fail("cancelled"))
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)


def submitted(store: Store, answers: Answers, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    """An engine whose array 12 of two jobs is submitted; the queue answers so, at every look."""
    made = engine(store, **settings)
    made._settings = made._settings.model_copy(update={"poll_seconds": 0.0})
    made._array.found_or_submitted = lambda task: (Array("12", ("12_0", "12_1")), True)

    def states(array_id: str) -> dict[str, JobState]:
        answer = answers.pop(0)
        if isinstance(answer, QueueError):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "job_states", states)
    return made


def report(store: Store, job_id: str, **changes: Any) -> None:
    content = asdict(TaskReport("n7", "", {}, (), 0)) | changes
    path = report_path(slurm_folder(store, PLAN.study_id), job_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_jobs_that_the_queue_has_forgotten_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before this launcher came, of whom there is a report; one since, of whom there is none."""
    report(Store(tmp_path), "12_0")
    outcome = run_all(submitted(Store(tmp_path), [{"12_1": RUNNING}, {}], monkeypatch))
    assert len(outcome.incomplete) == len(PLAN.cells)
    (told,) = outcome.warnings
    assert told.startswith("task 12_1: ENDED (forgotten by the queue); it left no 12_1_0_log.err: do all nodes see")


def test_what_the_accounting_knows_of_a_forgotten_job_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "recorded_states", lambda array_id: {"12_0": FAILED, "12_1": RUNNING})
    outcome = run_all(submitted(Store(tmp_path), [{"12_1": RUNNING}, {}], monkeypatch))
    assert [line.partition(";")[0] for line in outcome.warnings] == [
        "task 12_0: FAILED (NonZeroExitCode) on n7",
        "task 12_1: ENDED (forgotten by the queue)",  # the accounting is late
    ]


def test_what_the_queue_says_of_a_job_now_goes_before_how_it_ended_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was requeued after its node failed has ended for the accounting, and runs."""
    monkeypatch.setattr(slurm, "recorded_states", lambda array_id: {"12_0": FAILED, "12_1": DONE})
    answers: Answers = [{"12_0": RUNNING}, {"12_0": DONE, "12_1": DONE}]
    outcome = run_all(submitted(Store(tmp_path), answers, monkeypatch))
    assert answers == [], "it was given up while it ran"
    assert outcome.warnings == []


def test_how_a_job_ended_is_not_forgotten_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Answers = [{"12_0": FAILED, "12_1": RUNNING}, {"12_1": RUNNING}, {"12_1": DONE}]
    outcome = run_all(submitted(Store(tmp_path), answers, monkeypatch))
    assert [line.partition(";")[0] for line in outcome.warnings] == ["task 12_0: FAILED (NonZeroExitCode) on n7"]


def test_a_queue_that_cannot_be_asked_for_a_while_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Answers = [QueueError("squeue: no contact"), {"12_0": DONE, "12_1": DONE}]
    outcome = run_all(submitted(Store(tmp_path), answers, monkeypatch))
    assert outcome.warnings == ["Slurm could not be asked for a while: squeue: no contact"]
    assert outcome.incomplete == dict.fromkeys((cell.id for cell in PLAN.cells), WHY)


def test_what_jobs_report_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (first, second) = Store(tmp_path), (cell.id for cell in PLAN.cells[:2])
    report(store, "12_0", incomplete={first: "its worker died"}, warnings=["beware"], restarts=2)
    report(store, "12_1", refused="no such precision")
    outcome = run_all(submitted(store, [{"12_0": DONE, "12_1": FAILED}], monkeypatch))
    refused = "task 12_1 on n7 could not begin: no such precision"
    assert outcome.warnings == ["beware", "task 12_0 was requeued 2 times", refused]
    assert (outcome.incomplete[first], outcome.incomplete[second]) == ("its worker died", refused)


def test_a_job_that_says_in_its_log_why_it_was_lost_is_not_taken_for_a_folder_that_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = slurm_folder(Store(tmp_path), PLAN.study_id)
    folder.mkdir(parents=True)
    (folder / "12_0_0_log.err").touch()
    report_path(folder, "12_0").write_text("{")  # cut off
    outcome = run_all(submitted(Store(tmp_path), [{"12_0": FAILED, "12_1": DONE}], monkeypatch))
    assert outcome.warnings == [f"task 12_0: FAILED (NonZeroExitCode) on n7; see {folder / '12_0_0_log.err'}"]


def test_once_all_is_recorded_the_queue_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, withdrawn = Store(tmp_path), list[tuple[Any, Any]]()
    monkeypatch.setattr(slurm, "cancel", lambda array_id, only_waiting: withdrawn.append((array_id, only_waiting)))

    def done(running: Sequence[str]) -> None:
        finish(store, PLAN)

    outcome = run_all(submitted(store, [{"12_0": RUNNING, "12_1": JobState("PENDING")}], monkeypatch, on_poll=done))
    assert outcome.recorded == [cell.id for cell in PLAN.cells]
    assert outcome.incomplete == {}
    assert withdrawn == [("12", True)], "those that run end by themselves"


def test_a_reason_for_waiting_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {"12_0": JobState("PENDING", "QOSMaxJobsPerUserLimit"), "12_1": JobState("PENDING", "Priority")}
    made = submitted(Store(tmp_path), [waits, waits, {"12_0": DONE, "12_1": DONE}], monkeypatch)
    run_all(made)
    assert made.told == [
        "Slurm task 12_0 waits: QOSMaxJobsPerUserLimit; where that cannot pass, Ctrl-C withdraws the array"
    ]


def test_after_an_array_of_another_launcher_cells_that_are_left_get_one_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not repeated: what its jobs leave is left."""
    made = submitted(Store(tmp_path), [{"12_0": FAILED, "12_1": DONE}, {"13_0": DONE}], monkeypatch)
    arrays = [(Array("12", ("12_0", "12_1")), False), (Array("13", ("13_0",)), True)]
    made._array.found_or_submitted = lambda task: arrays.pop(0)
    outcome = run_all(made)
    assert arrays == []
    assert set(outcome.incomplete.values()) == {WHY}
    assert outcome.warnings[0].startswith("task 12_0: FAILED")
