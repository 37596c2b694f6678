"""Fully connected network: every pixel is an input of its own, in no order.

Hidden layers are linear map, layer norm, GELU; the last one has the token size of the tier, so that every family hands
the classifier features of comparable width.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from models.families import Family
from models.flops import ForwardFlops, linear_flops
from models.layout import OneSizeLayout
from models.solver import nearest_layout
from models.tiers import Tier
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MLPLayout(OneSizeLayout):
    """Sizes of a fully connected network: ``depth`` hidden layers of ``hidden_width`` and one of ``width``."""

    image_size: int
    in_channels: int
    width: int
    depth: int
    hidden_width: int

    def layer_widths(self) -> tuple[int, ...]:
        """Number of pixel values, then the width of every hidden layer."""
        return (self.in_channels * self.image_size**2, *[self.hidden_width] * self.depth, self.width)

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        widths = self.layer_widths()
        layers = [linear_flops(before, after) for before, after in pairwise(widths)]
        return ForwardFlops(sum(layers), layers[0])

    def why_one_size(self) -> str:
        """Which weights belong to the size, and what to do instead."""
        return (
            "a fully connected network cannot change the size of its images: its first layer has a weight for "
            f"every pixel of {self.image_size} x {self.image_size}; resize the images"
        )


def mlp_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> MLPLayout:
    """Sizes of a tier's fully connected network: the hidden width is solved for the tier's FLOPs."""
    del form  # there is one form
    layouts = (MLPLayout(image_size, in_channels, tier.width, 3, width) for width in range(16, 16384))
    return nearest_layout(
        reference_flops(tier, image_size, in_channels), layouts, count=lambda layout: layout.feature_flops().total
    )


def build_mlp(layout: MLPLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from torch import nn

    from models.head import zero_initialized

    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = layout.layer_widths()
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"layer{index}"] = nn.Sequential(
            OrderedDict(linear=nn.Linear(before, after), norm=nn.LayerNorm(after), activation=nn.GELU())
        )
    layers["head"] = zero_initialized(nn.Linear(layout.width, num_classes))
    return nn.Sequential(layers)


_TOO_MANY_WEIGHTS = (
    "a fully connected network does not share weights between positions, so it holds one weight per multiply-add: "
    "{weights} at this tier's compute, more than its training images could ever determine; use the nano, "
    "micro or tiny tier"
)

FAMILY = Family(
    name="mlp",
    label="Fully connected",
    prior="Nothing: pixels are inputs in no order, and every function of them is as natural as any other.",
    layout=mlp_layout,
    build=build_mlp,
    refused_tiers=(
        ("small", _TOO_MANY_WEIGHTS.format(weights="1.4 to 4.5 billion")),
        ("base", _TOO_MANY_WEIGHTS.format(weights="5.5 to 17 billion")),
    ),
)
