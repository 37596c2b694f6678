"""FLOPs of any network, counted by running it on the meta device.

PyTorch's ``FlopCounterMode`` with its known errors put right:

- it counts nothing for fused attention and LSTM kernels of a CPU: everything runs on the meta device, attention as
  plain matrix products, where all products are seen;
- it counts the weight gradient of a grouped convolution once per group too often: it gets the right formula here.

A batch of at least two is used, because some kernels treat one example as a vector.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from timm.layers.config import set_fused_attn, use_fused_attn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.flops import ForwardFlops

_SMALLEST_BATCH = 2


def count_forward_flops(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Forward FLOPs per example of a network in training mode.

    Args:
        module: any network that takes one tensor; it is copied, not changed.
        input_shape: shape of a batch, ``[B, C, H, W]`` for images, with ``B >= 2``.

    Raises:
        ValueError: the batch is smaller than two.
    """
    return _count(module, input_shape, backward=False)[0]


def count_training_flops(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Forward and backward FLOPs per example; the input needs no gradient, as in training.

    Args:
        module: any network that takes one tensor; it is copied, not changed.
        input_shape: shape of a batch, ``[B, C, H, W]`` for images, with ``B >= 2``.

    Raises:
        ValueError: the batch is smaller than two.
    """
    return _count(module, input_shape, backward=True)[1]


def count_flops(module: nn.Module, input_shape: Sequence[int]) -> ForwardFlops:
    """Count a network whose layout is unknown.

    What its first layer saves in the backward pass is taken as the difference between 3 x forward and the counted
    training FLOPs, so that ``train_exact`` is the counted number.
    """
    forward, training = _count(module, input_shape, backward=True)
    return ForwardFlops(forward, 3 * forward - training)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build networks without storage, with attention as plain matrix products."""
    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        with torch.device("meta"):
            yield
    finally:
        set_fused_attn(bool(fused))


def _count(module: nn.Module, input_shape: Sequence[int], *, backward: bool) -> tuple[int, int]:
    """FLOPs per example of the forward pass, and of both passes (0 without ``backward``)."""
    batch_size = input_shape[0]
    if batch_size < _SMALLEST_BATCH:
        raise ValueError(f"input_shape={tuple(input_shape)}: expected a batch of at least {_SMALLEST_BATCH}")
    network = copy.deepcopy(module).to("meta").train()
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flops}
    )
    inputs = torch.empty(tuple(input_shape), device="meta")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        outputs = network(inputs)
        forward: int = counter.get_total_flops()
        if backward:
            outputs.sum().backward()
    training: int = counter.get_total_flops() if backward else 0
    return forward // batch_size, training // batch_size


def _convolution_backward_flops(
    grad_output: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    *options: Any,  # noqa: ANN401  # bias, stride, padding, dilation, transposed, output padding, groups, mask
    **others: Any,  # noqa: ANN401
) -> int:
    """Each requested gradient, of the input and of the weight, costs what the forward convolution did."""
    del others
    transposed, output_mask = options[4], options[-1]
    positions = (inputs if transposed else grad_output)[2:]
    forward = 2 * grad_output[0] * prod(positions) * prod(weight)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))
