"""Locks that another machine has to see; where it does not, its store is refused."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from studies.errors import StoreError
from studies.shared_folder import locked_for_all_to_see, why_not_shared


def test_a_lock_that_is_seen_is_no_objection(tmp_path: Path) -> None:
    with locked_for_all_to_see(tmp_path / "new") as path:
        assert why_not_shared(path) is None
        with locked_for_all_to_see(tmp_path / "new") as again:  # a second launcher on the machine
            assert again == path
        assert why_not_shared(path) is None


def test_a_lock_that_is_not_seen_is_told(tmp_path: Path) -> None:
    with locked_for_all_to_see(tmp_path) as path:
        pass  # its holder is elsewhere, and its lock is not known here
    assert "keeps locks to each machine" in str(why_not_shared(path))


def test_another_folder_of_that_name_is_told(tmp_path: Path) -> None:
    assert "is not the launcher's folder" in str(why_not_shared(tmp_path / "launcher-other.lock"))


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="Function not implemented"), locked_for_all_to_see(tmp_path):
        pass
