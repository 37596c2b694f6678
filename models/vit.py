"""Vision transformer (Dosovitskiy et al. 2010.11929): attention between patches, no built-in notion of neighbourhood.

Global average pooling instead of a class token, and one norm before it, so that no family differs from another in how
features are pooled (the plain recipe of Beyer et al. 2205.01580 has pooling for the same place). What the forms change
is told in `models.transformer_form`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.families import Family
from models.flops import ForwardFlops, convolution_flops
from models.layout import FeatureLayout
from models.tiers import Tier
from models.transformer import build_encoder, encoder_flops, with_matched_mlp
from models.transformer_form import PLAIN, TransformerForm, form_names, parse_form, why_not_form

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ViTLayout(FeatureLayout):
    """Sizes of a vision transformer.

    Attributes:
        form: position embedding, pooling and regularisation.
        designed_grid: patches along one side of the images that the network was designed for, where these are of
            another size.
    """

    image_size: int
    in_channels: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    form: TransformerForm = PLAIN
    designed_grid: int | None = None

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def original_grid(self) -> int:
        """Patches along one side of the images that the network was designed for."""
        return self.designed_grid or self.grid_size

    def at(self, image_size: int) -> ViTLayout:
        """The same network, widths and patches, on images of another size.

        Raises:
            ValueError: the size is not a multiple of the patch size, or the form tells places that belong to one grid.
        """
        if image_size < 1 or image_size % self.patch_size:
            raise ValueError(
                f"image size {image_size} px: the patches of this network are {self.patch_size} px wide; expected a "
                "multiple of that"
            )
        grid = image_size // self.patch_size
        self.form.check_grid(grid, self.original_grid)
        designed = None if grid == self.original_grid else self.original_grid
        return replace(self, image_size=image_size, designed_grid=designed)

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        first_layer = convolution_flops(self.in_channels, self.width, self.patch_size, self.grid_size)
        return ForwardFlops(first_layer + encoder_flops(self), first_layer)


def vit_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> ViTLayout:
    """Sizes of a tier's vision transformer; a form that costs more has narrower MLPs."""
    layout = ViTLayout(
        image_size=image_size,
        in_channels=in_channels,
        patch_size=tier.patch_sizes[image_size],
        width=tier.width,
        depth=tier.depth,
        num_heads=tier.num_heads,
        mlp_width=4 * tier.width,
    )
    target = layout.feature_flops().total
    return with_matched_mlp(replace(layout, form=parse_form(form)), target, multiple=tier.width_multiple)


def reference_flops(tier: Tier, image_size: int, in_channels: int) -> int:
    """Forward FLOPs per example that every family of a tier is sized to spend before its classifier.

    The classifier is left out so that the number of classes never changes a backbone.
    """
    return vit_layout(tier, "", image_size, in_channels).feature_flops().total


def build_vit(layout: ViTLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    return build_encoder(
        layout,
        num_classes,
        img_size=layout.image_size,
        patch_size=layout.patch_size,
        in_chans=layout.in_channels,
    )


def _refusal(tier: str, form: str) -> str | None:
    del tier  # every tier has every form
    return why_not_form(form)


FAMILY = Family(
    name="vit",
    label="ViT",
    prior="Patches are a set whose order is learnt; any patch may depend on any other from the first layer on.",
    layout=vit_layout,
    build=build_vit,
    forms=form_names(),
    refusal=_refusal,
)
