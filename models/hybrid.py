"""Hybrid: a vision transformer on the feature map of a small ResNet (Dosovitskiy et al. 2010.11929, section 3.1).

The convolutional stages shrink the image to the map that the tier's transformer would have as its grid of patches; each
position of the map is a token (patch size 1). Two thirds to three quarters of the transformer's blocks remain, and the
widths of the stages are solved so that they spend what the missing blocks would have.

The forms ``half`` and ``quarter`` have more convolution before attention: about a half and a quarter of the blocks
remain, and for the blocks that go, every stage has more residual blocks, so that depth is exchanged for depth and the
widths stay near those of the plain hybrid. With the ViT (all blocks) and the ResNet (none) they are a ladder. ``gn``
has group norm instead of batch norm, alone or behind these. The forms of the transformer (`models.transformer_form`)
leave the convolutional stages as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from models.convolution import LARGEST_UNREDUCED_IMAGE, ConvStages, build_stages, solve_stages
from models.families import Family
from models.flops import ForwardFlops, convolution_flops
from models.layout import FeatureLayout
from models.tiers import TIERS, Tier
from models.transformer import build_encoder, encoder_flops, with_matched_mlp
from models.transformer_form import PLAIN, TransformerForm, form_names, parse_form
from models.vit import reference_flops

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class HybridLayout(FeatureLayout):
    """Sizes of a hybrid: convolutional stages, then a transformer with one token per position of their map.

    A map of 1x1 is allowed and gives a transformer on a single token.

    Attributes:
        form: position embedding, pooling and regularisation of the transformer.
        designed_grid: side of the map of the images that the network was designed for, where these are of another size.
    """

    stages: ConvStages
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    form: TransformerForm = PLAIN
    designed_grid: int | None = None

    @property
    def grid_size(self) -> int:
        """Tokens along one side."""
        return self.stages.out_size

    @property
    def original_grid(self) -> int:
        """Tokens along one side of the images that the network was designed for."""
        return self.designed_grid or self.grid_size

    def at(self, image_size: int) -> HybridLayout:
        """The same network on images of another size.

        Raises:
            ValueError: the size is not a multiple of the stages' total stride, so that tokens would not lie evenly, or
                the form tells places that belong to one grid.
        """
        if image_size < 1 or image_size % self.stages.total_stride:
            raise ValueError(
                f"image size {image_size} px: a token of this network is {self.stages.total_stride} px wide; expected "
                "a multiple of that"
            )
        stages = replace(self.stages, image_size=image_size)
        self.form.check_grid(stages.out_size, self.original_grid)
        designed = None if stages.out_size == self.original_grid else self.original_grid
        return replace(self, stages=stages, designed_grid=designed)

    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""
        stages = self.stages.flops()
        projection = convolution_flops(self.stages.out_channels, self.width, 1, self.grid_size)
        return ForwardFlops(stages.total + projection + encoder_flops(self), stages.first_layer)


# form -> tier -> transformer blocks kept, residual blocks per convolutional stage
_DEPTHS: dict[str, dict[str, tuple[int, int]]] = {
    "": {"nano": (2, 1), "micro": (3, 1), "tiny": (3, 1), "small": (9, 2), "base": (9, 2)},
    "half": {"nano": (1, 2), "micro": (2, 2), "tiny": (2, 2), "small": (6, 4), "base": (6, 4)},
    "quarter": {"micro": (1, 3), "tiny": (1, 3), "small": (3, 6), "base": (3, 6)},
}
_STAGE_MULTIPLES = {"nano": 1, "micro": 1, "tiny": 2, "small": 4, "base": 4}  # of the stage widths
_CONVOLUTION_FORMS = ("gn", "half", "half-gn", "quarter", "quarter-gn")


def hybrid_layout(tier: Tier, form: str, image_size: int, in_channels: int) -> HybridLayout:
    """Sizes of a tier's hybrid: stages as wide as the tier's FLOPs allow; a form that costs more has narrower MLPs."""
    convolution, transformer = (form, "") if form in _CONVOLUTION_FORMS else ("", form)
    layout = replace(_with_stages(tier.name, convolution, image_size, in_channels), form=parse_form(transformer))
    return with_matched_mlp(layout, reference_flops(tier, image_size, in_channels), multiple=tier.width_multiple)


@cache
def _with_stages(tier_name: str, convolution: str, image_size: int, in_channels: int) -> HybridLayout:
    """The plain transformer behind stages whose widths are solved for the tier's FLOPs."""
    tier = TIERS[tier_name]
    depth_form = convolution.removesuffix("gn").removesuffix("-")
    depth, num_blocks = _DEPTHS[depth_form][tier_name]
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
        group_norm=convolution.endswith("gn"),
    )
    layout = HybridLayout(frame, tier.width, depth, tier.num_heads, 4 * tier.width)
    stages = solve_stages(
        frame,
        reference_flops(tier, image_size, in_channels),
        multiple=_STAGE_MULTIPLES[tier.name],
        # One channel of a stage is a lot where it is deep and narrow; one of the stem is little.
        stem_reach=2 if tier_name == "nano" and depth_form else 0,
        count=lambda stages: replace(layout, stages=stages).feature_flops().total,
    )
    return replace(layout, stages=stages)


def build_hybrid(layout: HybridLayout, num_classes: int) -> nn.Module:
    """Build the network from its sizes."""
    from timm.layers.hybrid_embed import HybridEmbed

    backbone, map_size = build_stages(layout.stages), layout.stages.out_size
    backbone.num_features = layout.stages.out_channels  # type: ignore[assignment]  # read by HybridEmbed
    return build_encoder(
        layout,
        num_classes,
        img_size=layout.stages.image_size,
        patch_size=1,
        in_chans=layout.stages.in_channels,
        # The map's size is stated because timm would otherwise run the stages once to find it.
        embed_layer=partial(
            HybridEmbed, backbone=backbone, feature_size=map_size, feature_ratio=layout.stages.image_size // map_size
        ),
    )


def _refusal(tier: str, form: str) -> str | None:
    if form in _CONVOLUTION_FORMS:
        if form.startswith("quarter") and tier not in _DEPTHS["quarter"]:
            return f"a quarter of the few transformer blocks of the tier {tier!r} is none: write 'half'"
        return None
    try:
        parse_form(form)
    except ValueError as error:
        return f"{error}; the hybrid also has {', '.join(_CONVOLUTION_FORMS)}, which stand alone"
    return None


FAMILY = Family(
    name="hybrid",
    label="Hybrid",
    prior="What matters is local first and translation-equivariant, then any part may depend on any other.",
    layout=hybrid_layout,
    build=build_hybrid,
    forms=(*_CONVOLUTION_FORMS, *form_names()),
    refusal=_refusal,
)
