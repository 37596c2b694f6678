"""A worker that is asked to end saves its cells, wherever the signal finds it, and nothing is trained twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training import tiny_plan, train

from studies import stopping
from studies.checkpoint import load_checkpoint
from studies.course import CellCourse
from studies.engine_spec import EngineSpec
from studies.records import DETERMINISTIC_COLUMNS, Record, records_frame
from studies.stopping import SIGNALS, Stopped
from studies.store import Store
from studies.train import study_trainer

SELDOM = EngineSpec(chunk_steps=3, checkpoint_seconds=3600, lanes=1)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(stopping, "_asked", False)
    stopping.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def deterministic(record: Record) -> dict[str, Any]:
    return records_frame([record])[list(DETERMINISTIC_COLUMNS)].to_dict("records")[0]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("place", ["take", "tell", "end_segment"])
def test_it_saves_first(
    number: int, place: str, listening: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a chunk, between two (where Lightning has a word for TERM), and at the end of a segment."""
    plan = tiny_plan()
    (cell,) = plan.cells
    take, taken, calls = CellCourse.take, [0], 0

    def counted(self: CellCourse, *arguments: Any) -> None:
        take(self, *arguments)
        taken.append(self.executed)

    monkeypatch.setattr(CellCourse, "take", counted)
    method = getattr(CellCourse, place)

    def asked(self: CellCourse, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), number)
        method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CellCourse, place, asked)
        with pytest.raises(Stopped):
            train(cell, plan, tmp_path / "stopped", SELDOM)
    saved = load_checkpoint(Store(tmp_path / "stopped").cell_folder(cell.id) / "checkpoint.pt")
    assert 0 < saved["executed"] == taken[-1], "steps that it had taken are lost"

    monkeypatch.setattr(stopping, "_asked", False)
    resumed = train(cell, plan, tmp_path / "stopped", SELDOM)
    assert resumed.resumes == 1
    assert deterministic(resumed) == deterministic(train(cell, plan, tmp_path / "undisturbed", SELDOM))


def test_a_trainer_within_a_job_of_slurm_looks_for_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would make of these variables that four processes train one network, and requeue the job by itself."""
    told = {"NTASKS": "4", "JOB_ID": "12", "PROCID": "3", "LOCALID": "3", "NODEID": "1", "JOB_NAME": "study"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = study_trainer("cpu", EngineSpec())
    assert (trainer.world_size, trainer.global_rank, trainer.node_rank) == (1, 0, 0)
    assert type(trainer._accelerator_connector.cluster_environment).__name__ == "TeamEnvironment"
