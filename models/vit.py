"""Vision transformer (Dosovitskiy et al. 2010.11929): attention between patches, no built-in notion of neighbourhood.

Global average pooling instead of a class token, and one norm before it, so that no family differs from another in how
features are pooled (the plain recipe of Beyer et al. 2205.01580 has pooling for the same place).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.families import Family
from models.flops import ForwardFlops, convolution_flops, linear_flops, transformer_block_flops
from models.tiers import Tier

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ViTLayout:
    """Sizes of a vision transformer.

    Attributes:
        num_prefix_tokens: class and register tokens; the networks built here have none.
        position_embedding: whether a learnt vector is added to every patch embedding.
    """

    image_size: int
    in_channels: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    num_prefix_tokens: int = 0
    position_embedding: bool = True

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        grid_size = self.image_size // self.patch_size
        first_layer = convolution_flops(self.in_channels, self.width, self.patch_size, grid_size)
        block = transformer_block_flops(grid_size**2 + self.num_prefix_tokens, self.width, self.mlp_width)
        return ForwardFlops(first_layer + self.depth * block, first_layer)

    def forward_flops(self, num_classes: int) -> ForwardFlops:
        """Forward FLOPs per example."""
        features = self.feature_flops()
        return ForwardFlops(features.total + linear_flops(self.width, num_classes), features.first_layer)

    @property
    def grid_size(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size

    def at(self, image_size: int) -> ViTLayout:
        """The same network on larger or smaller images: patches of the same size, more or fewer of them.

        Raises:
            ValueError: the images are not made of whole patches.
        """
        if image_size % self.patch_size:
            raise ValueError(f"{image_size} px are not a whole number of patches of {self.patch_size} px")
        return replace(self, image_size=image_size)


def vit_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> ViTLayout:
    """Sizes of a tier's vision transformer; the form ``nopos`` has no position embedding."""
    return ViTLayout(
        image_size=image_size,
        in_channels=in_channels,
        patch_size=tier.patch_sizes[image_size],
        width=tier.width,
        depth=tier.depth,
        num_heads=tier.num_heads,
        mlp_width=4 * tier.width,
        position_embedding=form != "nopos",
    )


def reference_flops(tier: Tier, image_size: int, in_channels: int) -> int:
    """Forward FLOPs per example that every family of a tier is sized to spend before its classifier.

    The classifier is left out so that the number of classes never changes a backbone.
    """
    return vit_layout(tier, "", image_size, in_channels).feature_flops().total


def build_vit(layout: ViTLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from timm.models.vision_transformer import VisionTransformer

    from models.head import zero_initialized

    network: nn.Module = VisionTransformer(
        img_size=layout.image_size,
        patch_size=layout.patch_size,
        in_chans=layout.in_channels,
        num_classes=num_classes,
        embed_dim=layout.width,
        depth=layout.depth,
        num_heads=layout.num_heads,
        mlp_ratio=layout.mlp_width / layout.width,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        pos_embed="learn" if layout.position_embedding else "none",
    )
    zero_initialized(network.head)  # type: ignore[arg-type]
    return network


FAMILY = Family(
    name="vit",
    label="ViT",
    prior="Patches are a set whose order is learnt; any patch may depend on any other from the first layer on.",
    layout=vit_layout,
    build=build_vit,
    forms=("nopos",),
)
