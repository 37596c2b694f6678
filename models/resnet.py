"""Residual convolutional network (He et al. 1512.03385): locality and translation equivariance built in.

The form ``circular`` wraps every border around: rolling the image then rolls every map, exactly, as long as the roll is
a multiple of the total stride. The form ``gn`` has group norm (Wu & He 1803.08494) instead of batch norm.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.convolution import LARGEST_UNREDUCED_IMAGE, ConvStages, build_stages, solve_stages
from models.families import Family
from models.flops import ForwardFlops, linear_flops
from models.tiers import Tier
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResNetLayout:
    """Sizes of a ResNet: convolutional stages, global average pooling, linear classifier."""

    stages: ConvStages

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        return self.stages.flops()

    def forward_flops(self, num_classes: int) -> ForwardFlops:
        """Forward FLOPs per example."""
        features = self.feature_flops()
        classifier = linear_flops(self.stages.out_channels, num_classes)
        return ForwardFlops(features.total + classifier, features.first_layer)

    def at(self, image_size: int) -> ResNetLayout:
        """The same network on larger or smaller images: a convolution and a mean over the map have no size."""
        return replace(self, stages=replace(self.stages, image_size=image_size))


# tier -> blocks per stage, bottleneck blocks, multiple of the stage widths. tiny has the depth of ResNet-18, small of
# ResNet-34, base of ResNet-101 (table 1 of the paper); nano and micro are three stages
# of one block each.
_DEPTHS: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "nano": ((1, 1, 1), False, 1),
    "micro": ((1, 1, 1), False, 1),
    "tiny": ((2, 2, 2, 2), False, 2),
    "small": ((3, 4, 6, 3), False, 4),
    "base": ((3, 4, 23, 3), True, 4),
}


def resnet_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> ResNetLayout:
    """Sizes of a tier's ResNet: stage widths near doubling, solved for the tier's FLOPs.

    In the smallest tiers the last stage is as wide as the transformer's tokens: there a classifier of 1,000 outputs
    costs 2 to 5% of the forward pass and matches only if all families hand it equally wide features. The stem's width may
    then differ from the first stage's, because two free widths of a few channels each are too coarse.
    """
    depths, bottleneck, multiple = _DEPTHS[tier.name]
    frame = ConvStages(
        image_size=image_size,
        in_channels=in_channels,
        stem_width=0,
        widths=(),
        depths=depths,
        strides=(1, *[2] * (len(depths) - 1)),
        bottleneck=bottleneck,
        reducing_stem=image_size > LARGEST_UNREDUCED_IMAGE,
        circular=form == "circular",
        group_norm=form == "gn",
    )
    stages = solve_stages(
        frame,
        reference_flops(tier, image_size, in_channels),
        multiple=multiple,
        last=tier.width if multiple == 1 else None,
        stem_reach=5 if multiple == 1 else 0,
        count=lambda stages: stages.flops().total,
    )
    return ResNetLayout(stages)


def build_resnet(layout: ResNetLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from torch import nn

    from models.head import zero_initialized

    return nn.Sequential(
        OrderedDict(
            stages=build_stages(layout.stages),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=zero_initialized(nn.Linear(layout.stages.out_channels, num_classes)),
        )
    )


FAMILY = Family(
    name="resnet",
    label="ResNet",
    prior="What matters is local, and means the same wherever it appears.",
    layout=resnet_layout,
    build=build_resnet,
    forms=("circular", "gn"),
)
