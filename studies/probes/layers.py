"""The layers of any network that probes read, and where their outputs lie on the image.

A layer is found by running the network once. The network is opened; so is every module that is a chain (each part
reads what the one before it gave) of more than one layer with weights: the stages of a ResNet, the blocks of a
transformer. Whatever else has an output is one layer: a residual block, a convolution with its norm and activation, a
patch embedding. Parts that return their input as it is (dropout, a flattening) are none. Two layers exist in every
network: ``features``, what the classifier reads, and ``logits``, what the network gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models import classifier_name
from studies.probes.places import Arrangement, Made, Places, arranged_by
from studies.probes.presenting import evaluation_mode

FEATURES = "features"
LOGITS = "logits"


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: dotted name of the module, or `FEATURES` or `LOGITS`.
        module: dotted name of the module that is watched; empty for the network itself.
        reads: whether what that module reads is meant, instead of what it gives.
        arrangement: of its output.
        grid: rows and columns; None for a vector, which has no places.
        stride: pixels of the image from one row, one column of the grid to the next: as convolutions and poolings state
            it, and else whole: a map of 7 behind one of 15 has stride 2, whatever its borders are. (1, 1) for a vector.
        num_prefix_tokens: tokens before those of the grid, such as a class token; they are left out of the map.
    """

    name: str
    module: str
    arrangement: Arrangement
    reads: bool = False
    grid: tuple[int, int] | None = None
    stride: tuple[float, float] = (1.0, 1.0)
    num_prefix_tokens: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """Bring an output into the form ``[B, C, h, w]``; a vector into ``[B, C, 1, 1]``."""
        if self.grid is None:
            return output.flatten(1)[:, :, None, None]
        if self.arrangement is Arrangement.TOKENS:
            tokens = output[:, self.num_prefix_tokens :].transpose(1, 2)
            return tokens.reshape(*tokens.shape[:2], *self.grid)
        return output.permute(0, 3, 1, 2) if self.arrangement is Arrangement.CHANNELS_LAST else output


def spatial_layers(network: nn.Module, images: Tensor) -> tuple[Layer, ...]:
    """The layers whose output is a map, or tokens on a grid, in the order they run. See `network_layers`."""
    return tuple(layer for layer in network_layers(network, images) if layer.grid is not None)


def network_layers(network: nn.Module, images: Tensor) -> tuple[Layer, ...]:
    """The layers of a network in the order they run, features and logits last.

    Left out are a module that runs several times in one pass, an output that is not one of every image, such as a table
    of positions, and a map whose stride or arrangement cannot be told (`places`). Of tokens that are one more than a
    square, the first is taken for a class token unless the network says otherwise (`num_prefix_tokens`, as timm's do).

    Args:
        network: any network of images.
        images: float ``[B, C, H, W]``; the network runs once on the first two, on a single one twice over.
    """
    two = images[:2] if len(images) > 1 else torch.cat([images, images])
    with evaluation_mode(network), torch.no_grad():
        calls = _trace(network, two)
    whole, inside = calls[""], _insides(calls)
    opened = list(_opened(_innermost(whole, inside), inside))
    found = [(call.name, call.name, False, call.gave) for call in opened]
    last = [(LOGITS, "", False, whole.gave)]
    if (classifier := _classifier(network, calls)) is not None:
        last.insert(0, (FEATURES, classifier.name, True, classifier.read))
    kept = [one for one in found if not any(one[3].same_as(other[3]) for other in last)]
    own = (getattr(module, "num_prefix_tokens", None) for module in network.modules())
    places = Places(two.shape[2:], next((number for number in own if isinstance(number, int)), None))
    layers = []
    for name, module, reads, stamp in kept + last:
        if not stamp.shape or stamp.shape[0] != len(two):
            continue
        place = places.place(stamp.shape, _made(stamp, opened, calls))
        if place is not None:
            taken = name == module and name in (FEATURES, LOGITS) and not reads  # a module may be called so
            unique = f"network.{name}" if taken else name
            layers.append(
                Layer(unique, module, place.arrangement, reads, place.grid, place.stride, place.num_prefix_tokens)
            )
    return tuple(layers)


@contextmanager
def captured(network: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    """What the layers give whenever the network runs inside the context, as maps ``[B, C, h, w]`` by name.

    Outputs are copied as they come, since later layers may write over them; gradients pass through the copy.
    """
    seen: dict[str, Tensor] = {}

    def keep(layer: Layer, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], gave: object) -> None:
        del module
        tensor = _first_tensor((*given, *named.values()) if layer.reads else gave)
        if tensor is not None:
            seen[layer.name] = layer.as_map(tensor).clone()

    def keep_read(layer: Layer, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep(layer, module, given, named, None)

    hooks = []
    try:
        for layer in layers:
            module = network.get_submodule(layer.module)
            if layer.reads:
                hooks.append(module.register_forward_pre_hook(partial(keep_read, layer), with_kwargs=True))
            else:
                hooks.append(module.register_forward_hook(partial(keep, layer), with_kwargs=True))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class _Stamp:
    """A tensor at one moment: views of one piece of memory that nothing has written to in between are the same."""

    tensor: Tensor  # held, so that its memory is not given to another
    version: int

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def same_as(self, other: _Stamp) -> bool:
        mine, its = ((one.tensor.data_ptr(), one.tensor.numel(), one.version) for one in (self, other))
        return mine == its

    def lies_as(self, other: _Stamp) -> bool:
        """Whether it is the same with the same axes, not a view that turns them."""
        mine, its = self.tensor, other.tensor
        return self.same_as(other) and (mine.shape, mine.stride()) == (its.shape, its.stride())


@dataclass(frozen=True)
class _Call:
    """One module's one run: what it read and what it gave."""

    name: str
    module: nn.Module
    read: _Stamp
    gave: _Stamp

    @property
    def num_weights(self) -> int:
        """Matrices and kernels in it; gains and biases are vectors."""
        return sum(parameter.ndim > 1 for parameter in self.module.parameters())


def _trace(network: nn.Module, images: Tensor) -> dict[str, _Call]:
    """Every module that runs once, in the order they end; the network itself is named ''."""
    reading: dict[str, list[_Stamp]] = {}
    calls: dict[str, list[_Call]] = {}

    def before(name: str, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        del module
        tensor = _first_tensor((*given, *named.values()))
        if tensor is not None:
            reading.setdefault(name, []).append(_Stamp(tensor, tensor._version))

    def after(name: str, module: nn.Module, given: object, gave: object) -> None:
        del given
        tensor = _first_tensor(gave)
        if tensor is not None and reading.get(name):
            run = _Call(name, module, reading[name][-1], _Stamp(tensor, tensor._version))
            calls.setdefault(name, []).append(run)

    hooks = []
    try:
        for name, module in network.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(after, name)))
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: runs[0] for name, runs in calls.items() if len(runs) == len(reading[name]) == 1}


def _opened(call: _Call, inside: Mapping[str, Sequence[_Call]]) -> Iterator[_Call]:
    """The layers inside a module that is opened."""
    for part in inside.get(call.name, ()):
        if part.num_weights > 1 and _is_chain(part, inside.get(part.name, ())):
            yield from _opened(part, inside)
        elif not part.gave.same_as(part.read):
            yield part


def _innermost(call: _Call, inside: Mapping[str, Sequence[_Call]]) -> _Call:
    """The network behind everything that only wraps it."""
    parts = inside.get(call.name, ())
    return _innermost(parts[0], inside) if len(parts) == 1 and inside.get(parts[0].name) else call


def _insides(calls: Mapping[str, _Call]) -> dict[str, list[_Call]]:
    """What runs directly inside each module; a list of modules, which does not run itself, is looked through."""
    inside: dict[str, list[_Call]] = {}
    for name, call in calls.items():
        holder = name.rpartition(".")[0]
        while holder and holder not in calls:
            holder = holder.rpartition(".")[0]
        if name:
            inside.setdefault(holder, []).append(call)
    return inside


def _is_chain(call: _Call, parts: Sequence[_Call]) -> bool:
    last = call.read
    for part in parts:
        if not part.read.same_as(last):
            return False
        last = part.gave
    return bool(parts) and last.same_as(call.gave)


def _classifier(network: nn.Module, calls: Mapping[str, _Call]) -> _Call | None:
    """The run of the classifier, of the network itself or of the one that it wraps."""
    inside: nn.Module = network
    prefix = ""
    while True:
        try:
            return calls.get(prefix + classifier_name(inside))
        except ValueError:
            parts = [name for name, _ in inside.named_children() if prefix + name in calls]
            if len(parts) != 1:
                return None
            inside, prefix = inside.get_submodule(parts[0]), f"{prefix}{parts[0]}."


def _made(output: _Stamp, opened: Sequence[_Call], calls: Mapping[str, _Call]) -> Made:
    """How an output came about, and how it lies, as far as the modules that gave or read it say."""
    maker = next((call for call in opened if call.gave.same_as(output)), None)
    beside = [call for call in calls.values() if call.gave.lies_as(output) or call.read.lies_as(output)]
    said = [arranged_by(call.module) for call in ([maker] if maker else []) + beside]
    channels_last = next((one for one in said if one is not None), None)
    if channels_last is None and maker is not None:
        kinds = {one for module in maker.module.modules() if (one := arranged_by(module)) is not None}
        channels_last = kinds.pop() if len(kinds) == 1 else None
    if maker is None:
        return Made(channels_last=channels_last)
    return Made(maker.module, tuple(maker.read.shape), channels_last)


def _first_tensor(value: object) -> Tensor | None:
    """The tensor itself, or the first of several (a recurrent layer also gives its state)."""
    if isinstance(value, tuple | list):
        return next((found for part in value if (found := _first_tensor(part)) is not None), None)
    return value if isinstance(value, Tensor) else None
