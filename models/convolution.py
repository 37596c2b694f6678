"""Convolutional stages: a stem and residual blocks (He et al. 1512.03385), shared by the ResNet and the hybrid.

timm's residual blocks in stages whose width doubles where the map halves. Images up to 64 px keep their full size
through a 3x3 stem; larger ones enter through the paper's 7x7 stride-2 stem and max-pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import log, prod
from typing import TYPE_CHECKING, Any

from models.flops import ForwardFlops, convolution_flops, halved
from models.solver import bisect_width, distance_from_doubling, doubling_widths, nearest_layout

if TYPE_CHECKING:
    from torch import nn

LARGEST_UNREDUCED_IMAGE = 64
_BOTTLENECK_EXPANSION = 4


@dataclass(frozen=True)
class ConvStages:
    """A stem and stages of residual blocks: the convolutional part of a ResNet, and of the hybrid.

    Attributes:
        stem_width: channels after the stem.
        widths: channels inside the blocks of each stage; bottleneck blocks put out four times as many.
        depths: blocks of each stage.
        strides: stride of each stage's first block.
        bottleneck: 1x1, 3x3, 1x1 blocks instead of 3x3, 3x3.
        reducing_stem: 7x7 stride-2 convolution and 3x3 stride-2 max-pooling instead of one 3x3 convolution.
        circular: wrap borders around instead of padding with zeros.
        group_norm: group norm instead of batch norm.
    """

    image_size: int
    in_channels: int
    stem_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    bottleneck: bool = False
    reducing_stem: bool = False
    circular: bool = False
    group_norm: bool = False

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.widths[-1] * (_BOTTLENECK_EXPANSION if self.bottleneck else 1)

    @property
    def out_size(self) -> int:
        """Side of the last map in pixels."""
        size = halved(halved(self.image_size)) if self.reducing_stem else self.image_size
        for stride in self.strides:
            size = halved(size) if stride == 2 else size
        return size

    @property
    def total_stride(self) -> int:
        """Pixels of the image between neighbours on the last map."""
        return prod(self.strides) * (4 if self.reducing_stem else 1)

    def flops(self) -> ForwardFlops:
        """Forward FLOPs per example."""
        kernel_size, size = (7, halved(self.image_size)) if self.reducing_stem else (3, self.image_size)
        first_layer = convolution_flops(self.in_channels, self.stem_width, kernel_size, size)
        size = halved(size) if self.reducing_stem else size
        total, before = first_layer, self.stem_width
        for width, depth, first_stride in zip(self.widths, self.depths, self.strides, strict=True):
            for stride in (first_stride, *[1] * (depth - 1)):
                total += _block_flops(before, width, size, stride, bottleneck=self.bottleneck)
                size = halved(size) if stride == 2 else size
                before = width * (_BOTTLENECK_EXPANSION if self.bottleneck else 1)
        return ForwardFlops(total, first_layer)


def _block_flops(before: int, width: int, size: int, stride: int, *, bottleneck: bool) -> int:
    """FLOPs of one residual block on a map of ``size``; the stride sits in the (first) 3x3 convolution."""
    after, reduced = width * (_BOTTLENECK_EXPANSION if bottleneck else 1), halved(size) if stride == 2 else size
    shortcut = convolution_flops(before, after, 1, reduced) if stride != 1 or before != after else 0
    if bottleneck:
        inner = convolution_flops(before, width, 1, size) + convolution_flops(width, width, 3, reduced)
        return shortcut + inner + convolution_flops(width, after, 1, reduced)
    return shortcut + convolution_flops(before, width, 3, reduced) + convolution_flops(width, width, 3, reduced)


def solve_stages(
    frame: ConvStages,
    target: int,
    *,
    count: Callable[[ConvStages], int],
    multiple: int,
    last: int | None = None,
    stem_reach: int = 0,
) -> ConvStages:
    """Give ``frame`` the stage widths, as near doubling as can be, at which ``count`` meets ``target``.

    Args:
        frame: everything but the widths.
        target: forward FLOPs per example.
        count: forward FLOPs of the whole network that has these stages.
        multiple: widths are multiples of this.
        last: fixed width of the last stage, or None.
        stem_reach: channels by which the stem may differ from the first stage.

    Raises:
        ValueError: no widths near doubling meet the target within 0.6%.
    """
    num_stages = len(frame.depths)

    def with_widths(widths: Iterable[float], extra: int = 0) -> ConvStages:
        stage_widths: tuple[Any, ...] = tuple(widths)
        return replace(frame, stem_width=stage_widths[0] + extra, widths=stage_widths)

    def count_doubling(width: float) -> float:
        doubling = [width * 2**stage for stage in range(num_stages)]
        return count(with_widths(doubling if last is None else [*doubling[:-1], last]))

    width = bisect_width(target, count_doubling)
    choices = doubling_widths(width, num_stages, multiple=multiple, last=last)
    return nearest_layout(
        target,
        [
            with_widths(widths, extra)
            for extra in range(-stem_reach, stem_reach + 1)
            for widths in choices
            if widths[0] + extra > 0
        ],
        count=count,
        distance=lambda stages: (
            distance_from_doubling(stages.widths, width) + log(stages.stem_width / stages.widths[0]) ** 2
        ),
    )


def build_stages(layout: ConvStages) -> nn.Sequential:
    """Build stem and stages, ``[B, C, H, W]`` -> ``[B, out_channels, out_size, out_size]``.

    Kernels lie in memory with channels last, which takes an eighth to a quarter off a training step on one CPU core.
    """
    import torch
    from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv
    from torch import nn

    norm: Any = _group_norm if layout.group_norm else nn.BatchNorm2d
    kernel_size, stride = (7, 2) if layout.reducing_stem else (3, 1)
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(
            layout.in_channels, layout.stem_width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        ),
        norm=norm(layout.stem_width),
        activation=nn.ReLU(inplace=True),
    )
    if layout.reducing_stem and layout.circular:
        stem["wrap"] = nn.CircularPad2d(1)
    if layout.reducing_stem:
        stem["pool"] = nn.MaxPool2d(3, stride=2, padding=0 if layout.circular else 1)

    network: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
    block_type = Bottleneck if layout.bottleneck else BasicBlock
    before = layout.stem_width
    for index, (width, depth, first_stride) in enumerate(
        zip(layout.widths, layout.depths, layout.strides, strict=True), start=1
    ):
        blocks = []
        for stride in (first_stride, *[1] * (depth - 1)):
            after = width * block_type.expansion
            needs_projection = stride != 1 or before != after
            shortcut = downsample_conv(before, after, 1, stride=stride, norm_layer=norm) if needs_projection else None
            blocks.append(block_type(before, width, stride, shortcut, norm_layer=norm))
            before = after
        network[f"stage{index}"] = nn.Sequential(*blocks)
    stages = nn.Sequential(network)
    _initialize_stages(stages)
    if layout.circular:
        _wrap_borders(stages)
    return stages.to(memory_format=torch.channels_last)


def _initialize_stages(stages: nn.Sequential) -> None:
    """He-initialise convolutions and start residual branches at zero (Goyal et al. 1706.02677)."""
    from timm.models.resnet import BasicBlock, Bottleneck
    from torch import nn

    for module in stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock | Bottleneck):
            module.zero_init_last()


def _wrap_borders(stages: nn.Sequential) -> None:
    """Lets every convolution that pads wrap around instead."""
    from torch import nn

    from models.circular import CircularConv2d

    for parent in list(stages.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Conv2d) and any(module.padding):
                setattr(parent, name, CircularConv2d.like(module))


def _group_norm(num_channels: int, device: Any = None, dtype: Any = None) -> nn.Module:  # noqa: ANN401
    """Group norm with the most groups, at most 32, that divide the channels and hold at least four of them."""
    from torch import nn

    fitting = [groups for groups in range(1, min(32, num_channels // 4) + 1) if num_channels % groups == 0]
    return nn.GroupNorm(max(fitting, default=1), num_channels, device=device, dtype=dtype)
