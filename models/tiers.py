"""Tiers: the amount of computation that families share, each defined by its reference vision transformer.

A variant is written ``<tier>`` or ``<tier>-<form>``: ``nano``, ``small-gn``. The tier fixes the forward FLOPs, a form
changes one thing about a family (its padding, its norm, its order) at the same FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Tier:
    """The vision transformer whose forward FLOPs every family of the tier matches.

    Attributes:
        width: size of a token.
        depth: number of transformer blocks.
        num_heads: attention heads of a block.
        patch_sizes: image size in pixels -> patch size in pixels, for the image sizes the tier is meant for.
    """

    name: str
    width: int
    depth: int
    num_heads: int
    patch_sizes: Mapping[int, int]

    @property
    def width_multiple(self) -> int:
        """Solved widths are multiples of this, which keeps kernels fast; one unit is a lot in the smallest tiers."""
        return 1 if self.name in ("nano", "micro") else 8

    def grid_size(self, image_size: int) -> int:
        """Number of patches along one side of an image."""
        return image_size // self.patch_sizes[image_size]


def _tier(name: str, width: int, depth: int, num_heads: int, patch_sizes: dict[int, int]) -> Tier:
    return Tier(name, width, depth, num_heads, MappingProxyType(patch_sizes))


# small and base are ViT-S (Touvron et al. 2012.12877, table 1) and ViT-B (Dosovitskiy et al. 2010.11929, table 1);
# tiny is the width of DeiT-Ti at a third of its depth; nano is sized for one CPU core: 1.3 MFLOP at 16 px. micro
# is five times that, a second size for one core.
TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        tier.name: tier
        for tier in (
            _tier("nano", 32, 3, 2, {16: 4, 28: 4, 32: 4}),
            _tier("micro", 64, 4, 2, {16: 4, 28: 4, 32: 4}),
            _tier("tiny", 192, 4, 3, {28: 4, 32: 4, 64: 8}),
            _tier("small", 384, 12, 6, {32: 4, 64: 8, 224: 16}),
            _tier("base", 768, 12, 12, {64: 8, 224: 16}),
        )
    }
)


def split_variant(variant: str) -> tuple[str, str]:
    """Split ``"nano-circular"`` into ``("nano", "circular")`` and ``"nano"`` into ``("nano", "")``."""
    tier, _, form = variant.partition("-")
    return tier, form
