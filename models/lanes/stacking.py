"""Which networks have a stacked form, and how it is made from solo networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.layers.norm import LayerNorm as TimmLayerNorm
from torch import nn

from models.lanes.layers import StackedLayerNorm, StackedLinear, StackedPatchConv
from models.lanes.recurrence import StackedLSTM
from models.lanes.tokens import OWN_TOKENS, STACKED_TRANSFORMERS, stack_positions, stack_tokens
from models.position import AxialPosition, LearnedPosition, RotaryPosition, SinusoidalPosition

ImageShape = tuple[int, int, int]

# Exact types: a subclass may compute something else.
STACKED_FORMS: dict[type[nn.Module], Callable[[Sequence[Any]], nn.Module]] = {
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    TimmLayerNorm: StackedLayerNorm,
    nn.Conv2d: StackedPatchConv,
    nn.LSTM: StackedLSTM,
    LearnedPosition: stack_positions,
    AxialPosition: stack_positions,
}
# Their buffers are the same in all lanes, and images pass through them one by one.
_WITHOUT_WEIGHTS = (SinusoidalPosition, RotaryPosition)
_KNOWN_CODE = ("torch", "timm", "models")  # packages whose forward code is known to keep the images of a batch apart
_PROBE_TOLERANCE = 1e-9  # relative, in float64


def why_not_stacked(network: nn.Module, image_shape: ImageShape | None = None) -> str | None:
    """Why a network has no stacked form, in words; None if it has one.

    Judged by the kinds of layers found, whatever the family: every layer that has weights or buffers must be one whose
    stacked form is known, and code from outside this package, PyTorch and timm is not trusted to keep images apart.

    Args:
        network: a solo network.
        image_shape: ``(C, H, W)`` of its images. If given, the stacked form of two lanes with random weights is
            also held against the solo networks, in float64 on the CPU, and code from outside is judged by that.
    """
    unknown = next(_unknown_layers(network, trust_code=image_shape is not None), None)
    if unknown is not None or image_shape is None:
        return unknown
    return _probe(network, image_shape)


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """One network ``[L * B, C, H, W]`` -> ``[L * B, K]`` with the weights of all; lane 0's images come first.

    Its state dictionary has the names of a solo network and one more axis ``L`` in front.
    """
    stacked = copy.deepcopy(networks[0])
    others = [dict(network.named_modules()) for network in networks]
    for name, layer in list(stacked.named_modules()):
        lanes = [modules[name] for modules in others]
        if type(layer) in STACKED_TRANSFORMERS:
            stack_tokens(layer, lanes)
        elif type(layer) in STACKED_FORMS:
            form = STACKED_FORMS[type(layer)](lanes).train(layer.training)
            if not name:
                return form
            parent, _, attribute = name.rpartition(".")
            setattr(stacked.get_submodule(parent), attribute, form)
    return stacked


def _unknown_layers(network: nn.Module, *, trust_code: bool) -> Iterator[str]:
    """What stands against stacking, layer by layer."""
    if len(list(network.parameters())) != len(list(network.named_parameters(remove_duplicate=False))):
        yield "it uses one parameter in two places"
    for name, layer in network.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
        owned = [own for own, parameter in layer.named_parameters(recurse=False) if parameter is not None]
        buffers = [own for own, _ in layer.named_buffers(recurse=False)]
        if getattr(layer, "shared_position", ()):
            yield f"{where} uses parameters of the network's position embedding, which other layers use too"
        elif buffers and type(layer) not in _WITHOUT_WEIGHTS:
            yield f"{where} keeps buffers ({', '.join(buffers)}) that have no stacked form"
        elif type(layer) in STACKED_FORMS:
            reason = _unsuited(layer)
            if reason:
                yield f"{where} {reason}"
        elif type(layer) in STACKED_TRANSFORMERS and not layer.dynamic_img_size and set(owned) <= set(OWN_TOKENS):
            continue
        elif owned:
            yield f"{where} owns parameters ({', '.join(owned)}) of no known stacked form"
        elif not trust_code and type(layer).__module__.partition(".")[0] not in _KNOWN_CODE:
            yield f"{where} is code from outside, which is not known to keep the images of a batch apart"


def _unsuited(layer: nn.Module) -> str | None:
    """Why this layer is not of the kind whose stacked form is known, although its type is."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding in ((0, 0), "valid")
        if not plain or layer.stride != layer.kernel_size:
            return "is not a convolution on patches that do not overlap (stride = kernel, no padding, one group)"
    if isinstance(layer, nn.LSTM) and (not layer.batch_first or layer.proj_size):
        return "is not an LSTM with the batch first and without projection"
    if isinstance(layer, TimmLayerNorm) and layer._fast_norm:
        return "normalises in low precision (timm's fast norm)"
    return None


def _probe(network: nn.Module, image_shape: ImageShape) -> str | None:
    """Hold two stacked lanes with random weights against their solo networks."""
    generator = torch.Generator().manual_seed(0)
    lanes = [copy.deepcopy(network).cpu().double().eval() for _ in range(2)]
    with torch.no_grad():
        for parameter in (parameter for lane in lanes for parameter in lane.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
        images = torch.randn(2, 3, *image_shape, generator=generator, dtype=torch.float64)
        solo = torch.cat([lane(batch) for lane, batch in zip(lanes, images, strict=True)])
        try:
            stacked = stack(lanes)(images.flatten(0, 1))
        except (RuntimeError, TypeError, AttributeError, ValueError, IndexError) as error:
            return f"its code does not run on stacked layers: {type(error).__name__}: {error}"
    if stacked.shape != solo.shape or not torch.dist(stacked, solo) <= _PROBE_TOLERANCE * solo.norm():
        return "its code does not keep the images of a batch apart: stacked lanes gave other logits than solo networks"
    return None
