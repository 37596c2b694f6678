"""One network at two image sizes: the weights stay, the positions are interpolated.

Convolutions and scans have no size and patches keep theirs, so that at twice the image size a network sees twice as
many patches, maps or steps along each side (Dosovitskiy et al. 2010.11929, section 3.2; Touvron et al. 1906.06423).
Only what belongs to the place of a token is resized. Families whose weights belong to one size say so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models.position import resized_positions
from models.registry import layout_of


def resize_state(
    family: str,
    variant: str,
    state: Mapping[str, torch.Tensor],
    *,
    designed_for: int,
    old_size: int,
    new_size: int,
    in_channels: int,
) -> dict[str, torch.Tensor]:
    """The weights of a network at another image size.

    Args:
        family: one of `models.family_names`, with layouts.
        variant: ``<tier>`` or ``<tier>-<form>``.
        state: state dictionary of the network as it is applied to ``old_size`` pixels.
        designed_for: side in pixels of the images that the network's sizes are solved for.
        old_size: side of the images that the weights were trained on.
        new_size: side of the images they are to be applied to.
        in_channels: channels of the images.

    Returns:
        The state dictionary for ``build_network(..., image_size=new_size, designed_for=designed_for)``.

    Raises:
        ValueError: the family, or its form, cannot be applied to images of another size.
    """
    before, after = (
        layout_of(family, variant, image_size=size, in_channels=in_channels, designed_for=designed_for)
        for size in (old_size, new_size)
    )
    old_grid, new_grid = (getattr(layout, "grid_size", None) for layout in (before, after))
    if old_grid is None or new_grid is None:  # a family that tells its tokens no places
        return dict(state)
    return resized_positions(state, old_grid=old_grid, new_grid=new_grid)
