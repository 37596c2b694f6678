"""The local engine, with real processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import finish, kill_all, members, start_run, wait_until

from studies import running
from studies.compose import compose_study
from studies.records import DETERMINISTIC_COLUMNS, records_frame
from studies.store import Store

STUDY = (
    "data_scaling",
    "name=killed",
    "data.num_train=1200",
    "data.num_test=500",
    "families=[mlp,resnet]",
    "num_train=[64,256]",
    "num_validation=100",
    "replicates=1",
    "primary_pair=null",
    "budget.steps=240",
    "budget.batch_size=64",
    "recipe.tuning=null",
    "tracking=off",
    "engine.checkpoint_seconds=0",
    "engine.chunk_steps=5",
)


def start(store: Path) -> subprocess.Popen[bytes]:
    return start_run(*STUDY, "--store", str(store))


def records(store: Path) -> list[Path]:
    return sorted(store.glob("cells/*/record.json"))


def has_begun_another(store: Path) -> bool:
    """One cell is finished and another has a checkpoint."""
    return bool(records(store)) and bool(list(store.glob("cells/*/checkpoint.pt.sha256")))


def deterministic(store: Path) -> list[dict[str, object]]:
    found = Store(store)
    frame = records_frame(found.records(found.plan("killed")))
    return frame[list(DETERMINISTIC_COLUMNS)].to_dict("records")


def run_here(store: Path) -> dict[str, str]:
    """The study as `study run` runs it, its workers too, launched by this process; the state of every cell."""
    return dict(running.run(compose_study(STUDY[0], STUDY[1:]), Store(store)).states)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed")
    assert list(run_here(store).values()) == ["finished"] * 4
    return store


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads sessions from /proc")
def test_killed_launcher_and_killed_tree_leave_no_trace(tmp_path: Path, undisturbed: Path) -> None:
    # Only the launcher dies: its workers end by themselves and their locks are free.
    first = start(tmp_path)
    wait_until(lambda: has_begun_another(tmp_path), first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not members(first.pid), seconds=100)  # no worker outlives its launcher
    store = Store(tmp_path)
    assert not any(store.is_locked(cell_id) for cell_id in store.cell_ids())
    kept = {path: path.stat().st_mtime_ns for path in records(tmp_path)}
    assert kept

    # The same command goes on; now everything dies at once.
    second = start(tmp_path)
    before = len(kept)
    wait_until(lambda: len(records(tmp_path)) > before or has_begun_another(tmp_path), second)
    time.sleep(0.2)
    kill_all(second)

    output = finish(start(tmp_path))
    assert "4 finished" in output
    assert "index.html" in output.replace("\n", "")  # a long path is broken into lines
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished cell was trained again"
    resumes = [record.resumes for record in store.records(store.plan("killed"))]
    assert max(resumes) >= 1, "the interrupted cell began anew"
    assert deterministic(tmp_path) == deterministic(undisturbed)


def test_two_launchers_never_train_a_cell_twice(tmp_path: Path, undisturbed: Path) -> None:
    launchers = [start(tmp_path), start(tmp_path)]
    for launcher in launchers:
        finish(launcher)
    for log in tmp_path.glob("cells/*/log.txt"):
        assert log.read_text().count("takes up") == 1, f"trained twice: {log.read_text()}"
    assert len(records(tmp_path)) == 4
    assert deterministic(tmp_path) == deterministic(undisturbed)


def test_a_finished_study_trains_nothing(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in records(undisturbed)}
    assert list(run_here(undisturbed).values()) == ["finished"] * 4
    assert {path: path.stat().st_mtime_ns for path in records(undisturbed)} == before


BROKEN = """
import os
from torch import nn

class Fails(nn.Module):
    def __init__(self, fail, features, num_classes):
        super().__init__()
        self.fail, self.layer = fail, nn.Linear(features, num_classes)

    def forward(self, images):
        if images.device.type != "meta":
            self.fail()
        return self.layer(images.flatten(1))

def give_up():
    raise ArithmeticError("the layer gave up")

def build_raising(variant, image_size, in_channels, num_classes):
    return Fails(give_up, image_size**2 * in_channels, num_classes)

def build_dying(variant, image_size, in_channels, num_classes):
    return Fails(lambda: os._exit(9), image_size**2 * in_channels, num_classes)
"""


def test_a_fault_in_one_run_never_costs_another(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    arguments = [argument for argument in STUDY if not argument.startswith(("families", "num_train=", "budget.steps"))]
    arms = ["families=[mlp,broken:build_raising,broken:build_dying]", "num_train=[64]", "budget.steps=40"]
    run = [sys.executable, "-c", "from studies.cli import main; main()", "run", *arguments, *arms]
    command = [*run, "allow_unequal_flops=true", "--store", "results"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 3, process.stdout + process.stderr
    assert "the layer gave up" in process.stdout
    assert "exit code 9" in process.stdout
    store = Store(tmp_path / "results")
    plan = store.plan("killed")
    states = {cell.family: store.state(cell.id) for cell in plan.cells}
    assert states == {"mlp": "finished", "broken:build_raising": "failed", "broken:build_dying": "waiting"}
    failed = next(cell.id for cell in plan.cells if cell.family == "broken:build_raising")
    assert "ArithmeticError" in (store.cell_folder(failed) / "log.txt").read_text()
