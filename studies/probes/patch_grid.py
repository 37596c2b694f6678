"""Where in the image the tokens of a network lie."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import nn

from .probe import ProbeError
from .wrapping import declaring


@dataclass(frozen=True)
class PatchGrid:
    """Tokens of an image: some without a place, such as a class token, then patches in raster order.

    Attributes:
        rows: patches along the height.
        columns: patches along the width.
        num_prefix_tokens: tokens before the patches.
        pitch: distance of neighbouring patches in pixels, along height and width.
    """

    rows: int
    columns: int
    num_prefix_tokens: int = 0
    pitch: tuple[float, float] = (1.0, 1.0)

    @property
    def num_patches(self) -> int:
        """T."""
        return self.rows * self.columns

    def distances(self) -> torch.Tensor:
        """Euclidean distances of patch centres in pixels, float64 `[T, T]`."""
        down = torch.arange(self.rows, dtype=torch.float64) * self.pitch[0]
        across = torch.arange(self.columns, dtype=torch.float64) * self.pitch[1]
        # Not torch.cdist: its matrix products round distances that are exactly zero.
        vertical = (down[:, None] - down).repeat_interleave(self.columns, 0).repeat_interleave(self.columns, 1)
        horizontal = (across[:, None] - across).repeat(self.rows, self.rows)
        return torch.hypot(vertical, horizontal)


def patch_grid(network: nn.Module, num_tokens: int, image_size: tuple[int, int]) -> PatchGrid:
    """The grid of a layer's tokens: square patches in the image's proportions, behind the network's prefix tokens.

    Args:
        network: asked for `num_prefix_tokens` and, where patches are not square, `patch_embed.grid_size`, as timm's
            networks have them; so is the network that it wraps. Without the former there are no prefix tokens, or one.
        num_tokens: of one image.
        image_size: height and width in pixels.

    Raises:
        ProbeError: no grid has that many patches.
    """
    height, width = image_size
    _, inner = declaring(network)
    declared = getattr(inner, "num_prefix_tokens", None)
    own = tuple(getattr(getattr(inner, "patch_embed", None), "grid_size", None) or ())
    for prefix in dict.fromkeys((*([declared] if isinstance(declared, int) else []), 0, 1)):
        num_patches = num_tokens - prefix
        if num_patches < 1:
            continue
        rows = isqrt(num_patches * height // width)
        square = (rows, num_patches // rows) if rows else (0, 0)
        for grid in (square, own):
            fits = len(grid) == 2 and grid[0] * grid[1] == num_patches
            if fits and (grid is own or grid[0] * width == grid[1] * height):
                return PatchGrid(grid[0], grid[1], prefix, (height / grid[0], width / grid[1]))
    raise ProbeError(
        f"{type(network).__name__} has {num_tokens} tokens for an image of {height} x {width} px: expected a grid of "
        "patches in the image's proportions, or one that patch_embed.grid_size tells, behind num_prefix_tokens others"
    )
