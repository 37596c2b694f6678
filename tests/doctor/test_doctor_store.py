"""What the doctor finds in stores that were really damaged, and in folders that really cannot be used."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from planned import finish, planned, record_of

from studies.doctor import store as whole
from studies.doctor.entries import entries, inventory
from studies.doctor.finding import Finding
from studies.doctor.folder import file_system, mount_of, nearest, space, writable
from studies.doctor.holders import holders
from studies.doctor.lock_trial import locks
from studies.engines.lock_witness import witness, witness_folder
from studies.grid import Plan
from studies.store import Store


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """Every cell finished, with predictions."""
    store = Store(tmp_path / "results")
    finish(store, plan)
    return store


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB in memory; mounting one is root's right."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def found(store: Store) -> dict[str, Finding]:
    told = list(whole.content(store.root))
    return {one.check: one for one in told}


def levels(told: dict[str, Finding]) -> dict[str, str]:
    return {check: one.level for check, one in told.items() if one.level != "fine"}


def test_a_whole_store_is_fine(store: Store, plan: Plan) -> None:
    told = found(store)
    assert levels(told) == {}
    assert told["store: checksums"].found == "12 cells: every record and its predictions are whole"
    assert told["store: cells"].found == "12 finished"
    assert told["store: locks held"].found == "none"
    assert told["store: plans"].found == "1 plan, as it was locked"


def test_a_store_that_is_not_there_has_no_content_and_a_place(tmp_path: Path) -> None:
    root = tmp_path / "none" / "results"
    assert list(whole.content(root)) == []
    told = list(whole.place(root))
    assert {one.level for one in told if one.check != "store: file system"} <= {"fine", "warning"}
    assert "is not there yet" in told[0].found
    assert not root.parent.exists()
    assert list(tmp_path.iterdir()) == []  # what was tried has left nothing


def test_a_flipped_bit_is_found_in_record_and_predictions(store: Store, plan: Plan) -> None:
    record = store.cell_folder(plan.cells[0].id) / "record.json"
    predictions = store.predictions_path(plan.cells[1].id)
    for path in (record, predictions):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    store.predictions_path(plan.cells[2].id).unlink()
    told = found(store)
    assert levels(told) == {"store: checksums": "broken"}
    assert told["store: checksums"].found.startswith("3 damaged files: ")
    for path in (record, predictions, store.predictions_path(plan.cells[2].id)):
        assert str(path) in told["store: checksums"].found
    assert "sets a damaged record aside" in told["store: checksums"].advice


def test_failed_cells_are_counted_with_the_command_that_retries_them(store: Store, plan: Plan) -> None:
    store.write_record(record_of(plan, plan.cells[0], status="failed", reason="why"))
    told = found(store)
    assert levels(told) == {"store: cells": "warning"}
    assert "11 finished, 1 failed" in told["store: cells"].found
    assert "--retry failed" in told["store: cells"].advice


def test_links_pipes_and_unknown_names_are_told_and_never_opened(store: Store, plan: Plan) -> None:
    cell = store.cell_folder(plan.cells[0].id)
    (cell / "record.json").unlink()
    os.mkfifo(cell / "record.json")  # reading it would wait for ever
    (store.root / "cells" / ("f" * 16)).symlink_to(cell)
    (store.root / "cells" / "..x\x1b[2J").mkdir()
    (store.root / "notes.txt").write_text("mine")
    told = found(store)
    assert levels(told) == {"store: links and devices": "broken", "store: unknown entries": "warning"}
    assert "record.json (pipe)" in told["store: links and devices"].found
    assert f"cells/{'f' * 16} (link)" in told["store: links and devices"].found
    unknown = told["store: unknown entries"].found
    assert "notes.txt" in unknown
    assert "\x1b" not in unknown
    assert told["store: checksums"].found.startswith("11 cells")


def test_what_was_set_aside_or_left_by_the_killed_is_told(store: Store, plan: Plan) -> None:
    first, second = (store.cell_folder(cell.id) for cell in plan.cells[:2])
    (first / "record.json").write_text("{")
    store.set_aside_record(plan.cells[0].id)
    (first / "checkpoint.pt").write_bytes(b"1")
    (second / ".record.json.0a.tmp").write_bytes(bytes(1000))
    told = found(store)
    assert levels(told) == {}
    assert told["store: set aside"].found.startswith("1 file: cells/")
    assert ".record.json.0a.tmp" in told["store: leftovers of killed processes"].found
    assert told["store: interrupted cells"].found == "1 cell with a checkpoint"
    with store.lock(plan.cells[1].id):  # then the file is in use
        assert found(store)["store: leftovers of killed processes"].found == "none"


def test_what_the_engines_leave_with_a_study_is_known(store: Store, plan: Plan) -> None:
    folder = store.study_folder(plan.study_id)
    (folder / "slurm").mkdir()
    with witness(witness_folder(store, plan.study_id), "launcher"):
        assert levels(found(store)) == {}


def test_who_holds_a_lock_is_named(store: Store, plan: Plan) -> None:
    with store.lock(plan.cells[0].id):
        assert holders(store.cell_folder(plan.cells[0].id) / "lock") in ([os.getpid()], [])
        told = found(store)["store: locks held"]
    assert told.level == "fine"
    assert told.found.startswith("1 cell by ")


def test_a_running_cell_that_is_silent_for_long_is_a_warning(store: Store, plan: Plan) -> None:
    cell = plan.cells[0]
    (store.cell_folder(cell.id) / "record.json").unlink()
    with store.lock(cell.id):
        store.write_progress(cell.id, 3, 94)
        assert levels(found(store)) == {}
        path = store.cell_folder(cell.id) / "progress.json"
        path.write_text(path.read_text().replace('"updated": 1', '"updated": '))
        assert levels(found(store)) == {"store: locks held": "warning"}


def test_an_altered_plan_and_cells_of_no_plan_are_told(store: Store, plan: Plan) -> None:
    path = store.study_folder(plan.study_id) / "plan.json"
    text = path.read_text()
    path.write_text(text.replace('"steps": 80', '"steps": 120'))
    told = found(store)
    assert levels(told) == {"store: plans": "broken"}
    assert plan.study_id in told["store: plans"].found
    path.write_text(text)
    (store.root / "cells" / ("0" * 16)).mkdir()
    assert "1 cell of no plan" in found(store)["store: cells of no plan"].found


def test_a_folder_that_cannot_be_written_is_broken() -> None:
    (told,) = writable("store: writing", Path("/sys"), "choose another")
    assert (told.level, told.advice) == ("broken", "make it writable, or choose another")
    assert [one.level for one in whole.place(Path("/sys/results"))].count("broken") >= 1


def test_a_store_that_is_a_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    assert [one.level for one in whole.place(tmp_path / "results")] == ["broken"]


def test_a_full_disk_and_one_in_memory_are_told(tiny_disk: Path) -> None:
    (told,) = space("store: free space", tiny_disk, "choose another")
    assert told.level == "broken"
    (kind,) = file_system("store: file system", tiny_disk, "choose another")
    assert (kind.level, kind.found.split()[0]) == ("warning", "tmpfs")
    (tiny_disk / "fill").write_bytes(bytes(2**20 - 8192))
    (full,) = writable("store: writing", tiny_disk, "choose another")
    assert (full.level, "No space left" in full.found) == ("broken", True)


def test_files_are_counted_where_few_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(iter(space("s", tmp_path, "x"))).level in ("fine", "warning")
    monkeypatch.setattr("studies.doctor.folder.SCARCE_FILES", 10**15)
    monkeypatch.setattr("studies.doctor.folder.SCARCE_BYTES", 0)
    if os.statvfs(tmp_path).f_files:
        assert "more files" in next(iter(space("s", tmp_path, "x"))).found


MOUNTS = """25 1 0:23 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 25 0:40 / /data rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2,local_lock=none
31 25 0:41 / /data/my\\040scratch rw,relatime - lustre server:/l rw,localflock
32 25 0:42 / /database rw - xfs /dev/vdb rw
"""


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    told = tmp_path / "mountinfo"
    told.write_text(MOUNTS)
    kinds = {path: mount_of(Path(path), told).kind for path in ("/data/x", "/data/my scratch/a", "/database", "/home")}
    assert kinds == {"/data/x": "nfs4", "/data/my scratch/a": "lustre", "/database": "xfs", "/home": "ext4"}
    by_path = {path: next(iter(file_system("c", Path(path), "o", told))) for path in kinds}
    assert [one.level for one in by_path.values()] == ["warning", "warning", "fine", "fine"]
    assert "locks hold on this machine only" in by_path["/data/my scratch/a"].found
    assert "shared over a network" in by_path["/data/x"].found


def test_locks_that_hold_are_fine_and_leave_nothing(tmp_path: Path) -> None:
    assert [one.level for one in locks(tmp_path)] == ["fine"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("holder", "says"),
    [
        ("import sys\nprint('held', flush=True)\nsys.stdin.read()", "two processes hold one lock"),
        ("raise OSError('No locks available')", "No locks available"),
    ],
)
def test_locks_that_do_not_hold_are_broken(tmp_path: Path, holder: str, says: str) -> None:
    (told,) = locks(tmp_path, holder)
    assert (told.level, says in told.found) == ("broken", True)


def test_a_lock_that_outlives_its_holder_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.doctor.lock_trial.RELEASED_WITHIN_SECONDS", 0.0)
    forking = (  # its child keeps the lock after the kill, for a second
        "import fcntl, os, sys, time\nfile = open(sys.argv[1], 'a+b')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "if not os.fork():\n    os.close(0); os.close(1); os.close(2); time.sleep(1); os._exit(0)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    (told,) = locks(tmp_path, forking)
    assert (told.level, "keeps its lock" in told.found) == ("broken", True)


def test_the_nearest_folder_of_a_store_to_come(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert nearest(tmp_path) == tmp_path


def test_an_empty_store_has_no_strange_entries(tmp_path: Path) -> None:
    assert [one.level for one in entries(inventory(tmp_path))] == ["fine", "fine"]
    with (tmp_path / "x").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    assert inventory(tmp_path).unknown == ["x"]
