"""LSTM over patches: neighbourhood as the order of a scan.

The family is Sequencer2D (Tatsunami & Taki 2205.01972): in every block, bidirectional LSTMs run along each column and
each row of the patch grid. The forms replace them by one LSTM that reads all patches once and leave everything else as
it is: row by row (``raster``), column by column (``column``), back and forth (``snake``) or in a fixed random order
(``shuffled``), so that these differ in the order alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from models.families import Family
from models.flops import ForwardFlops, convolution_flops, linear_flops, lstm_flops
from models.layout import FeatureLayout
from models.solver import nearest_layout
from models.tiers import Tier
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LSTMLayout(FeatureLayout):
    """Sizes of an LSTM network; ``hidden_size`` is that of one direction of one LSTM.

    Attributes:
        scan: the order (`models.scan.scan_order`) of one LSTM over all patches; empty: four along columns and rows.
    """

    image_size: int
    in_channels: int
    patch_size: int
    width: int
    depth: int
    hidden_size: int
    mlp_width: int
    scan: str

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        grid_size = self.image_size // self.patch_size
        num_patches = grid_size**2
        first_layer = convolution_flops(self.in_channels, self.width, self.patch_size, grid_size)
        num_scans = 1 if self.scan else 4  # up, down, left, right
        scans = num_scans * lstm_flops(num_patches, self.width, self.hidden_size)
        merge = linear_flops(num_scans * self.hidden_size, self.width, rows=num_patches)
        mlp = 2 * linear_flops(self.width, self.mlp_width, rows=num_patches)
        return ForwardFlops(first_layer + self.depth * (scans + merge + mlp), first_layer)

    def at(self, image_size: int) -> LSTMLayout:
        """The same network on larger or smaller images: the same cells scan longer or shorter sequences.

        Raises:
            ValueError: the images are not made of whole patches, or the order of the scan belongs to one size.
        """
        if self.scan == "shuffled" and image_size != self.image_size:
            raise ValueError(
                "a scan in random order cannot change the size of its images: its order belongs to the "
                f"{(self.image_size // self.patch_size) ** 2} patches of {self.image_size} px; resize the images"
            )
        if image_size % self.patch_size:
            raise ValueError(f"{image_size} px are not a whole number of patches of {self.patch_size} px")
        return replace(self, image_size=image_size)


def lstm_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> LSTMLayout:
    """Sizes of a tier's LSTM: depth and width of the transformer, the width of the MLP solved for the tier's FLOPs.

    Hidden sizes are a quarter of the token size in each of the four directions (as in the paper's models) and the token
    size itself for one scan of all. The paper's MLP expansion is 3; the solution here is 3 (one scan: 1.5) plus the
    ratio of the number of patches to the token size, which pays for what attention costs.
    """
    layouts = (
        LSTMLayout(
            image_size=image_size,
            in_channels=in_channels,
            patch_size=tier.patch_sizes[image_size],
            width=tier.width,
            depth=tier.depth,
            hidden_size=tier.width if form else tier.width // 4,
            mlp_width=mlp_width,
            scan=form,
        )
        for mlp_width in range(1, 8 * tier.width)
    )
    return nearest_layout(
        reference_flops(tier, image_size, in_channels), layouts, count=lambda layout: layout.feature_flops().total
    )


def build_lstm(layout: LSTMLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from timm.models.sequencer import LSTM2d, Sequencer2d

    from models.head import zero_initialized
    from models.scan import ScanLSTM

    network: nn.Module = Sequencer2d(
        num_classes=num_classes,
        img_size=layout.image_size,
        in_chans=layout.in_channels,
        layers=(layout.depth,),
        patch_sizes=(layout.patch_size,),
        embed_dims=(layout.width,),
        hidden_sizes=(layout.hidden_size,),
        # timm takes an expansion ratio and truncates the product: half a unit keeps the width exact.
        mlp_ratios=((layout.mlp_width + 0.5) / layout.width,),
        rnn_layer=partial(ScanLSTM, order=layout.scan) if layout.scan else LSTM2d,  # type: ignore[arg-type]
    )
    zero_initialized(network.head.fc)  # type: ignore[union-attr, arg-type]
    return network


FAMILY = Family(
    name="lstm",
    label="LSTM",
    prior="Patches are sequences along rows and columns: near in the scan is near in influence.",
    layout=lstm_layout,
    build=build_lstm,
    forms=("raster", "column", "snake", "shuffled"),
)
