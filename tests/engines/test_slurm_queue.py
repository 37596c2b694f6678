"""What Slurm's commands print is read as it is meant, and a queue that does not answer is no empty queue."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from studies.engines import slurm_queue
from studies.engines.slurm_queue import (
    FORGOTTEN,
    JobState,
    QueueError,
    cancel,
    job_states,
    jobs_named,
    recorded_states,
    told_state,
    unusual_waits,
)

Answer = Callable[..., list[list[str]]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Has every command print something, and gives the commands that were run."""

    def prepared(output: str, error: str = "", code: int = 0) -> list[list[str]]:
        asked: list[list[str]] = []

        def run(command: tuple[str, ...], **rest: Any) -> subprocess.CompletedProcess[str]:
            asked.append(list(command))
            return subprocess.CompletedProcess(command, code, output, error)

        monkeypatch.setattr(subprocess, "run", run)
        return asked

    return prepared


def test_the_jobs_of_an_array(answers: Answer) -> None:
    asked = answers("12_0|RUNNING|None|node1\n12_1|PENDING|Resources|\n\n")
    assert job_states("12") == {"12_0": JobState("RUNNING", "None", "node1"), "12_1": JobState("PENDING", "Resources")}
    assert asked == [["squeue", "--noheader", "--array", "--states=all", "--jobs=12", "--format=%i|%T|%r|%N"]]


def test_an_array_that_the_queue_has_forgotten_has_no_jobs(answers: Answer) -> None:
    answers("", "slurm_load_jobs error: Invalid job id specified", 1)
    assert job_states("12") == {}


def test_a_controller_that_does_not_answer_is_not_taken_for_an_empty_queue(
    answers: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers("", "Unable to contact slurm controller", 1)
    for ask in (job_states, jobs_named, cancel):
        with pytest.raises(QueueError, match="Unable to contact slurm controller"):
            ask("12")
    answers("", "", 3)
    with pytest.raises(QueueError, match="scancel: it ended with exit code 3"):
        cancel("12")

    def hangs(command: tuple[str, ...], **rest: Any) -> None:
        raise subprocess.TimeoutExpired(command, rest["timeout"])

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(QueueError, match="squeue has not answered for 60 s"):
        job_states("12")


def test_an_array_by_its_name_in_the_order_of_its_tasks(answers: Answer) -> None:
    asked = answers("12_10|PENDING|None|\n12_2|PENDING|None|\n12_0|CANCELLED|None|\n")
    assert jobs_named("study-x") == ["12_0", "12_2", "12_10"]
    assert "--name=study-x" in asked[0]
    answers("12|RUNNING|None|node1\n")
    assert jobs_named("study-x") == ["12"]
    answers("")
    assert jobs_named("study-x") == []


def test_the_accounting_knows_who_cancelled_a_job_and_may_not_be_there(answers: Answer) -> None:
    answers("12_0|CANCELLED by 1000|None|node1\n12_1|OUT_OF_MEMORY|None|node2\n")
    assert {job: state.name for job, state in recorded_states("12").items()} == {
        "12_0": "CANCELLED",
        "12_1": "OUT_OF_MEMORY",
    }
    answers("", "Slurm accounting storage is disabled", 1)
    assert recorded_states("12") == {}


def test_only_what_waits_is_withdrawn(answers: Answer) -> None:
    asked = answers("")
    cancel("12", only_waiting=True)
    cancel("12")
    assert asked == [["scancel", "--state=PENDING", "12"], ["scancel", "12"]]


@pytest.mark.parametrize("name", ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"])
def test_what_has_ended_is_over(name: str) -> None:
    assert JobState(name).is_over


@pytest.mark.parametrize("name", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING"])
def test_what_may_still_train_is_not_over(name: str) -> None:
    assert not JobState(name).is_over


def test_who_is_forgotten_is_over() -> None:
    assert FORGOTTEN.is_over


def test_a_state_in_words() -> None:
    assert (
        told_state("12_3", JobState("FAILED", "NonZeroExitCode", "n7")) == "task 12_3: FAILED (NonZeroExitCode) on n7"
    )
    assert told_state("12_3", JobState("TIMEOUT", "None")) == "task 12_3: TIMEOUT"


def test_of_those_who_wait_for_more_than_their_turn_one_is_named_for_each_reason() -> None:
    states = {
        "12_0": JobState("PENDING", "Priority"),
        "12_1": JobState("PENDING", "QOSMaxJobsPerUserLimit"),
        "12_2": JobState("PENDING", "QOSMaxJobsPerUserLimit"),
        "12_3": JobState("RUNNING", "ReqNodeNotAvail"),
        "12_4": JobState("REQUEUE_HOLD", "launch failed requeued held"),
    }
    assert unusual_waits(states) == {"QOSMaxJobsPerUserLimit": "12_1", "launch failed requeued held": "12_4"}


def test_a_machine_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(QueueError, match="squeue was not found: is this a machine of a Slurm cluster"):
        slurm_queue.job_states("12")
