"""Who holds a lock, read off what the system shows of all locks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from studies.doctor.holders import holders


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


def shown(lock: Path, *lines: str) -> list[int]:
    """Holders, where the system shows these lines; HERE and THERE are the file on its own device and on another."""
    one = lock.stat()
    device = f"{os.major(one.st_dev):02x}:{os.minor(one.st_dev):02x}"
    other = f"{os.major(one.st_dev) ^ 1:02x}:{os.minor(one.st_dev):02x}"
    text = "\n".join(lines).replace("THERE", f"{other}:{one.st_ino}").replace("HERE", f"{device}:{one.st_ino}")
    told = lock.with_name("locks")
    told.write_text(text + "\n")
    return holders(lock, told)


def test_all_who_hold_it_and_no_lock_of_another_kind_or_file(lock: Path) -> None:
    assert shown(
        lock,
        "1: FLOCK  ADVISORY  WRITE 11 HERE 0 EOF",
        "2: POSIX  ADVISORY  WRITE 12 HERE 0 EOF",
        "3: OFDLCK ADVISORY  READ  13 HERE 0 EOF",
        "4: FLOCK  ADVISORY  READ  14 HERE 0 EOF",
        "5: FLOCK  ADVISORY  WRITE 15 00:00:7 0 EOF",
        "6: FLOCK",
    ) == [11, 14]


def test_who_waits_for_it_does_not_hold_it(lock: Path) -> None:
    assert shown(lock, "1: FLOCK ADVISORY WRITE 11 HERE 0 EOF", "1: -> FLOCK ADVISORY WRITE 12 HERE 0 EOF") == [11]


def test_a_device_that_is_shown_otherwise_counts_where_none_is_shown_alike(lock: Path) -> None:
    elsewhere = "1: FLOCK ADVISORY WRITE 11 THERE 0 EOF"
    assert shown(lock, elsewhere) == [11]
    assert shown(lock, elsewhere, "2: FLOCK ADVISORY WRITE 12 HERE 0 EOF") == [12]


def test_where_the_system_tells_nothing_nobody_is_named(lock: Path, tmp_path: Path) -> None:
    assert holders(lock, tmp_path / "none") == []
    assert holders(tmp_path / "none") == []
