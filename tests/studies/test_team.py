"""One cell on several devices is the cell on one: same weights, same books, one record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import members, wait_until
from pydantic import ValidationError
from training import tiny_plan, train

from models.checkpoints import read_weights
from studies.checkpoint import load_latest
from studies.engine_spec import EngineSpec
from studies.engines import local
from studies.engines.local import devices
from studies.errors import ConfigError
from studies.grid import Plan
from studies.records import Record
from studies.store import Store
from studies.team import Rank, check_team

ALONE = EngineSpec(keep_checkpoints=True, checkpoint_seconds=0)
TOGETHER = EngineSpec(keep_checkpoints=True, checkpoint_seconds=0, devices_per_cell=2, chunk_steps=7)


@pytest.fixture(scope="module")
def plan() -> Plan:
    budget = {"steps": 40, "batch_size": 16, "branches": [0.25, 1.0]}
    return tiny_plan(families=["vit"], budget=budget, allow_unequal_flops=True)


@pytest.fixture(scope="module")
def alone(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return train(plan.cells[0], plan, folder, ALONE), folder


@pytest.fixture(scope="module")
def together(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("together")
    return train(plan.cells[0], plan, folder, TOGETHER), folder


def without_key_bias(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Softmax ignores the bias of keys: its gradient is rounding alone, which AdamW blows up to the learning rate."""
    if not name.endswith("qkv.bias"):
        return weight
    queries, _, values = weight.chunk(3)
    return torch.cat([queries, values])


def assert_same_training(one: tuple[Record, Path], other: tuple[Record, Path]) -> None:
    cell_id = one[0].cell_id
    for branch in one[0].branches:
        weights = [
            read_weights(Store(folder).weights_path(cell_id, branch.fraction)).state for _, folder in (one, other)
        ]
        assert weights[0].keys() == weights[1].keys()
        for name, expected in weights[0].items():
            ours, theirs = (without_key_bias(name, one) for one in (weights[1][name], expected))
            assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm()), name
    for ours, theirs in zip(one[0].train_losses, other[0].train_losses, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)


def test_two_processes_train_to_the_weights_of_one(alone: tuple[Record, Path], together: tuple[Record, Path]) -> None:
    assert_same_training(alone, together)


def test_the_books_count_the_images_of_all_processes(
    plan: Plan, alone: tuple[Record, Path], together: tuple[Record, Path]
) -> None:
    ours, theirs = together[0], alone[0]
    assert ours.status == "finished"
    assert ours.executed_train_flops == ours.planned_train_flops == theirs.executed_train_flops
    assert [branch.examples for branch in ours.branches] == [branch.examples for branch in theirs.branches]


def test_one_record_is_left_and_nothing_else(plan: Plan, together: tuple[Record, Path]) -> None:
    folder = Store(together[1]).cell_folder(plan.cells[0].id)
    names = {"record.json", "predictions.npz"}
    names |= {f"weights-{fraction}.pt{digest}" for fraction in ("0.25", "1") for digest in ("", ".sha256")}
    assert {path.name for path in folder.iterdir()} == names
    assert not torch.distributed.is_initialized()


def test_a_killed_team_leaves_nobody_behind_but_a_whole_checkpoint(tmp_path: Path) -> None:
    """A leader killed with -9 takes the others along."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from training import tiny_plan, train
from test_team import TOGETHER
if __name__ == "__main__":
    budget = {{"steps": 40000, "batch_size": 16, "branches": [1.0]}}
    plan = tiny_plan(families=["vit"], budget=budget, allow_unequal_flops=True)
    train(plan.cells[0], plan, Path({str(tmp_path)!r}), TOGETHER)
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    process = subprocess.Popen([sys.executable, str(path)], start_new_session=True)
    try:
        wait_until(lambda: bool(list(tmp_path.rglob("checkpoint.pt.sha256"))), process)  # a whole pair
        assert len(members(process.pid)) >= 2, "another process helps"
        process.kill()
        process.wait()
        wait_until(lambda: not members(process.pid), seconds=30)  # the other process does not stay behind
    finally:
        for member in members(process.pid):
            os.kill(member, signal.SIGKILL)
        process.wait()
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    state = load_latest(checkpoint)
    assert state is not None
    assert state["total_examples"] == 16 * state["executed"] > 0


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mlp", {"devices_per_cell": 3}, "devices_per_cell: 3 devices cannot share a batch of 16 .* divisor of budget"),
        ("resnet", {"devices_per_cell": 2}, "resnet nano has batch norm.* expected 1 on a CPU, or a form without it"),
    ],
)
def test_what_cannot_be_shared_is_refused(family: str, changes: dict[str, int], message: str) -> None:
    cells = tiny_plan(families=[family], allow_unequal_flops=True).cells
    with pytest.raises(ConfigError, match=message):
        check_team(cells, EngineSpec.model_validate(changes), "cpu")
    check_team(cells, EngineSpec(), "cpu")


def test_batch_norm_is_shared_on_gpus_unless_it_is_of_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tiny_plan(families=["resnet"], allow_unequal_flops=True).cells
    check_team(cells, TOGETHER, "cuda:0")

    class Special(torch.nn.BatchNorm2d):
        pass

    monkeypatch.setattr("studies.team.initial_network", lambda cell: torch.nn.Sequential(Special(3)))
    with pytest.raises(ConfigError, match=r"batch norm of its own kind \(Special\).*expected 1"):
        check_team(cells, TOGETHER, "cuda:0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "ddp"}, "strategy ddp is for several devices per cell"),
        ({"strategy": "ddp_spawn", "devices_per_cell": 2}, "strategy"),
        ({"strategy": "fsdp", "devices_per_cell": 2}, "Input should be 'auto', 'ddp'"),
        ({"devices_per_cell": 0}, "greater than 0"),
        ({"devices_per_cell": 2, "lanes": 4}, "lanes 4 share one device and devices_per_cell 2 splits a cell"),
        ({"devices_per_cell": 2, "compile": True}, "compile true is for programs on one device and devices_per_cell 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineSpec.model_validate(changes)


def test_workers_take_whole_sets_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_num_gpus", lambda: 5)
    assert devices(EngineSpec(devices_per_cell=2)) == ["cuda:0", "cuda:2"]
    assert devices(EngineSpec(devices_per_cell=2, workers=1)) == ["cuda:0"]
    assert devices(EngineSpec(devices_per_cell=5)) == ["cuda:0"]
    for refused in ({"devices_per_cell": 6}, {"devices_per_cell": 2, "workers": 3}):
        with pytest.raises(ConfigError, match=r"devices_per_cell: .* this machine has 5; expected"):
            devices(EngineSpec.model_validate(refused))
    monkeypatch.setattr(local, "_num_gpus", lambda: 0)
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: range(5))
    assert devices(EngineSpec(devices_per_cell=2)) == ["cpu", "cpu"]
    assert devices(EngineSpec(devices_per_cell=9)) == ["cpu"]


def test_a_rank_knows_its_gpu() -> None:
    assert [Rank(number, 2).device("cuda:4") for number in range(2)] == ["cuda:4", "cuda:5"]
    assert Rank(1, 2).device("cuda") == "cuda:1"
    assert Rank(1, 2).device("cpu") == "cpu"
