"""A disk that fills up, and one that cannot be written: one clear message, and the same command continues."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held import answer, assignment_of, started, work_with
from planned import finish, planned
from small import Small
from typer.testing import CliRunner

from studies import course
from studies import store as store_module
from studies.asking import load_study
from studies.cli import app
from studies.errors import ExitCode, StoreError
from studies.probes.study_probing import probe
from studies.running import run
from studies.store import Store

FILLER = "filler"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leaves not one block of it."""
    with (disk / FILLER).open("ab", buffering=0) as file:
        for size in (1 << 20, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.parametrize(
    ("module", "name", "file"),
    [(course, "save_checkpoint", "checkpoint.pt"), (store_module, "write_atomically", "predictions.npz"),
     (store_module, "write_atomically", "record.json")],
)  # fmt: skip
def test_a_full_disk_costs_no_result(
    module: Any, name: str, file: str, small: Small, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = getattr(module, name)

    def on_a_full_disk(*args: Any, **rest: Any) -> Any:
        if any(isinstance(one, Path) and one.name == file for one in args):
            fill(small_disk)
        return usual(*args, **rest)

    cell = small.plan.cells[0]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, on_a_full_disk)
        with pytest.raises(StoreError, match=rf"{file}.*: no space left on the disk; free some and run the same"):
            small.train(small_disk)
    store = Store(small_disk)
    assert store.record(cell.id) is None
    assert store.state(cell.id) in ("waiting", "interrupted")
    (small_disk / FILLER).unlink()
    small.assert_same(small.train(small_disk))
    assert not list(store.cell_folder(cell.id).glob(".*.tmp"))


def fill_the_store() -> None:
    """As another program does meanwhile; the worker's log is the store's too."""
    fill(Path(os.readlink("/proc/self/fd/1")).parents[2])  # noqa: PTH115  # a link whose target need not exist


def test_a_worker_tells_of_a_full_disk_though_its_log_is_on_it(small: Small, small_disk: Path) -> None:
    Store(small_disk).lock_plan(small.plan)
    arguments = (assignment_of(small_disk, small.plan), "record", small_disk / "marker", fill_the_store)
    with started(work_with, *arguments) as (_, connection):
        connection.send((small.plan.cells[0].id,))
        told = answer(connection)
    assert told.outcome == "machine fault"
    assert "no space left on the disk" in told.message
    (small_disk / FILLER).unlink()
    small.assert_same(small.train(small_disk))


def test_a_store_that_cannot_be_written_is_told_before_anything_is_trained(small: Small, small_disk: Path) -> None:
    store = Store(small_disk / "results")
    store.lock_plan(small.plan)
    small.train(small_disk / "results")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert set(store.states(small.plan).values()) == {"finished"}, "looking needs no writing"
    changes = ("num_train=[64]", "families=[mlp]", "primary_pair=null", "recipe.tuning=null", "tracking=off")
    study = load_study("data_scaling", ("data.num_train=1200", "data.num_test=100", "num_validation=100", *changes))
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        run(study, store)


def test_probes_are_not_computed_for_a_store_that_takes_no_file(small_disk: Path) -> None:
    """One message, not one for every result once all of them are computed for nothing."""
    plan, store = planned(num_train=(64,), families=("resnet", "vit")), Store(small_disk / "results")
    store.lock_plan(plan)
    before = files_of(small_disk)
    fill(small_disk)
    with pytest.raises(StoreError, match="no space left on the disk"):
        probe(plan.study_id, store.root)
    (small_disk / FILLER).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        probe(plan.study_id, store.root)
    assert files_of(small_disk) == before


VERBS = {
    "report": (),
    "export": ("--output", "tables"),
    "bundle": ("--output", "bundle.tar.gz"),
    "fit": ("--figure", "curves.svg"),
}


def files_of(disk: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in disk.rglob("*") if path.is_file() and path.name != FILLER}


def test_verbs_that_make_files_say_that_they_cannot_and_leave_no_half_file(small_disk: Path) -> None:
    """Of a finished study: on a full disk, on one that is read-only, and afterwards."""
    plan, store = planned(num_train=(64,), families=("resnet", "vit")), Store(small_disk / "results")
    store.lock_plan(plan)
    finish(store, plan)

    def told(verb: str) -> BaseException | None:
        output = [VERBS[verb][0], str(small_disk / VERBS[verb][1])] if VERBS[verb] else []
        return CliRunner().invoke(app, [verb, plan.study_id, "--store", str(store.root), *output]).exception

    def refused(says: str) -> None:
        for verb in VERBS:
            error = told(verb)
            assert isinstance(error, StoreError), (verb, error)
            assert says in str(error), verb
            assert error.exit_code == ExitCode.INCOMPLETE
            assert files_of(small_disk) == before, verb

    before = files_of(small_disk)
    fill(small_disk)
    refused("no space left on the disk; free some and run the same command again")
    (small_disk / FILLER).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused("cannot be written: Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert {verb: told(verb) for verb in VERBS} == dict.fromkeys(VERBS)
    after = files_of(small_disk)
    assert after.items() >= before.items()
    assert {"index.html", "bundle.tar.gz", "curves.svg", f"{plan.study_id}.csv"} <= {path.name for path in after}
