"""Names that lead elsewhere are refused with one message, or name nothing; none reaches a file outside the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import Small

from studies.asking import load_study
from studies.errors import ConfigError, NotInStoreError, StoreError
from studies.store import Store

HOSTILE = ("../x", "..", "/etc", "a/b", "a\0b", "x" * 300, "", ".", "*", "-rf", "a\nb", "$(id)")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_study_is_named_so(name: str) -> None:
    with pytest.raises(ConfigError):
        load_study("data_scaling", [f"name={name}"])


@pytest.mark.parametrize("name", HOSTILE)
def test_no_study_file_is_named_so(name: str) -> None:
    with pytest.raises(ConfigError):
        load_study(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_store_has_nothing_of_that_name(name: str, small: Small, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "plan.json").write_text("{}")
    store = Store(tmp_path / "results")
    store.lock_plan(small.plan)
    with pytest.raises(NotInStoreError):
        store.plan(name)
    with pytest.raises(NotInStoreError):
        store.find_cell(name)


@pytest.mark.parametrize("family", [*HOSTILE, "../x:build", "timm:../x", "os:system", "a\0b:build", "vit-../x"])
def test_no_family_is_named_so(family: str) -> None:
    from studies.asking import plan

    escaped = family.replace("\\", "\\\\").replace("'", "\\'")
    with pytest.raises(ConfigError):
        plan(load_study("data_scaling", [f"families=['{escaped}']", "primary_pair=null", "recipe.tuning=null"]).spec)


@pytest.mark.parametrize("folder", ["x" * 300, "a\0b", "loop"])
def test_a_folder_that_cannot_be_is_one_message(folder: str, small: Small, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError):
        Store(tmp_path / folder)


def test_a_store_behind_a_link_is_a_store(small: Small, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    small.assert_same(small.train(tmp_path / "link"))
    assert Store(tmp_path / "real").record(small.plan.cells[0].id) is not None


def test_a_cell_that_is_a_link_is_not_followed_when_it_is_removed(small: Small, tmp_path: Path) -> None:
    cell, store = small.plan.cells[0], Store(tmp_path / "results")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "results" / "cells").mkdir(parents=True)
    store.cell_folder(cell.id).symlink_to(precious)
    with pytest.raises(StoreError, match="is a link"):
        store.discard_cell(cell.id)
    assert (precious / "file").exists()


@pytest.mark.parametrize("name", ["record.json", "progress.json", "checkpoint.place.json"])
def test_what_has_no_end_is_not_read(name: str, small: Small, tmp_path: Path) -> None:
    """A link to a device would be read for ever."""
    cell, store = small.plan.cells[0], Store(tmp_path)
    folder = store.cell_folder(cell.id)
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/zero")
    assert store.state(cell.id) == ("damaged" if name == "record.json" else "waiting")
    assert store.progress(cell.id) is None
    assert store.place(cell.id) == (0, 0)
