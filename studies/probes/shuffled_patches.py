"""Patch shuffling: how much of a network's accuracy needs the parts of an image to be where they belong.

An image is cut into a grid of patches, which change places at random (Naseer et al. 2105.10497). What remains of the
accuracy is told on a scale on which 1 is the accuracy on whole images and 0 what always saying the commonest class
reaches, so that networks and data sets compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from studies.probes.presenting import Batches, evaluation_mode, predicted, shown
from studies.probes.probe import Probed, ProbeError, Reading


def patch_shuffle(
    network: nn.Module,
    batches: Batches,
    *,
    grids: Sequence[int] = (1, 2, 4, 8),
    num_images: int = 512,
    seed: int = 0,
) -> Probed:
    """What shuffling the patches of every image leaves of a network's accuracy.

    Args:
        network: any classifier of images.
        batches: images and classes.
        grids: patches along one side; a grid of 1 is the whole image. A grid that does not divide the images has no
            reading, one that is named twice has one.
        num_images: the first so many images of the batches are shown.
        seed: of the permutations, one for every image and grid, drawn among all: of 2 x 2 patches, one in 24 is the
            image itself.

    Returns:
        For each grid that divides the images (``setting``), readings ``shuffled_accuracy`` and
        ``patch_shuffle_retained``: `(shuffled accuracy - chance) / (accuracy - chance)`, where chance is the share of
        the commonest class among these images; besides, ``accuracy`` and ``chance_accuracy``.

    Raises:
        ValueError: a grid is not positive.
        ProbeError: the network is not better than chance, so that there is nothing to lose; no grid divides the
            images; or it gives no logits.
    """
    if not grids or min(grids) < 1:
        raise ValueError(f"grids={tuple(grids)}: expected positive numbers of patches along a side")
    grids = tuple(dict.fromkeys(grids))
    generators = {grid: np.random.Generator(np.random.Philox(key=[seed, grid])) for grid in grids}
    right, hits = dict.fromkeys(grids, 0), 0
    true_classes: list[Tensor] = []
    size: tuple[int, ...] = ()
    with evaluation_mode(network):
        for images, labels in shown(batches, num_images, network):
            size = tuple(images.shape[2:])
            dividing = [grid for grid in grids if not any(side % grid for side in size)]
            if not set(dividing) - {1} and grids != (1,):
                tried = " or ".join(str(grid) for grid in grids if grid > 1)
                raise ProbeError(
                    f"images of {size[0]} x {size[1]} pixels cannot be cut into equal patches, {tried} along each "
                    "side; give a grid that divides both sides"
                )
            true_classes.append(labels)
            hits += int((predicted(network, images)[0] == labels).sum())
            for grid in dividing:
                order = np.stack([generators[grid].permutation(grid**2) for _ in range(len(images))])
                moved = shuffled(images, torch.from_numpy(order).to(images.device), grid)
                right[grid] += int((predicted(network, moved)[0] == labels).sum())
    classes = torch.cat(true_classes)
    total = len(classes)
    commonest = int(classes.bincount().max())
    if hits <= commonest:
        raise ProbeError(
            f"the network classifies {hits} of {total} images correctly, and whoever always says the commonest class "
            f"{commonest}: it has no accuracy above chance that shuffled patches could take; show it more images, or "
            "train it"
        )
    readings = [
        Reading("accuracy", hits / total, "fraction", num_images=total),
        Reading("chance_accuracy", commonest / total, "fraction", num_images=total),
    ]
    for grid in dividing:
        retained = (right[grid] - commonest) / (hits - commonest)
        readings += [
            Reading("patch_shuffle_retained", retained, "relative", setting=float(grid), num_images=total),
            Reading("shuffled_accuracy", right[grid] / total, "fraction", setting=float(grid), num_images=total),
        ]
    return Probed(tuple(readings))


def shuffled(images: Tensor, order: Tensor, grid: int) -> Tensor:
    """Images ``[B, C, H, W]`` whose patches, counted row by row, are those of ``order``, int64 ``[B, grid^2]``."""
    batch, channels, height, width = images.shape
    rows, columns = height // grid, width // grid
    patches = images.reshape(batch, channels, grid, rows, grid, columns).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, grid**2, channels, rows, columns)
    chosen = patches[torch.arange(batch, device=images.device)[:, None], order]
    placed = chosen.reshape(batch, grid, grid, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return placed.reshape(batch, channels, height, width)
