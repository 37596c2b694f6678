"""Locks that another machine does not see are found out, and no other fault is taken for it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from processes import wait_until

from studies.engines import lock_witness
from studies.engines.lock_witness import check_locks, launcher_name, witness, witness_folder
from studies.errors import StoreError
from studies.store import Store

ELSEWHERE = """
import sys, time
from pathlib import Path
from studies.engines.lock_witness import witness
with witness(Path(sys.argv[1]), "node-7"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_witness, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock_witness, "WATCH_SECONDS", 1.0)


def test_a_lock_that_is_seen_is_no_complaint_and_its_end_none_either(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with witness(tmp_path, "mine") as own:
            check_locks(tmp_path, own)
            assert (tmp_path / "node-7.witness").exists()
            other.kill()
            other.wait()
            check_locks(tmp_path, own)  # its file is left, and nobody writes into it
            assert [path.name for path in tmp_path.iterdir()] == ["mine.witness"]
        assert not list(tmp_path.iterdir())
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_the_number_of_a_living_witness_grows(tmp_path: Path) -> None:
    with witness(tmp_path, "mine") as own:
        wait_until(lambda: own.read_bytes() != b"", seconds=60)
        first = int(own.read_bytes())
        wait_until(lambda: int(own.read_bytes()) > first, seconds=60)


def test_a_living_witness_whose_lock_looks_free_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another machine would see it where locks stay on each: the file changes, and nobody seems to hold it."""
    number = iter(range(99))
    path = tmp_path / "node-7.witness"
    path.touch()
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_text(str(next(number))))
    with pytest.raises(StoreError, match="node-7 is alive and holds a lock here that this machine does not see"):
        check_locks(tmp_path)
    assert path.exists()


def test_a_witness_is_watched_for_some_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems tell of changes late."""
    path, waits = tmp_path / "node-7.witness", list[float]()
    path.write_text("1")

    def late(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            path.write_text("2")

    monkeypatch.setattr(time, "sleep", late)
    monkeypatch.setattr(lock_witness, "WATCH_SECONDS", 600.0)
    with pytest.raises(StoreError, match="node-7 is alive"):
        check_locks(tmp_path)
    assert len(waits) == 3


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose a folder"), witness(tmp_path / "file", "mine"):
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that would be followed by another fails."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("one look was not enough"))


def test_one_look_at_a_launcher_that_is_known_to_live_is_enough(tmp_path: Path, impatient: None) -> None:
    with witness(tmp_path / "new", "launcher-7") as own:
        check_locks(tmp_path / "new", living=own)
    with pytest.raises(StoreError, match=r"new is not the launcher's folder .*a file system that all nodes share"):
        check_locks(tmp_path / "new", living=own)
    own.touch()  # its holder is elsewhere, and its lock is not known here
    with pytest.raises(StoreError, match="launcher-7 is alive and holds a lock here that this machine does not see"):
        check_locks(tmp_path / "new", living=own)
    assert own.exists()


def test_where_the_launcher_is_seen_another_may_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = iter(range(99))
    monkeypatch.setattr(time, "sleep", lambda seconds: elsewhere.write_text(str(next(number))))
    elsewhere = tmp_path / "launcher-elsewhere.witness"
    elsewhere.touch()
    with witness(tmp_path, "launcher-7") as own, pytest.raises(StoreError, match="launcher-elsewhere is alive"):
        check_locks(tmp_path, living=own)


def test_a_file_system_without_locks_is_refused_by_who_looks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with witness(tmp_path, "launcher-7") as own:
        monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(StoreError, match=r"launcher-7.witness: cannot be locked \(No locks available\)"):
            check_locks(tmp_path, living=own)
        with pytest.raises(StoreError, match="No locks available"), witness(tmp_path, "launcher-8"):
            pass


def test_witnesses_of_all_engines_are_in_one_folder_of_the_study(tmp_path: Path) -> None:
    folder = witness_folder(Store(tmp_path), "small.0a1b2c3d")
    assert folder == tmp_path / "studies" / "small.0a1b2c3d" / "witnesses"
    assert launcher_name().endswith(f"-{os.getpid()}"), "two launchers on one machine have each their own"


def test_one_that_takes_its_lock_only_now_is_no_complaint_and_its_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node-7.witness"
    with path.open("w+b") as file:

        def begins(seconds: float) -> None:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.pwrite(file.fileno(), b"1", 0)

        monkeypatch.setattr(time, "sleep", begins)
        check_locks(tmp_path)
        assert path.exists(), "the file of a living witness was removed"


def test_one_that_begins_under_the_name_of_a_dead_one_is_no_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job of Slurm that is requeued: its file is emptied before it has the lock."""
    path = tmp_path / "task-12_0.witness"
    path.write_text("7")
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_text(""))
    monkeypatch.setattr(lock_witness, "WATCH_SECONDS", 0.01)
    check_locks(tmp_path)


def test_no_witness_looks_at_its_own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks belong to processes it would look free, and be lost by the look."""
    with witness(tmp_path, "mine") as own:
        monkeypatch.setattr(lock_witness, "_looks_free", lambda path: pytest.fail(path.name))
        check_locks(tmp_path, own)


def test_who_looks_at_a_witness_as_it_begins_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_witness, "BEAT_SECONDS", 60.0)  # however long this process is kept from its turn
    with (tmp_path / "mine.witness").open("w+b") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(look, fcntl.LOCK_UN))
        with witness(tmp_path, "mine") as own:
            fcntl.flock(look, fcntl.LOCK_UN)
            with pytest.raises(BlockingIOError):
                fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)
            assert own.exists()


def test_a_lock_that_is_held_for_long_is_not_waited_for_longer(tmp_path: Path) -> None:
    with (tmp_path / "mine.witness").open("w+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"mine\.witness: cannot be locked"), witness(tmp_path, "mine"):
            pass


def test_what_a_witness_writes_reaches_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that stays open NFS has nothing for half a minute, in which others would take the witness for dead."""
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((tmp_path / "mine.witness").read_bytes()))
    with witness(tmp_path, "mine"):
        wait_until(lambda: len(synced) > 1, seconds=60)
    assert [int(content) for content in synced[:2]] == [1, 2]


def test_who_begins_while_the_file_of_a_dead_one_is_removed_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requeued job has the name of the one that died: its lock on a removed file would be seen by nobody."""
    monkeypatch.setattr(lock_witness, "BEAT_SECONDS", 60.0)
    flock, path, looks = fcntl.flock, tmp_path / "task-12_0.witness", list[int]()

    def removed_at_first(file: IO[bytes], how: int) -> None:
        looks.append(how)
        if len(looks) == 1:
            path.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_at_first)
    with witness(tmp_path, "task-12_0") as own, own.open("rb") as seen:
        assert len(looks) == 2
        with pytest.raises(BlockingIOError):
            flock(seen, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_the_file_of_a_dead_one_is_removed_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, unlink = tmp_path / "task-12_0.witness", Path.unlink
    path.touch()
    monkeypatch.setattr(lock_witness, "WATCH_SECONDS", 0.0)

    def removed(self: Path, missing_ok: bool = False) -> None:
        with self.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", removed)
    check_locks(tmp_path)
    assert not path.exists()
