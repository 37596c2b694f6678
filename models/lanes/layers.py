"""Layers whose weights differ from lane to lane: one matrix product for all lanes.

Between layers, activations travel as ``[L * B, ...]``, the images of lane 0 first, so that attention heads, residuals
and pooling are the ordinary code of a solo network. Only the layers here see the lanes: they split the first axis into
``L`` equal parts. A parameter has the name of the solo layer's and one more axis in front, ``[L, ...]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def stacked_parameter(parameters: Sequence[torch.Tensor]) -> nn.Parameter:
    """Copies of ``L`` equal-shaped parameters as one parameter ``[L, ...]``, trained if the first one is."""
    with torch.no_grad():
        return nn.Parameter(torch.stack([parameter.detach() for parameter in parameters]), parameters[0].requires_grad)


class StackedLayer(nn.Module):
    """What stacked layers share: the parameters of ``L`` solo layers under their own names, ``[L, ...]``."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.num_lanes = len(layers)
        for name, first in layers[0]._parameters.items():
            stacked = None if first is None else stacked_parameter([layer._parameters[name] for layer in layers])  # type: ignore[misc]
            self.register_parameter(name, stacked)


def lane_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Linear maps ``[L, N, in]`` -> ``[L, N, out]`` by weights ``[L, out, in]`` and biases ``[L, out]``."""
    if bias is None:
        return torch.bmm(inputs, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))


class StackedLinear(StackedLayer):
    """``nn.Linear`` of every lane as one batched product, ``[L * B, ..., in]`` -> ``[L * B, ..., out]``."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map every lane's rows by its own weights."""
        rows = inputs.reshape(self.num_lanes, -1, inputs.shape[-1])
        return lane_linear(rows, self.weight, self.bias).view(*inputs.shape[:-1], self.weight.shape[1])


class StackedLayerNorm(StackedLayer):
    """``nn.LayerNorm`` of every lane: normalised without affine at once, then scaled and shifted by lane."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, layers: Sequence[nn.LayerNorm]) -> None:
        super().__init__(layers)
        self.normalized_shape = layers[0].normalized_shape
        self.eps = layers[0].eps

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalise the last axes of ``[L * B, ..., *normalized_shape]``."""
        normalized = F.layer_norm(inputs, self.normalized_shape, None, None, self.eps)
        if self.weight is None:
            return normalized
        rows = normalized.view(self.num_lanes, -1, *self.normalized_shape)
        if self.bias is None:
            return (rows * self.weight.unsqueeze(1)).view_as(inputs)
        return torch.addcmul(self.bias.unsqueeze(1), rows, self.weight.unsqueeze(1)).view_as(inputs)


class StackedPatchConv(StackedLayer):
    """``nn.Conv2d`` on patches that do not overlap (stride = kernel, no padding) as one batched product.

    Pixels that fill no whole patch at the right and lower border are left out, as the convolution does.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Project patches of images ``[L * B, C, H, W]`` -> ``[L * B, out, H / k, W / k]``."""
        num_lanes, out_channels, in_channels, height, width = self.weight.shape
        rows, columns = images.shape[2] // height, images.shape[3] // width
        whole = images[:, :, : rows * height, : columns * width]
        patches = whole.reshape(-1, in_channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(num_lanes, -1, in_channels * height * width)
        projected = lane_linear(flat, self.weight.flatten(2), self.bias)
        return projected.view(-1, rows, columns, out_channels).permute(0, 3, 1, 2)
