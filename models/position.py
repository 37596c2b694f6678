"""Positions of tokens on a grid, and what becomes of them on another grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers import resample_abs_pos_embed


def resized_positions(
    state: Mapping[str, torch.Tensor], *, old_grid: int, new_grid: int
) -> dict[str, torch.Tensor]:
    """A state dictionary whose learned positions are those of another grid.

    Args:
        state: of a network with ``old_grid`` x ``old_grid`` tokens.
        old_grid: tokens along one side.
        new_grid: tokens along one side after it.
    """
    resized = dict(state)
    if "pos_embed" in state and old_grid != new_grid:
        resized["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], [new_grid, new_grid], [old_grid, old_grid], num_prefix_tokens=0
        )
    return resized
