"""Hybrid: a vision transformer on the feature map of a small ResNet (Dosovitskiy et al. 2010.11929, section 3.1).

The convolutional stages shrink the image to the map that the tier's transformer would have as its grid of patches; each
position of the map is a token (patch size 1). Two thirds to three quarters of the transformer's blocks remain, and the
widths of the stages are solved so that they spend what the missing blocks would have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from models.convolution import LARGEST_UNREDUCED_IMAGE, ConvStages, build_stages, solve_stages
from models.families import Family
from models.flops import ForwardFlops, convolution_flops, linear_flops, transformer_block_flops
from models.tiers import Tier
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class HybridLayout:
    """Sizes of a hybrid: convolutional stages, then a transformer with one token per position of their map.

    A map of 1x1 is allowed and gives a transformer on a single token.
    """

    stages: ConvStages
    width: int
    depth: int
    num_heads: int
    mlp_width: int

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        stages, map_size = self.stages.flops(), self.stages.out_size
        projection = convolution_flops(self.stages.out_channels, self.width, 1, map_size)
        block = transformer_block_flops(map_size**2, self.width, self.mlp_width)
        return ForwardFlops(stages.total + projection + self.depth * block, stages.first_layer)

    def forward_flops(self, num_classes: int) -> ForwardFlops:
        """Forward FLOPs per example."""
        features = self.feature_flops()
        return ForwardFlops(features.total + linear_flops(self.width, num_classes), features.first_layer)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of an image."""
        return self.stages.out_size

    def at(self, image_size: int) -> HybridLayout:
        """The same network on larger or smaller images: the same stages, whose map has more or fewer positions."""
        return replace(self, stages=replace(self.stages, image_size=image_size))


# tier -> transformer blocks kept, residual blocks per convolutional stage, multiple of the stage widths
_DEPTHS: dict[str, tuple[int, int, int]] = {
    "nano": (2, 1, 1),
    "tiny": (3, 1, 2),
    "small": (9, 2, 4),
    "base": (9, 2, 4),
}


def hybrid_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> HybridLayout:
    """Sizes of a tier's hybrid: the widths of the convolutional stages are solved for the tier's FLOPs."""
    depth, num_blocks, multiple = _DEPTHS[tier.name]
    reducing_stem = image_size > LARGEST_UNREDUCED_IMAGE
    num_halvings = tier.patch_sizes[image_size].bit_length() - 1  # patch sizes are powers of two
    strides = (1, *[2] * (num_halvings - 2)) if reducing_stem else (2,) * num_halvings
    frame = ConvStages(
        image_size=image_size,
        in_channels=in_channels,
        stem_width=0,
        widths=(),
        depths=(num_blocks,) * len(strides),
        strides=strides,
        reducing_stem=reducing_stem,
        group_norm=form == "gn",
    )
    layout = HybridLayout(frame, tier.width, depth, tier.num_heads, 4 * tier.width)
    stages = solve_stages(
        frame,
        reference_flops(tier, image_size, in_channels),
        multiple=multiple,
        count=lambda stages: replace(layout, stages=stages).feature_flops().total,
    )
    return replace(layout, stages=stages)


def build_hybrid(layout: HybridLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from timm.layers.hybrid_embed import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer

    from models.head import zero_initialized

    backbone, map_size = build_stages(layout.stages), layout.stages.out_size
    backbone.num_features = layout.stages.out_channels  # type: ignore[assignment]  # read by HybridEmbed
    network: nn.Module = VisionTransformer(
        img_size=layout.stages.image_size,
        patch_size=1,
        in_chans=layout.stages.in_channels,
        num_classes=num_classes,
        embed_dim=layout.width,
        depth=layout.depth,
        num_heads=layout.num_heads,
        mlp_ratio=layout.mlp_width / layout.width,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        # The map's size is stated because timm would otherwise run the stages once to find it.
        embed_layer=partial(
            HybridEmbed, backbone=backbone, feature_size=map_size, feature_ratio=layout.stages.image_size // map_size
        ),
    )
    zero_initialized(network.head)  # type: ignore[arg-type]
    return network


FAMILY = Family(
    name="hybrid",
    label="Hybrid",
    prior="What matters is local first and translation-equivariant, then any part may depend on any other.",
    layout=hybrid_layout,
    build=build_hybrid,
    forms=("gn",),
)
