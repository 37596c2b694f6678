"""Weights in files: read whole, or refused with one message and without running anything that the file holds.

Every file is held against its SHA-256 where that is known, and its size against what the network could need, so that a
damaged or inflated file is found before it is believed. How a checkpoint of torch, which is a program, is read without
running it is `models.pickled_weights`. Safetensors hold no code and no checksum.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict

from models.families import Head
from models.pickled_weights import unpickled
from models.weights_error import LARGEST_SIZE, WeightsError, quoted, shown, too_large

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SAFETENSORS_SUFFIX = ".safetensors"
LARGEST_BYTES = 16 * 2**30
_NETWORK_PREFIX = "network."  # where `ImageClassifier` keeps its network
# Where trainings keep their weights, averaged ones first, as timm's own loading has it.
_STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Origin:
    """The network that weights of this package were trained in; `build_network` has the meaning of the fields."""

    family: str
    variant: str
    image_size: int
    in_channels: int
    designed_for: int


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        path: the file.
        sha256: of its bytes.
        state: names of tensors as the network has them -> tensors on the CPU.
        origin: what they were trained in; None for files from elsewhere, which do not say.
    """

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]
    origin: Origin | None


def classifier_checkpoint(
    state: Mapping[str, torch.Tensor],
    *,
    family: str,
    variant: str,
    image_size: int,
    in_channels: int,
    num_classes: int,
    designed_for: int | None = None,
    head: Head = "linear",
) -> dict[str, Any]:
    """What to save of a trained network: its weights and what it is.

    The form is Lightning's, so that ``ImageClassifier.load_from_checkpoint`` reads the file as `read_weights` does.

    Args:
        state: state dictionary of the network, with or without its classifier.
        family: as of `build_network`, like the others.
    """
    from importlib.metadata import version

    settings = {
        "family": family,
        "variant": variant,
        "image_size": image_size,
        "in_channels": in_channels,
        "num_classes": num_classes,
        "designed_for": designed_for,
        "head": head,
    }
    return {
        "state_dict": {f"{_NETWORK_PREFIX}{name}": tensor.detach().cpu().clone() for name, tensor in state.items()},
        "hyper_parameters": settings,
        "pytorch-lightning_version": version("pytorch-lightning"),
    }


def read_weights(path: str | Path, *, sha256: str | None = None, largest_bytes: int = LARGEST_BYTES) -> Weights:
    """Read the weights of a checkpoint: this package's, an `ImageClassifier`'s, timm's, or a bare state dictionary.

    Args:
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.tar`` as `torch.save` writes them.
        sha256: what the file's SHA-256 must be. A file ``<name>.sha256`` beside it is believed as well.
        largest_bytes: no file, and no tensors in it, may be larger.

    Raises:
        WeightsError: the file is missing, damaged, larger, not what the checksum says, holds code, or has no weights.
    """
    path = Path(path)
    if path.suffix not in (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES):
        raise WeightsError(
            f"{path}: {path.suffix or 'no suffix'} is no checkpoint that is read here; expected "
            f"{', '.join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))}"
        )
    content = _bytes_of(path, largest_bytes)
    digest = hashlib.sha256(content).hexdigest()
    _check_digest(path, digest, sha256)
    saved = (
        _safetensors(path, content) if path.suffix == SAFETENSORS_SUFFIX else unpickled(path, content, largest_bytes)
    )
    state = _state_of(path, saved)
    _check_tensors(path, state, largest_bytes)
    origin = _origin_of(path, saved, state)
    if origin is not None:
        state = {name.removeprefix(_NETWORK_PREFIX): tensor for name, tensor in state.items()}
    return Weights(path, digest, state, origin)


def _bytes_of(path: Path, largest_bytes: int) -> bytes:
    try:
        if not path.is_file():
            what = "is no ordinary file" if path.exists() else "there is no such file"
            raise WeightsError(f"{path}: {what}; expected a checkpoint")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > largest_bytes:
                raise too_large(path, size, largest_bytes)
            return file.read(size)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_digest(path: Path, found: str, expected: str | None) -> None:
    beside = path.with_name(f"{path.name}.sha256")
    told = {"the one asked for": expected} if expected is not None else {}
    if beside.exists():
        try:
            told[f"the one in {beside.name}"] = next(iter(beside.read_text().split()), "nothing")
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: {beside.name} beside it cannot be read ({error}); not loaded") from error
    for who, digest in told.items():
        if found != digest:
            raise WeightsError(
                f"{path}: its SHA-256 is {found[:12]}..., {who} is {shown(digest[:12])}...: the file was changed or "
                "damaged after it was written; not loaded"
            )


def _safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({shown(str(error))}); not loaded") from error


def _state_of(path: Path, saved: object) -> dict[str, torch.Tensor]:
    """The state dictionary in what was saved, under the names of the network that was wrapped for training."""
    if isinstance(saved, dict):
        found = next((saved[key] for key in _STATE_KEYS if isinstance(saved.get(key), dict)), saved)
        if found and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()):
            return {name: tensor.detach() for name, tensor in clean_state_dict(found).items()}
    raise WeightsError(
        f"{path}: holds no weights; expected a dictionary of names and tensors, by itself or under one of "
        f"{', '.join(_STATE_KEYS)}"
    )


def _check_tensors(path: Path, state: dict[str, torch.Tensor], largest_bytes: int) -> None:
    """Tensors that are what they seem: numbers in memory, no more of them than allowed, all finite."""
    for name, tensor in state.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise WeightsError(
                f"{path}: {shown(name)} is no plain tensor ({tensor.device}, {tensor.layout}); not loaded"
            )
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _FLOATS):
            raise WeightsError(f"{path}: {shown(name)} holds {tensor.dtype}, expected numbers of 16, 32 or 64 bits")
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > largest_bytes:
        raise too_large(path, total, largest_bytes)
    for name, tensor in state.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"{path}: {shown(name)} is a view of {tensor.numel():,} numbers on the "
                f"{tensor.untyped_storage().nbytes():,} bytes in the file; save it with .contiguous(); not loaded"
            )
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: {shown(name)} holds numbers that are not finite; not loaded")


def _origin_of(path: Path, saved: object, state: dict[str, torch.Tensor]) -> Origin | None:
    """What an `ImageClassifier` says of itself; None where something else, or nothing, was said."""
    settings = saved.get("hyper_parameters") if isinstance(saved, dict) else None
    if not isinstance(settings, dict) or not all(name.startswith(_NETWORK_PREFIX) for name in state):
        return None
    names: dict[str, Any] = {field: settings.get(field) for field in ("family", "variant")}
    if not all(isinstance(name, str) for name in names.values()) or not {"image_size", "in_channels"} <= set(settings):
        return None
    sizes: dict[str, Any] = {field: settings[field] for field in ("image_size", "in_channels")}
    designed_for = settings.get("designed_for")
    sizes["designed_for"] = sizes["image_size"] if designed_for is None else designed_for
    for field, value in sizes.items():
        if not _is_size(value):
            raise WeightsError(
                f"{path}: its hyper_parameters.{field} is {quoted(value)}; expected a whole number from 1 to "
                f"{LARGEST_SIZE:,}"
            )
    return Origin(**names, **sizes)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIZE
