"""Weights of another training as the start of a new one.

The whole old head is left out and the new one is zero (Dosovitskiy et al. 2010.11929, section 3.2); everything else
must be there, by name and by shape, after positions were resized. Weights of this package say what they were trained
in. Others are converted by timm's own function for the architecture, where it has one: old names, patch kernels and
position embeddings of other sizes; images of other numbers of channels as in timm's own loading.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import nn

from models.checkpoints import Origin, Weights, read_weights
from models.head import classifier_name, clear_classifier
from models.resolution import resize_state
from models.weights_error import WeightsError, quoted, shown

# A training's file may hold averaged weights, two moments of an optimiser, all in double precision, and a large head.
_LARGEST_MULTIPLE, _LARGEST_REST = 16, 256 * 2**20
_MAX_NAMED = 5
_LONGEST_REASON = 300  # letters of another library's message, which may quote the file


@dataclass(frozen=True)
class LoadedStart:
    """What became of a checkpoint.

    Attributes:
        path: the file.
        sha256: of its bytes.
        origin: what the weights were trained in, where the file says so.
        dropped: tensors of the old head.
        resized: tensors whose shape in the file is another.
    """

    path: Path
    sha256: str
    origin: Origin | None
    dropped: tuple[str, ...]
    resized: tuple[str, ...]


class MisfitError(WeightsError):
    """Weights of another network.

    Attributes:
        missing: tensors that the network has and the file has not.
        unexpected: tensors that the file has and the network has not.
        misshapen: tensors of another shape or kind, with both.
    """

    def __init__(self, where: str, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        self.missing, self.unexpected, self.misshapen = tuple(missing), tuple(unexpected), tuple(misshapen)
        parts = [
            f"{kind}: {', '.join(shown(name) for name in names[:_MAX_NAMED])}"
            + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if names
        ]
        super().__init__(f"{where}: {'; '.join(parts)}")


def load_start(
    path: str | Path,
    network: nn.Module,
    *,
    family: str,
    variant: str,
    image_size: int,
    in_channels: int = 3,
    designed_for: int | None = None,
    sha256: str | None = None,
) -> LoadedStart:
    """Give a network the weights of a checkpoint, all but the head, and set its classifier to zero.

    Args:
        path: a file as of `read_weights`.
        network: what ``build_network`` gave for the following arguments, with any number of classes; changed in place,
            or not at all where the weights are refused.
        family: of the network.
        variant: of the network.
        image_size: side of the images it is to be trained on.
        in_channels: channels of these images.
        designed_for: side of the images that its sizes are solved for; None for ``image_size``.
        sha256: what the file's SHA-256 must be.

    Raises:
        WeightsError: the file is damaged or holds code, its weights cannot be resized, or (`MisfitError`) they are not
            those of this network.
        ValueError: the network's classifier cannot be found.
    """
    weights = read_weights(path, sha256=sha256, largest_bytes=largest_bytes(network))
    target = Origin(family, variant, image_size, in_channels, designed_for or image_size)
    state, start = fit_weights(weights, network, target)
    network.load_state_dict(state, strict=False)  # the head alone is missing
    clear_classifier(network)
    return start


def largest_bytes(network: nn.Module) -> int:
    """No checkpoint of this network is larger, in its file or in memory; the network may be on meta."""
    own: int = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return _LARGEST_MULTIPLE * own + _LARGEST_REST


def fit_weights(weights: Weights, network: nn.Module, target: Origin) -> tuple[dict[str, torch.Tensor], LoadedStart]:
    """The weights as a network takes them, without a head; the network is looked at, not changed, and may be on meta.

    Args:
        weights: what `read_weights` read.
        network: what is to take them.
        target: what that network is.

    Raises:
        MisfitError: a tensor is missing, unexpected or of another shape.
        WeightsError: the file says that its weights are of another network, they cannot be resized, or numbers are not
            finite in the network's precision.
        ValueError: the network's classifier cannot be found.
    """
    head = f"{classifier_name(network)}."
    if weights.origin is not None:
        _check_origin(weights.path, weights.origin, target)
    if weights.origin is not None and weights.origin.image_size == target.image_size:
        state = weights.state
    elif weights.origin is not None and ":" not in target.family:
        state = _resized(weights.path, weights.state, weights.origin, target)
    else:
        state = _converted(weights.path, weights.state, network)
    dropped = tuple(sorted(name for name in state if name.startswith(head)))
    state = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    _check_fit(f"{weights.path}: does not fit {_told(target)}", state, network, head)
    _check_finite(weights.path, state, network)
    before = {name: tensor.shape for name, tensor in weights.state.items()}
    resized = tuple(sorted(name for name in state if before.get(name, state[name].shape) != state[name].shape))
    return state, LoadedStart(weights.path, weights.sha256, weights.origin, dropped, resized)


def _check_origin(path: Path, found: Origin, target: Origin) -> None:
    for field in ("family", "variant", "in_channels", "designed_for"):
        if getattr(found, field) != getattr(target, field):
            raise WeightsError(
                f"{path}: holds the weights of {_told(found)}, expected those of {_told(target)}: {field} is "
                f"{quoted(getattr(found, field))}, not {getattr(target, field)!r}"
            )


def _told(network: Origin) -> str:
    at = (
        f"{network.image_size} px"
        if network.image_size == network.designed_for
        else (f"{network.image_size} px (designed for {network.designed_for} px)")
    )
    return f"{shown(network.family)} {shown(network.variant)} for {network.in_channels} channels at {at}"


def _resized(path: Path, state: dict[str, torch.Tensor], found: Origin, target: Origin) -> dict[str, torch.Tensor]:
    try:
        return resize_state(
            found.family,
            found.variant,
            state,
            designed_for=found.designed_for,
            old_size=found.image_size,
            new_size=target.image_size,
            in_channels=found.in_channels,
        )
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: its hyper_parameters.image_size is {found.image_size}, and its weights cannot be resized from "
            f"there to {target.image_size} px: {shown(str(error), _LONGEST_REASON)}"
        ) from error


def _converted(path: Path, state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """A state dictionary from elsewhere, converted as timm does when it loads its own weights."""
    convert = _timm_filter(network)
    try:
        converted = convert(dict(state), network) if convert is not None else dict(state)
        return _with_channels(converted, network)
    except (AttributeError, AssertionError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: its tensors are not those of {type(network).__name__}: timm cannot convert them "
            f"({type(error).__name__}: {shown(str(error), _LONGEST_REASON)})"
        ) from error


def _timm_filter(network: nn.Module) -> Callable[..., dict[str, torch.Tensor]] | None:
    """The function by which timm converts checkpoints of this architecture, if it has one."""
    for kind in type(network).__mro__:
        if kind.__module__.startswith("timm.models."):
            module: Any = sys.modules[kind.__module__]
            found: Callable[..., dict[str, torch.Tensor]] | None = getattr(
                module, "checkpoint_filter_fn", getattr(module, "_checkpoint_filter_fn", None)
            )
            return found
    return None


def _with_channels(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """First convolutions of a timm model for another number of channels: summed for one, else repeated and scaled."""
    settings: Any = getattr(network, "pretrained_cfg", None) or {}
    names, shapes = settings.get("first_conv") or (), {name: t.shape for name, t in network.state_dict().items()}
    for name in (f"{one}.weight" for one in ((names,) if isinstance(names, str) else names)):
        if name in state and name in shapes and state[name].ndim == 4 and state[name].shape[1] != shapes[name][1]:
            state[name] = adapt_input_conv(shapes[name][1], state[name], base_chans=state[name].shape[1])
    return state


def _check_fit(where: str, state: Mapping[str, torch.Tensor], network: nn.Module, head: str) -> None:
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(head)}
    misshapen = [
        f"{name} ({_kind(state[name])}, expected {_kind(tensor)})"
        for name, tensor in expected.items()
        if name in state and _kind(state[name]) != _kind(tensor)
    ]
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected or misshapen:
        raise MisfitError(where, missing, unexpected, misshapen)


def _check_finite(path: Path, state: Mapping[str, torch.Tensor], network: nn.Module) -> None:
    """Numbers as the network will hold them: a large one of double precision is infinite in single."""
    for name, tensor in network.state_dict().items():
        if name in state and not state[name].to(tensor.dtype).isfinite().all():
            raise WeightsError(f"{path}: {shown(name)} holds numbers that are not finite as {tensor.dtype}; not loaded")


def _kind(tensor: torch.Tensor) -> str:
    """Shape, and whether the numbers are whole."""
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"
