"""The transformer encoder that the ViT and the hybrid share: its cost, and building it in any form.

Average pooling and a class token differ in what they read, and in an MLP that is narrower for the class token, so that
both cost the same FLOPs; in nothing else: one norm at the same place, before pooling, the same linear classifier, and
no class token where none is read. timm's defaults change all three together,
and Dosovitskiy et al. 2010.11929 (appendix D.3) trace their first difference between the two to the learning rate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from models.flops import ForwardFlops, linear_flops, transformer_block_flops
from models.solver import nearest_layout
from models.transformer_form import DROPOUT, STOCHASTIC_DEPTH, PositionKind, PositionSite, TransformerForm

if TYPE_CHECKING:
    from torch import nn


class EncoderSizes(Protocol):
    """Sizes of a transformer encoder on a square grid of patches.

    ``original_grid`` is the grid that the network was designed for: positions of another grid are counted in its steps.
    """

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def num_heads(self) -> int: ...  # noqa: D102
    @property
    def mlp_width(self) -> int: ...  # noqa: D102
    @property
    def form(self) -> TransformerForm: ...  # noqa: D102
    @property
    def grid_size(self) -> int: ...  # noqa: D102
    @property
    def original_grid(self) -> int: ...  # noqa: D102
    def feature_flops(self) -> ForwardFlops: ...  # noqa: D102


EncoderSizesT = TypeVar("EncoderSizesT", bound=EncoderSizes)


def encoder_flops(sizes: EncoderSizes) -> int:
    """Forward FLOPs per example of all blocks.

    Adding an embedding or a bias and rotating queries and keys are elementwise and not counted, as norms are not.
    ``relquery`` has one more matrix product in every layer: each patch's query with a key for each of the offsets to
    the patches.
    """
    num_patches = sizes.grid_size**2
    block = transformer_block_flops(num_patches + sizes.form.num_prefix_tokens, sizes.width, sizes.mlp_width)
    if sizes.form.position is PositionKind.RELATIVE_QUERY:
        block += linear_flops(num_patches, num_patches, rows=sizes.width)
    return sizes.depth * block


def with_matched_mlp(sizes: EncoderSizesT, target: int, *, multiple: int) -> EncoderSizesT:
    """Narrow the MLPs of a form that costs more than the plain transformer until it costs ``target``.

    Args:
        sizes: with the plain transformer's MLPs.
        target: forward FLOPs per example without the classifier.
        multiple: MLP widths are multiples of this.

    Raises:
        ValueError: no width meets the target within the solver's tolerance.
    """
    if not sizes.form.class_token and sizes.form.position is not PositionKind.RELATIVE_QUERY:
        return sizes
    layout: Any = sizes  # a dataclass, which no Protocol can say
    candidates: list[EncoderSizesT] = [
        replace(layout, mlp_width=width) for width in range(multiple, sizes.mlp_width + 1, multiple)
    ]
    return nearest_layout(target, candidates, count=lambda candidate: candidate.feature_flops().total)


def build_encoder(sizes: EncoderSizes, num_classes: int, **stem: Any) -> nn.Module:  # noqa: ANN401  # timm's own
    """Build stem, encoder, norm, pooling and zero-initialised classifier.

    The plain transformer, with or without class token or position embedding, is timm's; the other forms are timm's
    with positions put in.

    Args:
        sizes: of the encoder.
        num_classes: outputs of the classifier.
        stem: timm's arguments of the patch embedding: ``img_size``, ``patch_size``, ``in_chans``, ``embed_layer``.
    """
    from timm.models.vision_transformer import VisionTransformer

    from models.head import zero_initialized
    from models.positioned import PositionedTransformer

    form = sizes.form
    options: dict[str, Any] = {
        **stem,
        "num_classes": num_classes,
        "embed_dim": sizes.width,
        "depth": sizes.depth,
        "num_heads": sizes.num_heads,
        # timm takes an expansion ratio and truncates its product: half a unit keeps the width exact.
        "mlp_ratio": (sizes.mlp_width + 0.5) / sizes.width,
        "class_token": form.class_token,
        "global_pool": "token" if form.class_token else "avg",
        "fc_norm": False,
        "no_embed_class": form.class_token,
    }
    if form.regularized:
        options |= {"pos_drop_rate": DROPOUT, "proj_drop_rate": DROPOUT, "drop_path_rate": STOCHASTIC_DEPTH}
    network: nn.Module
    if form.position is PositionKind.LEARNED_1D and form.site is PositionSite.STEM:
        network = VisionTransformer(pos_embed="learn", **options)
    elif form.position is PositionKind.NONE and not form.regularized:
        network = VisionTransformer(pos_embed="none", **options)
    else:
        network = PositionedTransformer(form, grid=sizes.grid_size, original_grid=sizes.original_grid, **options)
    zero_initialized(network.head)  # type: ignore[arg-type]
    return network
