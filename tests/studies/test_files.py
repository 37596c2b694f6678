"""A file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from studies.errors import StoreError
from studies.files import leftovers, sha256_of, write_atomically, write_text


def full_disk(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text"
    write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()
    assert names(path.parent) == ["text"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_new_version_replaces_the_old_one(tmp_path: Path, durable: bool) -> None:
    for text in ("a long first version", "second"):
        write_text(tmp_path / "f", text, durable=durable)
    assert (tmp_path / "f").read_text() == "second"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: str | None
) -> None:
    path = tmp_path / "record.json"
    if old is not None:
        path.write_text(old)

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        if step == "write":
            full_disk()

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    if step == "replace":
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StoreError, match=r"record.json: no space left on the disk; free some and run the same command"):
        write_atomically(path, write)
    assert names(tmp_path) == ([] if old is None else ["record.json"])
    assert old is None or path.read_text() == old


def test_a_fault_of_the_writer_is_not_mistaken_for_one_of_the_disk(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "f", write)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/under: cannot be written: (Not a directory|File exists)"):
        write_text(tmp_path / "file" / "under", "")

    def read_only(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(StoreError, match="record: cannot be written: Read-only file system"):
        write_text(tmp_path / "record", "")


def test_the_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(handle: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "content")  # noqa: PTH112
        fsync(handle)

    def noting_replace(source: Path, target: Path) -> Path:
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_text(tmp_path / "f", "x")
    assert events == ["content", "rename", "folder"]
    events.clear()
    write_text(tmp_path / "f", "x", durable=False)
    assert events == ["rename"]


def test_what_a_killed_writer_leaves_is_found(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from studies.files import write_atomically\n"
        "def write(file):\n    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)"
    )
    (tmp_path / "f").write_text("old")
    outcome = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False)
    assert outcome.returncode == -9
    assert (tmp_path / "f").read_text() == "old"
    (left,) = leftovers(tmp_path)
    assert left.read_bytes() == b"half"
    assert len(names(tmp_path)) == 2


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_what_has_no_end_has_no_sha256(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="it is no ordinary file"):
            sha256_of(tmp_path / name)
