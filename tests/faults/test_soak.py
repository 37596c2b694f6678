"""The soak notices what it is there to notice, on stores that are made wrong on purpose."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from planned import finish, planned
from rich.console import Console

from studies import cli, progress
from studies.compose import compose_study
from studies.errors import ConfigError, StudyError
from studies.grid import Plan
from studies.interruption import KEPT, MESSAGE, Interrupted, told_once
from studies.soak import trial as trial_module
from studies.soak import undisturbed as undisturbed_module
from studies.soak.command import OFTEN, SMALL, composed_of
from studies.soak.faults import FAULTS, Scene
from studies.soak.processes import holds_open, survivors
from studies.soak.trial import run_trial
from studies.soak.undisturbed import undisturbed
from studies.soak.verdict import differences, is_done, leftovers, results, untruths
from studies.soak.witness import Witness
from studies.store import Store


@pytest.fixture
def plan() -> Plan:
    return planned(replicates=1)


@pytest.fixture
def store(plan: Plan, tmp_path: Path) -> Store:
    finish(Store(tmp_path / "store"), plan)
    return Store(tmp_path / "store")


def altered(store: Store, cell_id: str, **changes: object) -> None:
    record = store.record(cell_id)
    assert record is not None
    store.write_record(record.model_copy(update=changes))


def test_equal_stores_are_equal(store: Store, plan: Plan, tmp_path: Path) -> None:
    finish(Store(tmp_path / "other"), plan)
    altered(store, plan.cells[0].id, train_seconds=9.0, resumes=3, started_at="later")
    assert list(differences(results(Store(tmp_path / "other")), store)) == []
    assert is_done(store)
    assert list(leftovers(store.root)) == []
    assert list(untruths(store)) == []


def test_what_is_lost_changed_or_too_many_is_named(store: Store, plan: Plan) -> None:
    expected = results(store)
    lost, changed, doubled, *_ = (cell.id for cell in plan.cells)
    folder = store.cell_folder(lost)
    (folder / "record.json").unlink()
    record = store.record(changed)
    assert record is not None
    branches = [branch.model_copy(update={"weights_sha256": "cd" * 32}) for branch in record.branches]
    altered(store, changed, branches=tuple(branches), predictions_sha256="ef")
    content = (store.cell_folder(doubled) / "record.json").read_bytes()
    (store.cell_folder(doubled) / "record.damaged-1.json").write_bytes(content)
    assert list(differences(expected, store)) == [
        f"the result of cell {lost} is lost",
        f"the result of cell {changed} changed: predictions_sha256, weights_sha256",
        f"{store.predictions_path(changed)} is not what its record states",
        f"{store.cell_folder(doubled) / 'record.damaged-1.json'} is a record too many",
    ]
    assert not is_done(store)


def test_predictions_that_are_not_those_of_the_record_are_named(store: Store, plan: Plan) -> None:
    expected, paths = results(store), [store.predictions_path(cell.id) for cell in plan.cells[:2]]
    paths[0].write_bytes(b"of another")
    paths[1].unlink()
    assert list(differences(expected, store)) == [f"{path} is not what its record states" for path in paths]


def test_what_is_left_behind_is_named(store: Store, plan: Plan) -> None:
    cell_id = plan.cells[0].id
    (store.cell_folder(cell_id) / "checkpoint.pt").touch()
    (store.study_folder(plan.study_id) / ".page.html.ab.tmp").touch()
    with store.lock(cell_id):
        told = list(leftovers(store.root))
        assert len(told) == 3
        assert list(untruths(store)) == [], "a record is final, whoever has the lock"
    store.tidy(plan)
    assert list(leftovers(store.root)) == []
    (store.cell_folder(cell_id) / "record.json").unlink()
    with store.lock(cell_id):
        assert list(untruths(store)) == [f"cell {cell_id} is told to be running where nothing runs"]


HOLDING = """
import fcntl, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
with (folder / "log.txt").open("a") as log:
    print(f"2026 process {os.getpid()} takes up x", file=log)
file = (folder / "lock").open("a+b")
print("ready", flush=True)
time.sleep(60)
"""


def test_two_processes_at_one_cell_are_seen(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "one"
    folder.mkdir(parents=True)
    witness = Witness(tmp_path)
    command = [sys.executable, "-c", HOLDING, str(folder)]
    processes = []
    try:
        for expected in (0, 1):
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            assert processes[-1].stdout is not None
            assert processes[-1].stdout.readline() == b"ready\n"
            witness.look()
            assert len(witness.problems) == expected
        first, second = (process.pid for process in processes)
        assert witness.problems == [f"processes {first}, {second} trained cell one at once"]
        assert holds_open(first, folder / "lock")
        assert survivors([first]) == [first]
        processes[0].kill()
        processes[0].wait()
        witness.look()
        assert len(witness.problems) == 1, "one that has ended trains no more"
        assert survivors([first]) == []
        assert witness.num_begun() == 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_records_that_change_or_go_are_seen(store: Store, plan: Plan) -> None:
    witness = Witness(store.root)
    witness.look()
    assert witness.problems == []
    altered(store, plan.cells[0].id, resumes=1)
    (store.cell_folder(plan.cells[1].id) / "record.json").unlink()
    witness.look()
    assert sorted(witness.problems) == sorted(
        [
            f"the finished record of cell {plan.cells[0].id} was written again",
            f"the record of cell {plan.cells[1].id} was there and is gone",
        ]
    )


@pytest.mark.parametrize("name", [name for name in FAULTS if "checkpoint" in name])
def test_damage_is_done_to_the_file_itself(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cells" / "one" / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    content = bytes(range(256))
    path.write_bytes(content)
    inode = path.stat().st_ino
    scene = Scene(tmp_path, random.Random(3), [], {}, lambda: 0)
    assert FAULTS[name].inject(scene) == "one"
    assert path.stat().st_ino == inode
    damaged = path.read_bytes()
    assert damaged != content
    if "flipped" in name:
        assert sum((one ^ other).bit_count() for one, other in zip(content, damaged, strict=True)) == 1
    else:
        assert content.startswith(damaged)


LAUNCHER = """
import os, sys, time
from pathlib import Path
from planned import planned, predictions_of, record_of
from studies.store import Store

plan, store, sabotage = planned(replicates=1), Store(sys.argv[1]), sys.argv[2]
go = store.root / "go"

def train(index, again=False):
    cell = plan.cells[index]
    with store.lock(cell.id) as mine:
        if mine and (again or store.record(cell.id) is None):
            with (store.cell_folder(cell.id) / "log.txt").open("a") as log:
                print(f"process {os.getpid()} takes up it", file=log)
            record = record_of(plan, cell, errors=(0.4, 0.35, 0.31, 0.3))
            store.write_record(record, predictions_of(record, cell.num_test, seed=index))

store.lock_plan(plan)
while store.record(plan.cells[0].id) is None:
    train(0)
    time.sleep(0.01)
while not go.exists():
    time.sleep(0.01)
while any(store.record(cell.id) is None for cell in plan.cells):
    for index in range(len(plan.cells)):
        train(index)
    time.sleep(0.01)
if sabotage == "trains again":
    train(0, again=True)
if sabotage == "leaves a process" and os.fork() == 0:
    time.sleep(600)
raise SystemExit(1 if sabotage == "breaks" else 0)
"""


@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        ("", ""),
        ("trains again", "was written again"),
        ("leaves a process", "outlive their launcher"),
        ("breaks", "ended with exit code 1"),
    ],
)
def test_a_trial_repeats_the_command_until_it_is_done_and_tells_what_is_wrong(
    sabotage: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With launchers that train nothing, hold still after the first record, and are killed there, both."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1] / 'studies'}:{Path(__file__).parents[2]}")
    monkeypatch.setattr(trial_module, "END_SECONDS", 1.0)
    name, at_once, looks = "SIGKILL to the launcher", list[int](), list[None]()
    kill = FAULTS[name]

    def each_once_there_is_a_record(scene: Scene) -> str | None:
        """The witness looks before every fault: a record that was there at the last one it has seen."""
        looks.extend([None] if any(scene.store.glob("cells/*/record.json")) else [])
        if len(looks) < 2:
            return None
        at_once.append(len(scene.launchers))
        scene.launchers = [pid for pid in scene.launchers if not scene.signals[pid]]
        done = kill.inject(scene)
        if len(at_once) == 2:
            (scene.store / "go").touch()
        return done

    monkeypatch.setattr(trial_module, "draw", lambda chance: name)
    monkeypatch.setattr(trial_module, "FAULTS", {name: replace(kill, inject=each_once_there_is_a_record)})

    def command(arguments: object, store: Path) -> list[str]:
        return [sys.executable, "-c", LAUNCHER, str(store), sabotage]

    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "undisturbed" / "go").touch()
    subprocess.run([*command((), tmp_path / "undisturbed")[:-1], ""], check=True)
    expected = results(Store(tmp_path / "undisturbed"))
    monkeypatch.setattr(trial_module, "command", command)
    killed: list[str] = []
    trial = run_trial(
        (), tmp_path / "trial", expected, random.Random(0), num_faults=2, pace=0.1, on_fault=killed.append
    )
    assert at_once[0] == 2, "every trial begins with two launchers"
    assert trial.faults[name] == trial.kills == len(killed) == 2
    assert trial.launchers == 3
    assert any(told in problem for problem in trial.problems) if told else trial.problems == [], trial.problems


@pytest.mark.parametrize(
    ("words", "study", "overrides"),
    [
        ([], "data_scaling", []),
        (["replicates=1"], "data_scaling", ["replicates=1"]),
        (["replicates=1", "data.num_test=80"], "data_scaling", ["replicates=1", "data.num_test=80"]),
        (["compute", "replicates=1"], "compute", ["replicates=1"]),
    ],
)
def test_overrides_alone_are_of_the_small_study(words: list[str], study: str, overrides: list[str]) -> None:
    chosen = composed_of(words[0] if words else None, words[1:])
    assert chosen[: 1 + len(OFTEN)] == [study, *OFTEN]
    assert chosen[1 + len(OFTEN) :] == [*(SMALL if study == "data_scaling" else ()), *overrides]


def test_what_makes_the_small_study_can_be_overridden() -> None:
    composed = compose_study("data_scaling", composed_of("replicates=1", ["num_train=[32]"])[1:])
    assert (composed.spec.replicates, composed.spec.num_train, composed.spec.name) == (1, (32,), "soak")


IN_PEACE = """
import sys, time
from pathlib import Path
from planned import finish, planned
from studies.store import Store

plan, store = planned(replicates=1), Store(sys.argv[1])
finish(store, plan, plan.cells[:2])
for _ in range(30_000):  # else it would wait for ever where nothing is told
    if (store.root / "told").exists():
        break
    time.sleep(0.01)
finish(store, plan)
print("as it ends")
raise SystemExit(int(sys.argv[2]))
"""


class Told(io.StringIO):
    """Notes in a store that something was said."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.store = store

    def write(self, text: str) -> int:
        if "2/" in text:
            (self.store / "told").touch()
        return super().write(text)


@pytest.mark.parametrize("code", [0, 3])
def test_it_is_said_how_far_the_undisturbed_run_is(
    code: int, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study goes on once that is said."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1] / 'studies'}:{Path(__file__).parents[2]}")
    monkeypatch.setattr(undisturbed_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    store = tmp_path / "soak" / "undisturbed"
    told = Told(store)
    command = [sys.executable, "-c", IN_PEACE, str(store), str(code)]
    with pytest.raises(StudyError) if code else contextlib.nullcontext() as caught:
        undisturbed(command, store, Console(file=told))
    assert f"2/{len(plan.cells)} done" in told.getvalue()
    if caught is not None:
        text = str(caught.value)
        assert "exit code 3" in text
        assert "as it ends" in text
        assert text.endswith(
            f"A soak is not continued: to begin it anew remove {store.parent}, or name another --folder"
        )


def test_a_study_that_cannot_be_run_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('error: no such study'); raise SystemExit(2)"]
    with pytest.raises(ConfigError, match="the study cannot be run: error: no such study"):
        undisturbed(command, tmp_path / "soak" / "undisturbed", Console())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"), [(["soak"], "a soak is not continued; to begin it anew remove"), (["bench", "fit"], "anew")]
)
def test_an_end_by_a_signal_says_what_is_true_of_the_command(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes where the study would be run, or the analysis begun."""

    def ended(*args: object, **named: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(undisturbed_module, "undisturbed", ended)
    monkeypatch.setattr("studies.analysis.timing.time_analysis", ended)
    monkeypatch.setattr(sys, "argv", ["study", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 143
    last = said.getvalue().splitlines()[-1]
    assert last.startswith("ended by SIGTERM: ")
    assert told in last
    assert KEPT not in last
    with told_once():
        assert Interrupted().message == MESSAGE, "and what is true of studies again"


def test_exit_code_and_summary_tell_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from studies.cli import app
    from studies.soak import trial, verdict
    from studies.soak.trial import Trial

    made = iter([["the result of cell x is lost"], []])

    def fake(arguments: object, store: Path, *rest: object, **named: object) -> Trial:
        trial = Trial(kills=3, problems=next(made))
        trial.faults.update({"SIGKILL to a worker": 3, "another launcher": 1})
        for folder in (store, store.with_name(f"{store.name}-output")):
            folder.mkdir(parents=True)
        return trial

    monkeypatch.setattr(undisturbed_module, "undisturbed", lambda command, store, console: store.mkdir(parents=True))
    monkeypatch.setattr(verdict, "results", lambda store: {"x": []})
    monkeypatch.setattr(trial, "run_trial", fake)
    asked = ["soak", "--kills", "5", "--seed", "4", "--json", "--folder", str(tmp_path / "soak")]
    ended = CliRunner().invoke(app, asked)
    summary = json.loads(ended.stdout)
    assert ended.exit_code == 3
    assert summary["problems"] == ["trial 0: the result of cell x is lost"]
    assert (summary["seed"], summary["trials"], summary["kills"], summary["records_compared"]) == (4, 2, 6, 2)
    assert [(tmp_path / "soak" / f"trial-{number}").exists() for number in (0, 1)] == [True, False]
    made = iter([[], []])
    asked[-1] = str(tmp_path / "again")
    assert CliRunner().invoke(app, asked).exit_code == 0


def test_locks_of_the_kernel_are_what_the_witness_believes(tmp_path: Path) -> None:
    """A file is closed before its lock is free: who has it open has not let go."""
    store = Store(tmp_path)
    with store.lock("one"):
        with (tmp_path / "cells" / "one" / "lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert holds_open(os.getpid(), tmp_path / "cells" / "one" / "lock")
    assert not holds_open(os.getpid(), tmp_path / "cells" / "one" / "lock")
