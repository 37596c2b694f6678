"""Results besides records: a fault of the machine is told and leaves a file alone, damage sets it aside."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies.errors import StoreError
from studies.kept_results import DamagedError, Results, id_of
from studies.store import Store
from studies.strict import Strict


class _Result(Strict):
    result_id: str
    identity: dict[str, Any]
    value: float
    arrays_sha256: str = ""


KEPT = Results("things", _Result, "result_id", "thing", "make it again", has_arrays=True)
IDENTITY = {"of": "one"}
ID = id_of(IDENTITY)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With one result and its arrays."""
    store = Store(tmp_path)
    KEPT.write(made(1.0), store, {"map": np.zeros(3, np.float32)})
    return store


def made(value: float) -> _Result:
    return _Result(result_id=ID, identity=IDENTITY, value=value)


def made_again() -> Any:
    pytest.fail("computed although it is there")


@pytest.fixture(params=["result.json", "arrays.npz"])
def unreadable(
    request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, pytest.MonkeyPatch]:
    """A file of the result whose disk does not answer."""
    path = KEPT.path(store, ID).with_name(request.param)
    opened = Path.open

    def gone(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", gone)
    return path, monkeypatch


def test_a_file_that_cannot_be_read_at_the_moment_is_named_and_not_called_damaged(
    store: Store, unreadable: tuple[Path, pytest.MonkeyPatch]
) -> None:
    with pytest.raises(StoreError, match=rf"{unreadable[0].name} cannot be read: Input/output error") as told:
        KEPT.read(store, ID)
    assert not isinstance(told.value, DamagedError)


def test_a_file_that_cannot_be_read_at_the_moment_is_neither_set_aside_nor_computed_again(
    store: Store, unreadable: tuple[Path, pytest.MonkeyPatch]
) -> None:
    path, monkeypatch = unreadable
    with pytest.raises(StoreError, match="cannot be read"):
        KEPT.compute(store, ID, "one", made_again, pytest.fail)
    monkeypatch.undo()
    assert KEPT.read(store, ID) is not None
    assert not list(path.parent.glob("result.*-*.json"))


def test_a_pipe_in_place_of_a_result_is_not_waited_for(store: Store) -> None:
    KEPT.path(store, ID).unlink()
    os.mkfifo(KEPT.path(store, ID))
    with pytest.raises(StoreError, match=r"no ordinary file|Invalid argument"):
        KEPT.read(store, ID)


def test_an_error_without_a_number_is_told_in_its_own_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise OSError("the server is gone")

    monkeypatch.setattr(Path, "open", gone)
    with pytest.raises(StoreError, match="cannot be read: the server is gone"):
        KEPT.read(store, ID)


def test_arrays_that_are_missing_are_damage_and_computed_again(store: Store) -> None:
    KEPT.path(store, ID).with_name("arrays.npz").unlink()
    with pytest.raises(DamagedError, match=r"arrays\.npz is damaged \(No such file"):
        KEPT.read(store, ID)
    told: list[str] = []
    found = KEPT.compute(store, ID, "one", lambda: (made(2.0), {"map": np.ones(3, np.float32)}), told.append)
    assert found.value == 2.0
    assert told[0].startswith("the thing of one is damaged: kept as ")


def test_who_cannot_say_whether_a_result_is_outdated_leaves_it_alone(store: Store) -> None:
    def damaged(_: _Result) -> str:
        raise StoreError("record is damaged")

    with pytest.raises(StoreError, match="record is damaged"):
        KEPT.compute(store, ID, "one", made_again, pytest.fail, outdated=damaged)
    assert KEPT.read(store, ID) is not None


def test_the_files_of_a_result_are_those_it_states(store: Store) -> None:
    known = KEPT.read(store, ID)
    assert known is not None
    assert [path.name for path in KEPT.files(store, known)] == ["result.json", "arrays.npz"]
    KEPT.write(made(3.0), store)
    known = KEPT.read(store, ID)
    assert known is not None
    assert [path.name for path in KEPT.files(store, known)] == ["result.json"], "arrays of another result lie there"


def test_an_outdated_result_is_kept_aside_under_that_name_and_computed_again(store: Store) -> None:
    told: list[str] = []
    made_now = (made(2.0), {"map": np.ones(3, np.float32)})
    found = KEPT.compute(
        store, ID, "one", lambda: made_now, told.append, outdated=lambda known: "is old" if known.value == 1.0 else ""
    )
    assert found.value == 2.0
    (aside,) = KEPT.path(store, ID).parent.glob("result.*-*.json")
    assert aside.name.startswith("result.outdated-")
    assert told == [f"the thing of one is old: kept as {aside}, it is computed again"]
    assert KEPT.compute(store, ID, "one", made_again, pytest.fail, outdated=lambda _: "") == found
