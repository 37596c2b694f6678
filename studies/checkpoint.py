"""Checkpoints that are whole or refused: written atomically, with a SHA-256 beside them, the previous one kept.

`torch.load` accepts most single-byte corruptions of a file and Lightning writes checkpoints in place; hence a checksum
that is verified before anything is unpickled, and `weights_only=True`, which refuses code.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from .errors import StoreError
from .files import sha256_of, write_atomically, write_text

MapLocation = str | torch.device


class CheckpointError(StoreError):
    """A checkpoint whose bytes are not those that were written, or that holds more than tensors and numbers."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path`; what stood there becomes `<stem>.previous<suffix>`.

    A process killed at any moment leaves one whole pair of file and digest: the old one is linked to its new name
    before it is replaced.
    """
    if path.exists():
        _keep_as_previous(path)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_atomically(path, lambda file: file.write(content))
    write_text(_digest_path(path), hashlib.sha256(content).hexdigest())


def load_checkpoint(path: Path, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Reads a checkpoint after checking its digest.

    Raises:
        CheckpointError: the digest is missing or differs, or the file holds code.
        FileNotFoundError: there is no such file.
    """
    actual = sha256_of(path)
    try:
        expected = _digest_path(path).read_text(errors="replace").strip()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no checksum beside it ({_digest_path(path).name}); not loaded") from None
    if actual != expected:
        raise CheckpointError(f"{path}: its SHA-256 is {actual[:12]}..., expected {expected[:12]}...; not loaded")
    try:
        state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: refused, it holds more than tensors and numbers ({error})") from None
    return state


def load_latest(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, else the previous one, else None: a damaged checkpoint costs time, never a result.

    A damaged one is removed where the previous is whole: the next save would else put it in the place of that.
    """
    for candidate in (path, _previous(path)):
        try:
            state = load_checkpoint(candidate)
        except (FileNotFoundError, CheckpointError):
            continue
        if candidate != path:
            path.unlink(missing_ok=True)
        return state
    return None


class AtomicCheckpointIO(CheckpointIO):
    """The same for an ordinary `pl.Trainer(plugins=[AtomicCheckpointIO()])`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Writes a Lightning checkpoint atomically, with its digest."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: MapLocation | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a Lightning checkpoint after checking its digest."""
        return load_checkpoint(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, its predecessor and their digests."""
        for candidate in (Path(path), _previous(Path(path))):
            candidate.unlink(missing_ok=True)
            _digest_path(candidate).unlink(missing_ok=True)


def _keep_as_previous(path: Path) -> None:
    previous = _previous(path)
    previous.unlink(missing_ok=True)
    previous.hardlink_to(path)
    if _digest_path(path).exists():
        write_text(_digest_path(previous), _digest_path(path).read_text(errors="replace"))


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
