"""Checkpoints are whole or refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studies.checkpoint import AtomicCheckpointIO, CheckpointError, load_checkpoint, load_latest, save_checkpoint

STATE = {"step": 3, "weights": {"a": torch.arange(6.0)}}
CHANGES = 5
"""Of the folder, in a save: the previous file goes, the latest is linked in its place and its digest copied, then the
new file and its digest come."""


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(STATE, tmp_path / "c.pt")
    assert torch.equal(load_checkpoint(tmp_path / "c.pt")["weights"]["a"], torch.arange(6.0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_single_byte_corruption_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(STATE, path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not loaded"):
        load_checkpoint(path)


def test_truncated_emptied_and_without_digest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for damage in (lambda: path.write_bytes(path.read_bytes()[:-1]), lambda: path.write_bytes(b"")):
        save_checkpoint(STATE, path)
        damage()
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    save_checkpoint(STATE, path)
    (tmp_path / "c.pt.sha256").unlink()
    with pytest.raises(CheckpointError, match="no checksum"):
        load_checkpoint(path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def test_code_in_a_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint({"x": _Evil()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "evil").exists()


def test_a_damaged_checkpoint_costs_one_save_not_the_run(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    assert load_latest(path) is None
    save_checkpoint({"step": 1}, path)
    save_checkpoint({"step": 2}, path)
    assert load_latest(path) == {"step": 2}
    path.write_bytes(b"torn")
    assert load_latest(path) == {"step": 1}


def test_killed_in_one_save_after_the_other_a_whole_pair_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the bytes and their digest; then, continued, before the next bytes are there."""

    class _Cut(BaseException): ...

    def cut(*arguments: object) -> None:
        raise _Cut

    path = tmp_path / "c.pt"
    save_checkpoint({"step": 1}, path)
    save_checkpoint({"step": 2}, path)
    path.write_bytes(b"newer than its digest")
    assert load_latest(path) == {"step": 1}
    with monkeypatch.context() as patched, contextlib.suppress(_Cut):
        patched.setattr("studies.checkpoint.write_atomically", cut)
        save_checkpoint({"step": 2}, path)
    assert load_latest(path) == {"step": 1}
    save_checkpoint({"step": 2}, path)
    assert load_latest(path) == {"step": 2}


@pytest.mark.parametrize("survives", range(CHANGES + 1))
def test_killed_at_any_moment_of_a_save_one_whole_pair_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """The save is cut before its n-th change of the folder: it costs what it would have saved, and no more."""
    path = tmp_path / "c.pt"
    save_checkpoint({"step": 1}, path)
    save_checkpoint({"step": 2}, path)
    left = survives

    class _Cut(BaseException): ...

    def counted(name: str) -> None:
        original = getattr(Path, name)

        def change(self: Path, *args: Any, **rest: Any) -> Any:
            nonlocal left
            if left == 0:
                raise _Cut
            left -= 1
            return original(self, *args, **rest)

        monkeypatch.setattr(Path, name, change)

    with monkeypatch.context():
        for name in ("replace", "unlink", "hardlink_to"):
            counted(name)
        with contextlib.suppress(_Cut):
            save_checkpoint({"step": 3}, path)
        monkeypatch.undo()
    assert load_latest(path) == {"step": 3 if survives == CHANGES else 2}


def test_lightning_saves_and_resumes_through_it(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    assert isinstance(io, pl.plugins.CheckpointIO)
    io.save_checkpoint(STATE, tmp_path / "c.ckpt")
    assert io.load_checkpoint(tmp_path / "c.ckpt")["step"] == 3
    io.remove_checkpoint(tmp_path / "c.ckpt")
    assert not list(tmp_path.iterdir())
