"""Masked patch prediction: a vision transformer names the colours of patches that were taken from it.

Dosovitskiy et al. 2010.11929, section 4.6 and appendix B.1.2, after BERT (Devlin et al. 1810.04805, section 3.1). Half
of the patch embeddings are corrupted: 80% of these become a learnt [mask] embedding, 10% the embedding of another patch
of the image, 10% stay as they are. From what the network makes of each corrupted patch a linear layer predicts the
patch's mean colour at 3 bits per channel: 8 classes for grey images, 512 for colour.

Nothing here draws: a corruption is a function of random integers that the caller brings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from models.counter import count_flops, on_meta_device
from models.flops import ForwardFlops, linear_flops
from models.head import zero_initialized
from models.registry import build_network, layout_of
from models.vit import ViTLayout

COLOUR_LEVELS = 8  # 3 bits (appendix B.1.2)
LEVEL_WIDTH = 256 // COLOUR_LEVELS
MOST_CHANNELS = 4
"""4,096 colours; each further channel would have eight times as many."""
MASK_STD = 0.02  # that of timm's position embeddings

# Of ten corrupted patches eight are masked, one is another patch and one is left alone.
_NUM_FATES, _NUM_MASKED = 10, 8
_OTHER_PATCH = 8
_BACKBONE = "backbone."


class Corruption(NamedTuple):
    """What is done to the T patch embeddings of each of B images.

    Attributes:
        places: the corrupted patches, int64 `[B, T // 2]`, each at most once.
        sources: the patch whose embedding stands at each place, int64 `[B, T]`; its own where nothing was exchanged.
        masked: where the [mask] embedding stands instead, bool `[B, T]`.
    """

    places: Tensor
    sources: Tensor
    masked: Tensor


def num_corrupted(num_patches: int) -> int:
    """Corrupted patches of an image: exactly half, an odd one is spared."""
    return num_patches // 2


def num_draws(num_patches: int) -> int:
    """Random integers that the corruption of one image takes."""
    return num_patches + num_corrupted(num_patches) + 1


def corruption_of(draws: Tensor, num_patches: int) -> Corruption:
    """A corruption from random integers; tensors only.

    All patches of an image are put into a random order, whose first half is corrupted. One that becomes another patch
    becomes the one a random distance further in that order, the same distance for all of the image: every other patch
    is as likely, never itself (the paper's "random other patch embedding"; BERT's random token may be the one that was
    there), and none is used twice, so that no more than two gradients meet in an embedding and the order in which a GPU
    adds them changes no bit.

    Args:
        draws: non-negative int64 `[num_draws(T), B]`; an image's corruption depends on its column alone.
        num_patches: patches of an image (T), at least 2.
    """
    count = num_corrupted(num_patches)
    order = draws[:num_patches].T.argsort(dim=1, stable=True)
    fates = draws[num_patches : num_patches + count].T % _NUM_FATES
    distance = 1 + draws[-1:].T % (num_patches - 1)
    places = order[:, :count]
    ranks = torch.arange(num_patches, device=draws.device)
    others = order.gather(1, (ranks[:count] + distance) % num_patches)
    themselves = ranks.expand_as(order)
    return Corruption(
        places=places,
        sources=themselves.scatter(1, places, torch.where(fates == _OTHER_PATCH, others, places)),
        masked=torch.zeros_like(order, dtype=torch.bool).scatter(1, places, fates < _NUM_MASKED),
    )


def colour_classes(pixels: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """The mean colour of every patch at 3 bits per channel, as one class.

    Each channel's mean lies in one of 8 equal bins of the pixel range 0 to 255; the class is the number whose base-8
    digits are the bins of the channels. Sums of whole numbers are exact in float32, so a mean at the edge of two bins
    falls into the upper one on every device.

    Args:
        pixels: whole numbers from 0 to 255, float32 `[B, C, H, W]`.
        patch_size: height and width, which divide H and W.

    Returns:
        int64 `[B, T]`, patches row by row.
    """
    height, width = patch_size
    batch_size, channels, rows, columns = pixels.shape
    grid = pixels.reshape(batch_size, channels, rows // height, height, columns // width, width)
    bins = grid.sum(dim=(3, 5)).long().div(LEVEL_WIDTH * height * width, rounding_mode="floor").flatten(2)
    colours = bins[:, 0]
    for channel in range(1, channels):
        colours = colours * COLOUR_LEVELS + bins[:, channel]
    return colours


class MaskedPatchNetwork(nn.Module):
    """A vision transformer with a [mask] embedding, and a linear predictor of colours in place of its classifier.

    The predictor begins at zero, so that an untrained network finds all colours equally likely.

    Args:
        backbone: taken over as it is, but for its classifier, which is removed.

    Attributes:
        patch_size: height and width of a patch, pixels.
        num_patches: patches of an image (T).
        num_colours: classes (8 to the power of the channels).

    Raises:
        ValueError: the network has no patch embeddings that a mask could hide; says why.
    """

    def __init__(self, backbone: nn.Module) -> None:
        reason = why_no_masked_patches(backbone)
        if reason is not None:
            raise ValueError(f"masked patch prediction: {reason}")
        super().__init__()
        embedding: Any = backbone.patch_embed
        backbone.reset_classifier(0)  # type: ignore[operator]
        self.backbone = backbone
        self.patch_size: tuple[int, int] = embedding.patch_size
        self.num_patches: int = embedding.num_patches
        self.num_colours: int = COLOUR_LEVELS**embedding.proj.in_channels
        width: int = embedding.proj.out_channels
        # A vector, and so exempt from weight decay, as position embeddings are.
        self.mask_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=MASK_STD))
        self.predictor = zero_initialized(nn.Linear(width, self.num_colours))

    def forward(self, images: Tensor, corruption: Corruption) -> Tensor:
        """Colours of the corrupted patches.

        Args:
            images: normalised float `[B, C, H, W]`.
            corruption: of the same B images.

        Returns:
            Logits `[B * (T // 2), num_colours]`, image by image, patches in the order of `corruption.places`.
        """

        def corrupted(module: nn.Module, inputs: object, embeddings: Tensor) -> Tensor:
            del module, inputs
            patches = embeddings.flatten(1, -2)  # some networks keep them on their grid
            exchanged = patches.gather(1, corruption.sources[..., None].expand_as(patches))
            mask = self.mask_embedding.to(patches.dtype)
            return torch.where(corruption.masked[..., None], mask, exchanged).reshape(embeddings.shape)

        backbone: Any = self.backbone
        # A hook for the time of this call: whatever the network does with positions before or after stays its own.
        with backbone.patch_embed.register_forward_hook(corrupted):
            tokens: Tensor = backbone.forward_features(images)
        patches = tokens[:, backbone.num_prefix_tokens :]
        chosen = patches.gather(1, corruption.places[..., None].expand(-1, -1, patches.shape[2]))
        if hasattr(backbone, "fc_norm"):  # the norm before the classifier, where a network has it there
            chosen = backbone.fc_norm(chosen)
        logits: Tensor = self.predictor(chosen.flatten(0, 1))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Names of what the backbone exempts from weight decay."""
        exempt: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {_BACKBONE + name for name in exempt}

    def backbone_state(self) -> dict[str, Tensor]:
        """The weights that a fine-tuning starts from: those of the backbone, without a classifier."""
        return backbone_state(self.state_dict())


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a `MaskedPatchNetwork`'s state, under the names it has in a classifier.

    Raises:
        ValueError: the state is that of another network.
    """
    if "mask_embedding" not in state:
        raise ValueError(
            f"these are not the weights of a masked patch prediction: no mask_embedding among their {len(state)} "
            f"tensors ({', '.join(sorted(state)[:3])}, ...)"
        )
    return {name.removeprefix(_BACKBONE): tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}


def why_no_masked_patches(network: nn.Module) -> str | None:
    """Why the patches of a network cannot be masked, in words; None if they can."""
    kind = type(network).__name__
    embedding: Any = getattr(network, "patch_embed", None)
    if embedding is None or not hasattr(network, "num_prefix_tokens"):
        return f"a {kind} has no patch embeddings that it could fill in from others; expected a vision transformer"
    if not _sees_its_own_pixels_alone(embedding):
        return (
            f"the patch embeddings of this {kind} ({type(embedding).__name__}) see pixels of neighbouring patches, so "
            "that the neighbours of a masked patch would give its colour away; expected one linear projection per patch"
        )
    channels, num_patches = embedding.proj.in_channels, embedding.num_patches
    if channels > MOST_CHANNELS:
        return f"{channels} channels make {COLOUR_LEVELS}^{channels} colours; expected at most {MOST_CHANNELS} channels"
    if num_patches is None or num_patches < 2:
        return f"an image has {num_patches or 'no fixed number of'} patches; expected 2 or more, half of them to mask"
    return _why_no_tokens(network, embedding)


def _sees_its_own_pixels_alone(embedding: nn.Module) -> bool:
    if not isinstance(embedding, PatchEmbed) or not isinstance(embedding.proj, nn.Conv2d):
        return False
    projection = embedding.proj
    return projection.kernel_size == projection.stride == embedding.patch_size and projection.padding == (0, 0)


def _why_no_tokens(network: nn.Module, embedding: Any) -> str | None:  # noqa: ANN401  # a PatchEmbed
    """Runs the network on the meta device: every patch must come out where it went in."""
    trial: Any = copy.deepcopy(network).to("meta").train()
    embedded: list[tuple[int, ...]] = []
    trial.patch_embed.register_forward_hook(
        lambda module, inputs, output: embedded.append(tuple(output.flatten(1, -2).shape))
    )
    images = torch.empty(2, embedding.proj.in_channels, *embedding.img_size, device="meta")
    with torch.random.fork_rng(devices=()), torch.no_grad():
        tokens = trial.forward_features(images)
    expected = (2, embedding.num_patches, embedding.proj.out_channels)
    found = (tokens.shape[0], tokens.shape[1] - trial.num_prefix_tokens, tokens.shape[-1]) if tokens.ndim == 3 else ()
    if embedded == [expected] and found == expected:
        return None
    return (
        f"a {type(network).__name__} turns {expected[1]} patch embeddings of width {expected[2]} into features "
        f"{list(tokens.shape[1:])}; expected a token for every patch"
    )


def masked_patch_flops(family: str, variant: str, *, image_size: int, in_channels: int) -> ForwardFlops:
    """Forward FLOPs per example of masked patch prediction: the features, and the predictor on half of the patches.

    By arithmetic for the family `vit`, else counted on the meta device.

    Raises:
        ValueError: there is no such network, or its patches cannot be masked.
    """
    layout = layout_of(family, variant, image_size=image_size, in_channels=in_channels)
    if isinstance(layout, ViTLayout) and in_channels <= MOST_CHANNELS and image_size > layout.patch_size:
        features, num_patches = layout.feature_flops(), (image_size // layout.patch_size) ** 2
        predictor = linear_flops(layout.width, COLOUR_LEVELS**in_channels, rows=num_corrupted(num_patches))
        return ForwardFlops(features.total + predictor, features.first_layer)
    with on_meta_device():
        backbone = build_network(family, variant, image_size=image_size, in_channels=in_channels, num_classes=2)
        network = MaskedPatchNetwork(backbone)
    return count_masked_patch_flops(network, image_size=image_size, in_channels=in_channels)


def count_masked_patch_flops(network: MaskedPatchNetwork, *, image_size: int, in_channels: int) -> ForwardFlops:
    """The same of any network, counted; all corruptions cost alike."""
    return count_flops(_Corrupting(network), (2, in_channels, image_size, image_size))


class _Corrupting(nn.Module):
    """A network with a corruption that is always the same, so that it can be run on images alone."""

    def __init__(self, network: MaskedPatchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        num_patches = self.network.num_patches
        draws = torch.zeros(num_draws(num_patches), len(images), dtype=torch.int64, device=images.device)
        logits: Tensor = self.network(images, corruption_of(draws, num_patches))
        return logits
