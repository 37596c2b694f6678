"""MLP-Mixer (Tolstikhin et al. 2105.01601): fully connected layers across patches and across channels in turn.

The channel MLP keeps the paper's expansion of four; four thirds of the transformer's blocks and the width of the token
MLP make up the FLOPs that attention would have spent. The solved token widths are at least the number of patches, as
in the paper's table 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.families import Family
from models.flops import ForwardFlops, convolution_flops, linear_flops
from models.layout import OneSizeLayout
from models.solver import nearest_layout
from models.tiers import Tier
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MixerLayout(OneSizeLayout):
    """Sizes of an MLP-Mixer; ``token_width`` and ``channel_width`` are the hidden sizes of its two MLPs."""

    image_size: int
    in_channels: int
    patch_size: int
    width: int
    depth: int
    token_width: int
    channel_width: int

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        grid_size = self.image_size // self.patch_size
        num_patches = grid_size**2
        first_layer = convolution_flops(self.in_channels, self.width, self.patch_size, grid_size)
        token_mlp = 2 * linear_flops(num_patches, self.token_width, rows=self.width)
        channel_mlp = 2 * linear_flops(self.width, self.channel_width, rows=num_patches)
        return ForwardFlops(first_layer + self.depth * (token_mlp + channel_mlp), first_layer)

    def why_one_size(self) -> str:
        """Which weights belong to the size, and what to do instead."""
        return (
            "a Mixer cannot change the size of its images: its token-mixing weights belong to the "
            f"{(self.image_size // self.patch_size) ** 2} patches of {self.image_size} px; resize the images"
        )


def mixer_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> MixerLayout:
    """Sizes of a tier's Mixer: the token MLP's width is solved for the tier's FLOPs."""
    del form  # the Mixer has one form
    multiple = tier.width_multiple

    def layouts() -> Iterator[MixerLayout]:
        for token_width in range(multiple, 4 * tier.width + 1, multiple):
            yield MixerLayout(
                image_size=image_size,
                in_channels=in_channels,
                patch_size=tier.patch_sizes[image_size],
                width=tier.width,
                depth=round(tier.depth * 4 / 3),
                token_width=token_width,
                channel_width=4 * tier.width,
            )

    return nearest_layout(
        reference_flops(tier, image_size, in_channels),
        layouts(),
        count=lambda layout: layout.feature_flops().total,
    )


def build_mixer(layout: MixerLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from timm.models.mlp_mixer import MlpMixer

    from models.head import zero_initialized

    # timm takes expansion ratios and truncates their products: half a unit keeps the widths exact.
    ratios = ((layout.token_width + 0.5) / layout.width, (layout.channel_width + 0.5) / layout.width)
    network: nn.Module = MlpMixer(
        img_size=layout.image_size,
        patch_size=layout.patch_size,
        in_chans=layout.in_channels,
        num_classes=num_classes,
        num_blocks=layout.depth,
        embed_dim=layout.width,
        mlp_ratio=ratios,
    )
    zero_initialized(network.head)  # type: ignore[arg-type]
    return network


FAMILY = Family(
    name="mixer",
    label="MLP-Mixer",
    prior="Patches share one channel map; how patches combine is a fixed learnt matrix, free of any neighbourhood.",
    layout=mixer_layout,
    build=build_mixer,
)
