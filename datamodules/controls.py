"""Negative controls: fixed permutations that take locality away from an image without taking information.

Applied after augmentation, the same for every image, channel and step of a run. The ladder of scopes: `within_patch`
(one permutation of the pixels of a patch, shared by all patches), `patches` (whole patches change places), `pixels`
(everything).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from datamodules.images import Int64Array
from datamodules.info import DataError

PermutationScope = Literal["none", "within_patch", "patches", "pixels"]

_PERMUTATION_KEY = 0x7065726D


@dataclass(frozen=True)
class PixelPermutation:
    """A permutation of the pixels of square images.

    Attributes:
        scope: How far pixels move.
        image_size: Height and width in pixels.
        patch_size: Height and width of a patch; must divide `image_size` for the two scopes that know patches.
        seed: Draws the permutation.
    """

    scope: PermutationScope
    image_size: int
    patch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scope not in get_args(PermutationScope):
            raise DataError(
                f"permutation {self.scope!r} is unknown; choose one of {', '.join(get_args(PermutationScope))}"
            )
        if self.scope in ("within_patch", "patches") and self.image_size % self.patch_size:
            raise DataError(
                f"permutation {self.scope} needs a patch size that divides the image: "
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}"
            )

    def table(self) -> Int64Array:
        """Source pixel of every output pixel, int64 `[H * W]` in row order: `output[j] = input[table[j]]`."""
        pixels = np.arange(self.image_size**2)
        if self.scope == "none":
            return pixels
        generator = np.random.Generator(np.random.Philox(key=[self.seed, _PERMUTATION_KEY]))
        if self.scope == "pixels":
            return generator.permutation(pixels)
        patch = self.patch_size
        grid = self.image_size // patch
        # [patch, pixel in patch] and back
        patches = pixels.reshape(grid, patch, grid, patch).transpose(0, 2, 1, 3).reshape(grid**2, patch**2)
        if self.scope == "within_patch":
            patches = patches[:, generator.permutation(patch**2)]
        else:
            patches = patches[generator.permutation(grid**2)]
        return patches.reshape(grid, grid, patch, patch).transpose(0, 2, 1, 3).reshape(-1)

    def inverse_table(self) -> Int64Array:
        """The table that undoes `table`: `input[j] = output[inverse_table[j]]`."""
        return np.argsort(self.table())
