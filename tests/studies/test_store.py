"""The store: a record is whole or damaged and never wrong; a cell has one trainer; the states are true."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import finish, planned, predictions_of, record_of

from studies import store as store_module
from studies.errors import ExitCode, NotInStoreError, StoreError
from studies.files import sha256_of
from studies.grid import Plan
from studies.records import read_predictions
from studies.store import Store, bytes_held

HOLDER = """
import sys
from studies.store import Store
with Store(sys.argv[1]).lock(sys.argv[2]) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@contextmanager
def holder(store: Store, cell_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a cell."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root), cell_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "True"
        yield process
        process.kill()


# --- records ---------------------------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was_written(store: Store, plan: Plan) -> None:
    record = record_of(plan, plan.cells[0])
    predictions = predictions_of(record)
    written = store.write_record(record, predictions)
    assert store.record(record.cell_id) == written
    assert written.predictions_sha256 == sha256_of(store.predictions_path(record.cell_id))
    assert written == record.model_copy(update={"predictions_sha256": written.predictions_sha256})
    found = read_predictions(store.predictions_path(record.cell_id))
    assert {name: array.tobytes() for name, array in found.items()} == {k: v.tobytes() for k, v in predictions.items()}
    assert sorted(path.name for path in store.cell_folder(record.cell_id).iterdir()) == [
        "predictions.npz",
        "record.json",
    ]


def test_there_is_no_record_where_none_was_written(store: Store) -> None:
    assert store.record("0" * 16) is None
    assert store.state("0" * 16) == "waiting"
    assert store.cell_ids() == []
    assert not store.root.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["full", "over its quota"])
def test_a_full_disk_leaves_no_record(store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full_disk(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    record = record_of(plan, plan.cells[0])
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreError, match="no space left on the disk"):
        store.write_record(record, predictions_of(record))
    assert list(store.cell_folder(record.cell_id).iterdir()) == []
    assert store.state(record.cell_id) == "waiting"


def test_a_truncated_record_is_damaged_at_every_length(store: Store, plan: Plan) -> None:
    cell = plan.cells[0]
    store.write_record(record_of(plan, cell))
    path = store.cell_folder(cell.id) / "record.json"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        assert store.state(cell.id) == "damaged", length
    with pytest.raises(StoreError, match=rf"{re.escape(str(path))} is damaged \(.*run the study again"):
        store.record(cell.id)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    plan = planned(families=("vit",), num_train=(64,), replicates=1, primary_pair=None)
    store = Store(tmp_path_factory.mktemp("flips"))
    record = store.write_record(record_of(plan, plan.cells[0]))
    path = store.cell_folder(record.cell_id) / "record.json"
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if store.state(record.cell_id) != "damaged":  # a blank between values turned into another blank, at most
        assert store.record(record.cell_id) == record


def test_a_record_with_a_changed_number_is_damaged(store: Store, plan: Plan) -> None:
    cell = plan.cells[0]
    store.write_record(record_of(plan, cell))
    path = store.cell_folder(cell.id) / "record.json"
    content = json.loads(path.read_text())
    content["record"]["branches"][0]["test_error"] = 0.01
    path.write_text(json.dumps(content))
    assert store.state(cell.id) == "damaged"
    with pytest.raises(StoreError, match="its checksum does not match"):
        store.record(cell.id)


def test_a_record_of_another_cell_is_damaged(store: Store, plan: Plan) -> None:
    mine, other = plan.cells[:2]
    store.write_record(record_of(plan, other))
    store.cell_folder(other.id).rename(store.cell_folder(mine.id))
    with pytest.raises(StoreError, match=f"it belongs to cell {other.id}"):
        store.record(mine.id)


def test_a_damaged_record_is_set_aside_and_kept(store: Store, plan: Plan) -> None:
    cell = plan.cells[0]
    store.write_record(record_of(plan, cell))
    path = store.cell_folder(cell.id) / "record.json"
    path.write_text("{")
    aside = store.set_aside_record(cell.id)
    assert aside.read_text() == "{"
    assert aside.parent == path.parent
    assert store.state(cell.id) == "waiting"
    store.write_record(record_of(plan, cell))
    assert (store.state(cell.id), aside.exists()) == ("finished", True)


def test_tidying_leaves_what_a_damaged_record_may_be_trained_from(store: Store, plan: Plan) -> None:
    """Once it is set aside, its cell goes on from the checkpoint that is left."""
    finish(store, plan)
    damaged, whole = (store.cell_folder(cell.id) for cell in plan.cells[:2])
    (damaged / "record.json").write_text("{")
    for folder in (damaged, whole):
        (folder / "checkpoint.pt").touch()
    store.tidy(plan)
    assert [(folder / "checkpoint.pt").exists() for folder in (damaged, whole)] == [True, False]
    assert store.set_aside_record(plan.cells[0].id) is not None
    assert store.state(plan.cells[0].id) == "interrupted"


def test_unreadable_records_are_left_out_of_the_table_only(store: Store, plan: Plan) -> None:
    finish(store, plan)
    (store.cell_folder(plan.cells[1].id) / "record.json").write_text("{")
    assert [record.cell_id for record in store.records(plan)] == [c.id for c in plan.cells if c is not plan.cells[1]]
    assert len(store.all_records()) == len(plan.cells) - 1
    assert store.states(plan)[plan.cells[1].id] == "damaged"


# --- states and locks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["finished", "diverged", "invalid", "failed"])
def test_a_record_settles_the_state(store: Store, plan: Plan, status: str) -> None:
    cell = plan.cells[0]
    store.write_record(record_of(plan, cell, status=status, reason="why"))  # type: ignore[arg-type]
    (store.cell_folder(cell.id) / "checkpoint.pt").touch()
    assert store.state(cell.id) == status


def test_an_unfinished_cell_is_waiting_running_or_interrupted(store: Store, plan: Plan) -> None:
    cell_id = plan.cells[0].id
    assert store.state(cell_id) == "waiting"
    with store.lock(cell_id) as mine:
        assert mine
        assert store.state(cell_id) == "running"
        (store.cell_folder(cell_id) / "checkpoint.pt").touch()
        assert store.state(cell_id) == "running"
    assert store.state(cell_id) == "interrupted"
    store.finish_cell(cell_id)
    assert store.state(cell_id) == "waiting"


def test_a_lock_excludes_another_process_and_is_free_when_its_holder_is_killed(store: Store, plan: Plan) -> None:
    cell_id, other_id = plan.cells[0].id, plan.cells[1].id
    with holder(store, cell_id) as process:
        with store.lock(cell_id) as mine:
            assert not mine
        assert store.is_locked(cell_id)
        assert store.state(cell_id) == "running"
        assert not store.discard_cell(cell_id)
        assert store.cell_folder(cell_id).exists()
        with store.lock(other_id) as mine:
            assert mine
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not store.is_locked(cell_id)
        with store.lock(cell_id) as mine:
            assert mine


def test_looking_at_a_cell_takes_no_lock(store: Store, plan: Plan) -> None:
    cell_id = plan.cells[0].id
    with store.lock(cell_id):
        pass
    assert not store.is_locked(cell_id)
    with store.lock(cell_id) as mine:
        assert mine


def test_two_who_look_at_a_cell_do_not_take_each_other_for_a_worker(store: Store) -> None:
    with store.lock("0a"):
        pass
    with (store.cell_folder("0a") / "lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not store.is_locked("0a")


def test_a_look_at_a_cell_does_not_keep_its_record_from_being_set_aside(store: Store, plan: Plan) -> None:
    """Else a failed cell would not be tried again, and nobody would be told."""
    finish(store, plan)
    cell_id = plan.cells[0].id
    (store.cell_folder(cell_id) / "record.json").write_text("{")
    with store.lock(cell_id):
        pass
    with (store.cell_folder(cell_id) / "lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.01, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        assert store.set_aside_record(cell_id) is not None


def test_the_lock_of_a_cell_that_was_removed_meanwhile_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, then removed with its folder by another, who may have made it anew: two would hold a lock of one cell."""
    taken = fcntl.flock

    def removed_first(file: IO[bytes], how: int) -> None:
        (store.cell_folder("0a") / "lock").unlink()
        taken(file, how)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", removed_first)
        with store.lock("0a") as mine:
            assert not mine
    with store.lock("0a") as mine:
        assert mine


def test_what_has_become_of_a_cell_meanwhile_is_asked_under_its_lock(store: Store, plan: Plan) -> None:
    finish(store, plan)
    cell_id = plan.cells[0].id
    assert store.set_aside_record(cell_id) is None, "a whole record was set aside"
    assert not store.discard_cell(cell_id, ("failed", "damaged"))
    assert store.state(cell_id) == "finished"
    (store.cell_folder(cell_id) / "record.json").write_text("{")
    with store.lock(cell_id):
        assert store.set_aside_record(cell_id) is None, "another process has the cell"
        assert not store.discard_cell(cell_id)
    assert store.set_aside_record(cell_id) is not None


def test_a_lock_ends_with_its_block_even_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock("0" * 16):
        raise ZeroDivisionError
    with store.lock("0" * 16) as mine:
        assert mine


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cells/.*: cannot be written: Not a directory"),
        Store(tmp_path / "file").lock("a"),
    ):
        pass


def test_a_file_system_without_locks_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(store_module.fcntl, "flock", no_locks)
    with (
        pytest.raises(StoreError, match="file system without locks: choose another folder with --store"),
        store.lock("a"),
    ):
        pass


def test_progress_is_told_and_its_absence_is_no_error(store: Store) -> None:
    assert store.progress("a") is None
    store.write_progress("a", 3, 94)
    found = store.progress("a")
    assert found is not None
    assert (found.step, found.total_steps) == (3, 94)
    (store.cell_folder("a") / "progress.json").write_text('{"step"')
    assert store.progress("a") is None


def test_progress_on_a_full_disk_does_not_stop_training(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full_disk)
    store.write_progress("a", 3, 94)
    assert store.progress("a") is None


# --- studies ---------------------------------------------------------------------------------------------------


def test_a_locked_plan_is_found_by_id_and_by_name(store: Store, plan: Plan) -> None:
    path = store.lock_plan(plan)
    assert store.plan(plan.study_id) == plan
    assert store.plan("small") == plan
    assert store.study_ids() == [plan.study_id]
    content = path.read_bytes()
    assert store.lock_plan(plan) == path
    assert path.read_bytes() == content


def test_a_name_means_the_plan_locked_last(store: Store, plan: Plan) -> None:
    other = planned(num_train=(64,))
    for index, one in enumerate((plan, other, plan)):
        os.utime(store.lock_plan(one), ns=(index, index))
    assert store.plan("small") == plan
    assert store.plan(other.study_id) == other
    assert store.study_ids() == [other.study_id, plan.study_id]


def test_an_unknown_study_is_refused_with_those_there_are(store: Store, plan: Plan) -> None:
    store.lock_plan(plan)
    with pytest.raises(NotInStoreError, match=f"no study 'smal' .* there are: {re.escape(plan.study_id)}") as caught:
        store.plan("smal")
    assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(NotInStoreError, match="there are: none"):
        Store(store.root / "nowhere").plan("small")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cells": []}'])
def test_a_plan_that_cannot_be_read_is_named(store: Store, plan: Plan, content: str) -> None:
    path = store.lock_plan(plan)
    path.write_text(content)
    with pytest.raises(StoreError, match=f"{re.escape(str(path))} cannot be read"):
        store.plan("small")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": []}'])
def test_a_damaged_plan_is_written_anew_when_it_is_locked_again(store: Store, plan: Plan, content: str) -> None:
    store.lock_plan(plan).write_text(content)
    store.lock_plan(plan)
    assert store.plan(plan.study_id) == plan


def test_an_altered_plan_is_refused(store: Store, plan: Plan) -> None:
    path = store.lock_plan(plan)
    path.write_text(path.read_text().replace('"steps": 80', '"steps": 120'))
    with pytest.raises(StoreError, match=r"plan.json cannot be read: .*was altered"):
        store.plan("small")


# --- finding and removing --------------------------------------------------------------------------------------


def test_a_cell_is_found_by_a_beginning_that_only_it_has(store: Store) -> None:
    for cell_id in ("aa11", "aa22", "bb33"):
        store.cell_folder(cell_id).mkdir(parents=True)
    assert store.find_cell("b") == "bb33"
    assert store.find_cell("aa1") == "aa11"
    with pytest.raises(NotInStoreError, match=r"2 cells \(aa11, aa22, \.\.\.\) .* begin with 'aa'"):
        store.find_cell("aa")
    for unknown in ("c", ""):
        with pytest.raises(NotInStoreError, match=f"no cell .* begins with '{unknown}'"):
            store.find_cell(unknown)
    with pytest.raises(NotInStoreError):
        Store(store.root / "nowhere").find_cell("a")


def test_a_finished_cell_keeps_its_results_and_its_log_alone(store: Store, plan: Plan) -> None:
    cell = plan.cells[0]
    record = record_of(plan, cell)
    folder = store.cell_folder(cell.id)
    store.write_record(record, predictions_of(record))
    for name in ("checkpoint.pt", "checkpoint.pt.sha256", "checkpoint.previous.pt", ".record.json.x.tmp", "log.txt",
                 "progress.json", "weights-1.pt"):  # fmt: skip
        (folder / name).touch()
    store.finish_cell(cell.id)
    assert {path.name for path in folder.iterdir()} == {"record.json", "predictions.npz", "log.txt", "weights-1.pt"}
    assert store.weights_path(cell.id, 1.0).exists()


def test_discarding_a_study_keeps_its_cells(store: Store, plan: Plan) -> None:
    finish(store, plan)
    store.discard_study(plan.study_id)
    assert store.study_ids() == []
    assert len(store.cell_ids()) == len(plan.cells)
    assert store.discard_cell(plan.cells[0].id)
    assert plan.cells[0].id not in store.cell_ids()


def test_bytes_held_are_those_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"1234")
    (tmp_path / "a" / "b" / "two").write_bytes(b"56")
    assert bytes_held([tmp_path]) == 6
    assert bytes_held([tmp_path / "none"]) == 0
