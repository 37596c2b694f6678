"""What a network learns. An objective turns images into a question and its answers, and no more.

Optimiser steps (`chunked`) and evaluation (`evaluation`) put the question to the network, and the answers into a
cross-entropy. Questions are functions of the images and of a place (a step, or an image of an evaluation), so that
neither a resumed run nor the size of a chunk or of a batch changes any of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from datamodules import StepBatches
from datamodules.augment import random_integers, random_integers_of
from models.masked_patches import (
    COLOUR_LEVELS,
    Corruption,
    MaskedPatchNetwork,
    colour_classes,
    corruption_of,
    num_draws,
)

from .cell import Cell
from .seeding import seed_of


class Question(NamedTuple):
    """What is put to a network, and what it should say.

    Attributes:
        inputs: the arguments of its `forward`, which gives logits `[n, num_answers]`.
        answers: the right classes, int64 `[n]`: of n images, or of n patches.
    """

    inputs: tuple[Any, ...]
    answers: Tensor


class Objective(Protocol):
    """One way to learn from images.

    Attributes:
        num_answers: classes to choose from.
    """

    num_answers: int

    def adapted(self, network: nn.Module) -> nn.Module:
        """The network that is trained, from that of an `ImageClassifier` with its initial weights."""

    def training_question(
        self,
        network: nn.Module,
        batches: StepBatches,
        images: Tensor,
        labels: Tensor,
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> Question:
        """The question of a training step.

        Args:
            network: what `adapted` gave.
            batches: where the images come from.
            images: this process's share of the batch at `step`, as `batches.batch_at` gives it.
            labels: of the images.
            step: the optimiser step.
            rank: which of `world_size` processes asks.
            world_size: processes that share a batch.
        """

    def evaluation_question(
        self, network: nn.Module, batches: StepBatches, images: Tensor, labels: Tensor, first: int
    ) -> Question:
        """The question of an evaluation, the same for every cell and however the images are batched.

        Args:
            first: place of the first image among all that are evaluated.
        """


class Classification:
    """The class of every image."""

    def __init__(self, num_classes: int) -> None:
        self.num_answers = num_classes

    def adapted(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def training_question(
        self,
        network: nn.Module,
        batches: StepBatches,
        images: Tensor,
        labels: Tensor,
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> Question:
        """Images and labels as they are."""
        del network, batches, step, rank, world_size
        return Question((images,), labels)

    def evaluation_question(
        self, network: nn.Module, batches: StepBatches, images: Tensor, labels: Tensor, first: int
    ) -> Question:
        """Images and labels as they are."""
        del network, batches, first
        return Question((images,), labels)


class MaskedPatches:
    """The mean colour of patches whose embeddings are hidden (`models.masked_patches`); labels are not looked at.

    Masks of training are drawn from the augmentation seed, in a stream of their own beside that of the crops. Those of
    an evaluation depend on the place of an image alone and so are the same for all cells.
    """

    def __init__(self, in_channels: int, *, initialization_seed: int, augmentation_seed: int) -> None:
        self.num_answers = COLOUR_LEVELS**in_channels
        self._initialization_seed = seed_of(("mask embedding", initialization_seed))
        self._training_seed = seed_of(("masks", augmentation_seed))
        self._evaluation_seed = seed_of(("masks of evaluations",))

    def adapted(self, network: nn.Module) -> nn.Module:
        """The network with a [mask] embedding and a predictor of colours for a classifier.

        Raises:
            ValueError: its patches cannot be masked; says why.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._initialization_seed)
            return MaskedPatchNetwork(network)

    def training_question(
        self,
        network: nn.Module,
        batches: StepBatches,
        images: Tensor,
        labels: Tensor,
        step: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> Question:
        """The colours of patches chosen by seed, step and an image's slot in the batch."""
        del labels
        num_patches = _masked(network).num_patches
        shape = (num_draws(num_patches), len(images) * world_size)
        draws = random_integers(self._training_seed, step, shape, images.device)[:, rank::world_size]
        return _colours(network, batches, images, corruption_of(draws, num_patches))

    def evaluation_question(
        self, network: nn.Module, batches: StepBatches, images: Tensor, labels: Tensor, first: int
    ) -> Question:
        """The colours of patches chosen by the place of an image among all that are evaluated."""
        del labels
        num_patches = _masked(network).num_patches
        seed = torch.tensor(self._evaluation_seed, device=images.device)
        places = torch.arange(first, first + len(images), device=images.device)
        draws = random_integers_of(seed, places, (num_draws(num_patches), 1))[..., 0].T
        return _colours(network, batches, images, corruption_of(draws, num_patches))


def objective_of(cell: Cell) -> Objective:
    """What a cell learns."""
    if cell.objective == "masked_patches":
        return MaskedPatches(
            cell.in_channels,
            initialization_seed=cell.seeds.initialization,
            augmentation_seed=cell.seeds.augmentation,
        )
    return Classification(cell.num_classes)


def _masked(network: nn.Module) -> MaskedPatchNetwork:
    if not isinstance(network, MaskedPatchNetwork):
        raise TypeError(f"masked patches were asked of a {type(network).__name__}; expected what `adapted` gives")
    return network


def _colours(network: nn.Module, batches: StepBatches, images: Tensor, corruption: Corruption) -> Question:
    colours = colour_classes(batches.pixel_values(images), _masked(network).patch_size)
    return Question((images, corruption), colours.gather(1, corruption.places).flatten())
