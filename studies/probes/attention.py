"""How far attention looks: mean attention distance and entropy, by layer and head.

"This 'attention distance' is analogous to receptive field size in CNNs" (Dosovitskiy et al. 2010.11929, section 4.5 and
figure 7, right; Raghu et al. 2108.08810, section 4): for a query, the distance of the patches it attends to, weighted
by attention. A network that assumes nothing about neighbourhood shows it here: before training its heads look about
as far as attention to all patches alike does, and training draws some of them near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .attention_capture import watching_attention
from .changes import change
from .patch_grid import PatchGrid, patch_grid
from .presenting import Batches, evaluation_mode, shown
from .probe import Probed, ProbeError, Reading
from .token_counts import counting_tokens

NUM_IMAGES = 256
"""Images attention is averaged over unless told otherwise."""


def attention_distance(network: nn.Module, batches: Batches, *, num_images: int = NUM_IMAGES) -> Probed:
    """Mean attention distance and mean entropy of every head of every layer in which patches attend to patches.

    Those are layers with as many queries and keys as the network has tokens: channels that attend to channels are not
    meant, even where they are as many as a square.

    The distance of a query is the sum over keys of attention times Euclidean distance of the patch centres in pixels of
    the image the network is given; behind convolutions a patch is as wide as the image over the grid. Tokens that have
    no place, such as a class token, are left out as queries and as keys, and a query's attention to patches is divided
    by its sum, so that weights are those of the softmax without them. Both are averaged over queries, then images.

    Args:
        network: any whose attention runs through torch's kernel or a softmax over keys (`attention_capture`).
        batches: images as in training.
        num_images: how many of them are used, the first ones.

    Returns:
        Readings `attention_distance` (px; 0 is all attention on the patch itself) and `attention_entropy` (nat; from 0
        to the logarithm of the number of patches) by layer, depth and head. Array `uniform_attention_distance`, `[L]`:
        the distance in each layer if every patch attended to all patches alike; `largest_attention_distance`, `[L]`:
        if every patch attended to the one farthest from it.

    Raises:
        ProbeError: the network has no attention among patches, attends within windows, or has diverged; or patches
            attend to tokens without a place so much that nothing is left for patches.
    """
    sums: dict[str, _HeadSums] = {}
    total = 0
    with evaluation_mode(network), torch.no_grad():
        for images, _ in shown(batches, num_images, network):
            _add_batch(network, images, sums)
            total += len(images)
    if not sums:
        raise ProbeError(
            f"{type(network).__name__} has no attention among the patches of an image: mean attention distance is "
            "read off the weights with which patches attend to patches"
        )
    return Probed(
        tuple(
            reading
            for depth, (layer, head) in enumerate(sums.items())
            for reading in head.readings(layer, depth, total)
        ),
        {
            "uniform_attention_distance": _by_layer(uniform_attention_distance, sums),
            "largest_attention_distance": _by_layer(largest_attention_distance, sums),
        },
    )


def attention_distance_change(
    trained: nn.Module, initial: nn.Module, batches: Batches, *, num_images: int = NUM_IMAGES
) -> Probed:
    """What training did to `attention_distance`: readings `attention_distance_change` and `attention_entropy_change`.

    Args:
        trained: the network.
        initial: the same network before training.
        batches: images both are given.
        num_images: how many of them are used.

    Raises:
        ProbeError: the networks have no attention among patches, or not the same layers.
    """
    held = list(shown(batches, num_images, trained))
    return change(
        attention_distance(trained, held, num_images=num_images),
        attention_distance(initial, held, num_images=num_images),
    )


def uniform_attention_distance(grid: PatchGrid) -> float:
    """Mean distance in pixels of two patches drawn independently: the distance of attention to all patches alike."""
    return float(grid.distances().mean())


def largest_attention_distance(grid: PatchGrid) -> float:
    """Mean over patches of the distance in pixels to the patch farthest away: no attention looks farther."""
    return float(grid.distances().amax(dim=1).mean())


@dataclass
class _HeadSums:
    """Sums over images, by head, of one layer."""

    grid: PatchGrid
    distance: torch.Tensor  # float64 [heads], of means over queries
    entropy: torch.Tensor

    def readings(self, layer: str, depth: int, num_images: int) -> Iterator[Reading]:
        """Means over images."""
        for quantity, unit, sums in (
            ("attention_distance", "px", self.distance),
            ("attention_entropy", "nat", self.entropy),
        ):
            for head, value in enumerate((sums / num_images).tolist()):
                yield Reading(quantity, value, unit, layer=layer, depth=depth, head=head, num_images=num_images)


def _by_layer(distance: Callable[[PatchGrid], float], sums: Mapping[str, _HeadSums]) -> npt.NDArray[np.float32]:
    return np.array([distance(head.grid) for head in sums.values()], np.float32)


def _add_batch(network: nn.Module, images: torch.Tensor, sums: dict[str, _HeadSums]) -> None:
    """Add one batch to the sums of every layer in which tokens attend to tokens."""

    def see(layer: str, logits: torch.Tensor) -> None:
        *leading, num_queries, num_keys = logits.shape
        if len(leading) != 2 or num_queries != num_keys:  # tokens attend to something else, as a pooling query does
            return
        if leading[0] != len(images):
            raise ProbeError(
                f"layer {layer!r} of {type(network).__name__} attends within windows, or has its heads among its "
                f"images ({leading[0]} of {num_keys} tokens for {len(images)} images): expected logits [images, heads, "
                "patches, patches], every patch attending to all"
            )
        if not counts.may_be_tokens(num_keys):
            return
        grid = patch_grid(network, num_keys, _size(images))
        if grid.num_patches == 1:
            raise ProbeError(f"{type(network).__name__} sees an image as a single patch: there are no distances")
        distance, entropy = _by_head(logits, grid, layer)
        added = sums.setdefault(layer, _HeadSums(grid, torch.zeros_like(distance), torch.zeros_like(entropy)))
        added.distance += distance
        added.entropy += entropy

    with counting_tokens(network, images) as counts, watching_attention(network, see):
        network(images)


def _by_head(logits: torch.Tensor, grid: PatchGrid, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance and entropy `[heads]` of logits `[B, heads, N, N]`, averaged over queries, summed over images."""
    first = grid.num_prefix_tokens
    precision = torch.promote_types(logits.dtype, torch.float32)
    among_patches = logits[:, :, first:, first:]
    if among_patches.isnan().any() or among_patches.isposinf().any():
        raise ProbeError(f"attention of layer {layer!r} is not finite: the network has diverged")
    if among_patches.isneginf().all(dim=-1).any():
        raise ProbeError(
            f"in layer {layer!r} a patch attends to no patch at all, as far as the network's precision tells: all "
            "attention goes to tokens without a place, or a mask takes it, and a distance is undefined"
        )
    weights = among_patches.to(precision).softmax(dim=-1)
    if not weights.isfinite().all():
        raise ProbeError(f"attention of layer {layer!r} is not finite: the network has diverged")
    distances = grid.distances().to(weights)
    distance = (weights * distances).sum(dim=-1)  # [B, heads, queries]
    entropy = torch.special.entr(weights).sum(dim=-1)
    by_query = torch.stack([distance, entropy]).double().cpu()
    summed_distance, summed_entropy = by_query.mean(dim=-1).sum(dim=1)
    return summed_distance, summed_entropy


def _size(images: torch.Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
