"""Networks that draw random numbers while they train, and so cannot share a program."""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.lanes.stacking import ImageShape
from models.masked_patches import MaskedPatchNetwork


def why_no_lanes(network: nn.Module, image_shape: ImageShape | None = None) -> str | None:
    """Why a network must train alone, in words; None if it may train in lanes.

    A network that draws (dropout, stochastic depth) takes its numbers from one generator, which a solo run seeds by its
    own seed and step. Lanes share that generator, so a lane would not equal its solo run.

    Args:
        network: a solo network.
        image_shape: ``(C, H, W)`` of its images. If given, one training batch is also run on a copy on the CPU, and
            whatever moves PyTorch's generator is found, also in code from outside.
    """
    if isinstance(network, MaskedPatchNetwork):
        return "masked patch prediction takes masks drawn for each run beside its images, and lanes take images alone"
    for name, layer in network.named_modules():
        drawn = _draws(layer)
        if drawn:
            where = f"layer {name!r}" if name else "the network"
            return f"{where} ({type(layer).__name__}) draws random numbers in training ({drawn})"
    if image_shape is not None and _moves_generator(network, image_shape):
        return f"{type(network).__name__} draws random numbers in training (seen by running it)"
    return None


def _draws(layer: nn.Module) -> str | None:
    """The setting by which a layer draws: a positive probability, by the names that PyTorch and timm give it."""
    if isinstance(layer, nn.RReLU):
        return "random slopes"
    for name, value in vars(layer).items():
        probability = "drop" in name.lower() or (name in {"p", "prob"} and _is_dropping(layer))
        if probability and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return f"{name}={value:g}"
    return None


def _is_dropping(layer: nn.Module) -> bool:
    kind = type(layer).__name__.lower()
    return "drop" in kind or "stochastic" in kind


def _moves_generator(network: nn.Module, image_shape: ImageShape) -> bool:
    with torch.random.fork_rng(devices=()), torch.no_grad():
        before = torch.get_rng_state()
        copy.deepcopy(network).cpu().train()(torch.zeros(2, *image_shape))
        return not torch.equal(before, torch.get_rng_state())
