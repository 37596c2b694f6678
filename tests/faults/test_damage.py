"""Checkpoints that were damaged, forged or written by other code cost time, and never a result."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Small

from studies import course
from studies.checkpoint import load_latest, save_checkpoint
from studies.store import Store


class _StoppedError(Exception):
    """Ends a training in the middle."""


@pytest.fixture
def interrupted(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cell that was stopped at its second validation."""
    calls = iter(range(10))
    predict = course.predict

    def second(*args: Any, **rest: Any) -> Any:
        if next(calls) == 1:
            raise _StoppedError
        return predict(*args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(course, "predict", second)
        with pytest.raises(_StoppedError):
            small.train(tmp_path)
    folder = Store(tmp_path).cell_folder(small.plan.cells[0].id)
    assert (folder / "checkpoint.pt").exists()
    assert (folder / "checkpoint.previous.pt").exists()
    return folder


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    return content[:999] + bytes([content[999] ^ 4]) + content[1000:]


def unreadable(content: bytes) -> bytes:
    return b"\xff" * len(content)


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, unreadable])
@pytest.mark.parametrize("names", [("checkpoint.pt",), ("checkpoint.pt.sha256",),
                                   ("checkpoint.pt", "checkpoint.previous.pt")])  # fmt: skip
def test_a_damaged_checkpoint_costs_time_and_no_result(
    small: Small, interrupted: Path, names: tuple[str, ...], damage: Callable[[bytes], bytes]
) -> None:
    for name in names:
        content = (interrupted / name).read_bytes()
        if damage is flipped and len(content) < 1000:
            content = content.ljust(1000)
        (interrupted / name).unlink()
        (interrupted / name).write_bytes(damage(content))
    record = small.train(interrupted.parents[1])
    assert record.resumes == (0 if len(names) == 2 else 1), "the previous checkpoint is continued, if it is whole"
    small.assert_same(record)


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_never_run(small: Small, interrupted: Path, tmp_path: Path) -> None:
    """Though its digest is right: whoever forges the one forges the other."""
    forged = pickle.dumps(_Payload(tmp_path / "owned"))
    torch_file = interrupted / "torch.pt"
    torch.save({"cell_id": _Payload(tmp_path / "owned")}, torch_file)
    for name, content in (("checkpoint.pt", forged), ("checkpoint.previous.pt", torch_file.read_bytes())):
        (interrupted / name).unlink()
        (interrupted / name).write_bytes(content)
        (interrupted / f"{name}.sha256").write_text(hashlib.sha256(content).hexdigest())
    torch_file.unlink()
    record = small.train(interrupted.parents[1])
    assert not (tmp_path / "owned").exists()
    assert record.resumes == 0
    small.assert_same(record)


@pytest.mark.parametrize("change", [{"code": "0.0.1, torch 2.0"}, {"code": None}, {"cell_id": "another"}])
def test_a_checkpoint_of_other_code_or_another_cell_is_not_continued(
    small: Small, interrupted: Path, change: dict[str, str | None]
) -> None:
    saved = load_latest(interrupted / "checkpoint.pt")
    assert saved is not None
    saved["losses"].fill_(7)  # would be seen in the record
    changed = {name: value for name, value in (saved | change).items() if value is not None}
    save_checkpoint(changed, interrupted / "checkpoint.pt")
    record = small.train(interrupted.parents[1])
    assert record.resumes == 0
    small.assert_same(record)
