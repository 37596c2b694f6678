"""Studies whose truth is known: what the analysis is held against.

Shapes: F families, R replicates, n sizes, B blocks of test images, T test images.

The truth of a family is a data curve in closed form. What is measured differs from it twice. The *networks* differ: the
log of a cell's population error is the truth plus a row effect that all families share (subset and order seeds are
common to them), a row effect of the family, and an effect of the cell. The *test images* differ: image i is wrong in a
cell of population error p where a standard normal score exceeds the quantile of 1 - p, so that the error over all
images is p exactly (a Gaussian copula). Scores of different cells at one image are correlated: a part of their
variance, the image's difficulty, is common to all cells, another part to all cells of a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from .curve import Array, Curve
from .table import Columns, log_error

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PowerLaw:
    """A data curve E(N) = floor + amplitude N^-exponent (M2 of PROTOCOL 6) with its inverse."""

    floor: float
    amplitude: float
    exponent: float

    def __call__(self, num_train: float) -> float:
        """The error at N."""
        return float(self.floor + self.amplitude * num_train**-self.exponent)

    def inverse(self, error: float) -> float:
        """The N of an error above the floor."""
        return float((self.amplitude / (error - self.floor)) ** (1 / self.exponent))


CONVOLUTION = PowerLaw(0.16, 6.0, 0.5)
"""Curve c of PROTOCOL 7: fewer images, higher floor."""

TRANSFORMER = PowerLaw(0.05, 3.6, 0.35)
"""Curve v of PROTOCOL 7; the two meet at N = 2,849.39."""


@dataclass(frozen=True)
class Noise:
    """How measured errors differ from the truth.

    Attributes:
        common_row: standard deviation of the log error from seeds that all families of a replicate share.
        family_row: from seeds that all sizes of a family in a replicate share.
        cell: from what no two cells share.
        num_test: test images T.
        common_score: part of a score's variance that all cells share at an image.
        family_score: part that all cells of a family share besides.
        same_images: whether all replicates are tested on the same images; otherwise each has fresh ones.
        num_blocks: B; image i is in block i mod B.
    """

    common_row: float = 0.03
    family_row: float = 0.03
    cell: float = 0.03
    num_test: int = 2000
    common_score: float = 0.3
    family_score: float = 0.4
    same_images: bool = True
    num_blocks: int = 20


@dataclass(frozen=True)
class SimulatedStudy:
    """Errors of a simulated study.

    Attributes:
        families: names [F].
        sizes: training images [n].
        errors: wrong test images per block [F, R, n, B].
        images: test images per block [B].
        same_images: whether the blocks are the same images in all replicates.
    """

    families: tuple[str, ...]
    sizes: Array
    errors: Counts
    images: Counts
    same_images: bool

    def curves(self, num_replicates: int | None = None) -> dict[str, Curve]:
        """The measured curves, of the first replicates if fewer are asked for."""
        names = tuple(str(r) for r in range(num_replicates or self.errors.shape[1]))
        total = float(self.images.sum())
        measured = {}
        for family, errors in zip(self.families, self.errors[:, : len(names)], strict=True):
            wrong = errors.sum(axis=-1)
            blocks = None
            if self.same_images and len(names) > 1:
                images_left = total - self.images  # [B]: one block deleted
                rates = (wrong[..., None] - errors) / images_left
                blocks = np.moveaxis(log_error(rates, np.broadcast_to(images_left, rates.shape)), -1, 0)
            values = log_error(wrong / total, np.full(wrong.shape, total))
            measured[family] = Curve(family, "num_train", self.sizes, values, names, block_log_error=blocks)
        return measured

    def table(self) -> tuple[pd.DataFrame, Columns, dict[Hashable, Counts] | None]:
        """The study as a table, its columns, and (errors, images) per block [B, 2] by row."""
        num_families, num_replicates, num_sizes, _ = self.errors.shape
        which = np.indices((num_families, num_replicates, num_sizes)).reshape(3, -1)
        errors = self.errors.reshape(which.shape[1], -1)
        frame = pd.DataFrame(
            {
                "family": [self.families[place] for place in which[0]],
                "num_train": self.sizes[which[2]],
                "replicate": which[1],
                "error": errors.sum(axis=1) / self.images.sum(),
                "num_test": int(self.images.sum()),
                "row": np.arange(which.shape[1]),
            }
        )
        blocks: dict[Hashable, Counts] = {
            row: np.stack([wrong, self.images], axis=1) for row, wrong in enumerate(errors)
        }
        return frame, Columns(block_key="row"), blocks if self.same_images else None


def simulate(
    truths: Mapping[str, Callable[[float], float]],
    sizes: Array,
    num_replicates: int,
    noise: Noise,
    generator: np.random.Generator,
) -> SimulatedStudy:
    """Draws a study.

    Args:
        truths: data curves N -> error by family.
        sizes: training images [n].
        num_replicates: R.
        noise: what is added.
        generator: all randomness.
    """
    shape = (len(truths), num_replicates, len(sizes))
    log_truth = np.log([[truth(size) for size in sizes] for truth in truths.values()])[:, None, :]
    population = np.exp(
        log_truth
        + noise.common_row * generator.standard_normal((1, num_replicates, 1))
        + noise.family_row * generator.standard_normal((*shape[:2], 1))
        + noise.cell * generator.standard_normal(shape)
    )
    threshold = stats.norm.isf(np.minimum(population, 1 - 1e-9)).astype(np.float32)
    sets = 1 if noise.same_images else num_replicates
    difficulty = math.sqrt(noise.common_score) * _normal(generator, (1, sets, noise.num_test))
    difficulty = difficulty + math.sqrt(noise.family_score) * _normal(generator, (shape[0], sets, noise.num_test))
    own = math.sqrt(1 - noise.common_score - noise.family_score)
    block = np.arange(noise.num_test) % noise.num_blocks
    images = np.bincount(block, minlength=noise.num_blocks)
    errors = np.empty((*shape, noise.num_blocks), np.int64)
    for place in range(len(sizes)):  # one size at a time keeps the scores small
        score = difficulty + np.float32(own) * _normal(generator, (*shape[:2], noise.num_test))
        wrong = score > threshold[:, :, place, None]
        for index in range(noise.num_blocks):
            errors[:, :, place, index] = np.count_nonzero(wrong[..., index :: noise.num_blocks], axis=-1)
    return SimulatedStudy(tuple(truths), sizes, errors, images, noise.same_images)


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return generator.standard_normal(shape, dtype=np.float32)
