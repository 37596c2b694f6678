"""What killed processes leave is swept, and never what a living one is writing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from planned import finish, planned

from studies.files import is_still_there, leftovers, remove_leftovers, write_atomically
from studies.running import REPEATED, _missing
from studies.store import Store


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / ".dead.json.ab.tmp").touch()

    def write(file: IO[bytes]) -> None:
        assert len(list(leftovers(tmp_path))) == 2
        remove_leftovers(tmp_path)
        assert len(list(leftovers(tmp_path))) == 1
        file.write(b"whole")

    write_atomically(tmp_path / "living.json", write)
    assert {path.name for path in tmp_path.iterdir()} == {"living.json"}
    assert (tmp_path / "living.json").read_bytes() == b"whole"


def test_a_file_swept_before_it_was_locked_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def swept_the_first_time(file: IO[bytes], path: Path) -> bool:
        if not asked:
            path.unlink()
        asked.append(is_still_there(file, path))
        return asked[-1]

    monkeypatch.setattr("studies.files.is_still_there", swept_the_first_time)
    write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    assert asked == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_leftovers_are_removed_where_locks_ask_for_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does, whose `flock` is a record lock: an exclusive one is refused to who opened the file for reading."""
    flock = fcntl.flock

    def record_lock(file: IO[bytes], how: int) -> None:
        if not (file.writable() if how & fcntl.LOCK_EX else file.readable()):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", record_lock)
    dead, read_only = tmp_path / ".dead.json.ab.tmp", tmp_path / ".dead.json.cd.tmp"
    dead.touch()
    read_only.touch(0o400)

    def write(file: IO[bytes]) -> None:
        remove_leftovers(tmp_path)
        assert len(list(leftovers(tmp_path))) == 1
        file.write(b"whole")

    write_atomically(tmp_path / "living.json", write)
    assert [path.name for path in tmp_path.iterdir()] == ["living.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from studies.files import write_atomically

def half(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path(sys.argv[1]), half, durable=False)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_who_writes_the_file(tmp_path: Path) -> None:
    """In any folder, such as that of `study export`; there, of others' files, nothing else is touched."""
    path = tmp_path / "curves[1].png"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half"
    foreign = [tmp_path / name for name in (".curves1.png.0123456789abcdef.tmp", ".curves[1].png.mine.tmp", ".x.tmp")]
    for one in foreign:
        one.touch()

    def write(file: IO[bytes]) -> None:
        assert not left.exists()
        beside = set(tmp_path.iterdir())
        write_atomically(path, lambda other: other.write(b"by another process"))  # which leaves this one alone
        assert set(tmp_path.iterdir()) == beside | {path}
        file.write(b"whole")

    write_atomically(path, write)
    assert path.read_bytes() == b"whole"
    assert set(tmp_path.iterdir()) == {path, *foreign}


def test_tidying_touches_no_cell_that_is_not_done_or_that_somebody_has(tmp_path: Path) -> None:
    plan, store = planned(), Store(tmp_path)
    finish(store, plan, plan.cells[:2])
    done, taken, open_ = (cell.id for cell in plan.cells[:3])
    store.cell_folder(open_).mkdir()
    for cell_id in (done, taken, open_):
        for name in ("checkpoint.pt", "checkpoint.pt.sha256", "progress.json", ".record.json.ab.tmp"):
            (store.cell_folder(cell_id) / name).touch()
    with store.lock(taken):
        store.tidy(plan)
    left = {cell_id: len(list(store.cell_folder(cell_id).iterdir())) for cell_id in (done, taken, open_)}
    assert left == {done: 3, taken: 7, open_: 4}, "record, predictions and lock stay"


def test_damaged_records_are_set_aside_by_the_next_run_and_told(tmp_path: Path) -> None:
    plan, store = planned(), Store(tmp_path)
    finish(store, plan)
    whole, *broken = (cell.id for cell in plan.cells[:5])
    damages = (lambda content: content[:300], lambda content: b"", lambda content: content.replace(b"0.4", b"0.3", 1),
               lambda content: (store.cell_folder(whole) / "record.json").read_bytes())  # fmt: skip
    for cell_id, damage in zip(broken, damages, strict=True):
        path = store.cell_folder(cell_id) / "record.json"
        path.write_bytes(damage(path.read_bytes()))
        assert store.state(cell_id) == "damaged"
    told: list[str] = []
    assert _missing(plan, store, REPEATED, told.append) == broken
    assert [cell_id in message for cell_id, message in zip(broken, told, strict=True)] == [True] * 4
    assert {store.state(cell_id) for cell_id in broken} == {"waiting"}
    assert all(len(list(store.cell_folder(cell_id).glob("record.damaged-*.json"))) == 1 for cell_id in broken)
    assert store.state(whole) == "finished"
