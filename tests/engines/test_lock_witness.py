"""Locks that another machine does not see are found out, and no other fault is taken for it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from studies.engines import lock_witness
from studies.engines.lock_witness import check_locks, witness
from studies.errors import StoreError

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


def test_a_living_witness_whose_lock_looks_free_is_refused(tmp_path: Path) -> None:
    """As another machine would see it where locks stay on each: the file changes, and nobody seems to hold it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            (tmp_path / "node-7.witness").write_text(str(time.monotonic_ns()))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        time.sleep(0.2)
        with pytest.raises(StoreError, match="node-7 is alive and holds a lock here that this machine does not see"):
            check_locks(tmp_path)
    finally:
        over.set()
        thread.join()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose a folder"), witness(tmp_path / "file", "mine"):
        pass


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


def test_who_looks_at_a_witness_as_it_begins_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_witness, "BEAT_SECONDS", 5.0)
    with (tmp_path / "mine.witness").open("w+b") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with witness(tmp_path, "mine") as own:
            assert own.exists()
