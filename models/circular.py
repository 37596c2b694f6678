"""Convolution on a torus: borders wrap around, and the padding costs one copy each way.

``Conv2d(padding_mode="circular")`` pads by a dozen slice assignments that autograd follows one by one; on one CPU core
that was a twelfth of a small ResNet's training step. Here forward and backward are written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class _WrapBorders(torch.autograd.Function):
    """Pads maps by ``border`` pixels from the opposite side; the result lies in memory with channels last."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, border: int) -> torch.Tensor:  # noqa: ANN401  # autograd's context
        ctx.border = border
        batch, channels, height, width = maps.shape
        shape = (batch, channels, height + 2 * border, width + 2 * border)
        padded = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)
        padded[:, :, border:-border, border:-border] = maps
        padded[:, :, :border, border:-border] = maps[:, :, -border:]
        padded[:, :, -border:, border:-border] = maps[:, :, :border]
        # Whole columns, the rows just copied included, so that corners come from the opposite corner.
        padded[..., :border] = padded[..., width : width + border]
        padded[..., -border:] = padded[..., border : 2 * border]
        return padded

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Adds what reaches the borders to the pixels they were copied from."""
        border = ctx.border
        columns = gradient[..., border:-border].clone(memory_format=torch.channels_last)
        columns[..., -border:] += gradient[..., :border]
        columns[..., :border] += gradient[..., -border:]
        maps = columns[:, :, border:-border]
        maps[:, :, -border:] += columns[:, :, :border]
        maps[:, :, :border] += columns[:, :, -border:]
        return maps, None


def wrap_borders(maps: torch.Tensor, border: int) -> torch.Tensor:
    """Pad maps ``[B, C, H, W]`` from the opposite side -> ``[B, C, H + 2 border, W + 2 border]``, channels last.

    The same values as ``F.pad(maps, (border,) * 4, mode="circular")``.

    Raises:
        ValueError: the border is wider than the map.
    """
    if not 1 <= border <= min(maps.shape[2:]):
        raise ValueError(
            f"border {border} of maps of {maps.shape[2]} x {maps.shape[3]}: expected 1 to the smaller side"
        )
    padded: torch.Tensor = _WrapBorders.apply(maps, border)
    return padded


class CircularConv2d(nn.Conv2d):
    """Convolution whose borders wrap around; weights and state as of `torch.nn.Conv2d`."""

    @classmethod
    def like(cls, convolution: nn.Conv2d) -> CircularConv2d:
        """The same convolution with wrapped borders; takes over its parameters."""
        with torch.device("meta"):
            wrapped = cls(
                convolution.in_channels,
                convolution.out_channels,
                convolution.kernel_size,  # type: ignore[arg-type]  # a pair, as stored
                convolution.stride,  # type: ignore[arg-type]
                convolution.padding,  # type: ignore[arg-type]
                convolution.dilation,  # type: ignore[arg-type]
                convolution.groups,
                bias=convolution.bias is not None,
                padding_mode="circular",
            )
        wrapped.weight, wrapped.bias = convolution.weight, convolution.bias
        return wrapped

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Convolve ``[B, C, H, W]`` -> ``[B, D, H / stride, W / stride]``."""
        return F.conv2d(
            wrap_borders(maps, int(self.padding[0])), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )
