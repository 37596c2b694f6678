"""Position embeddings of a network at another image size: a state dictionary in, a state dictionary out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch.nn import functional as F

_RESIZED_ENDINGS = ("pos_embed", "position.embedding")
_AXIS_ENDINGS = ("position.rows", "position.columns")
_BIAS_ENDING = "position.offsets.relative_position_bias_table"
_OFFSET_KEYS_ENDING = "position.offset_keys"


def resized_positions(state: Mapping[str, torch.Tensor], *, old_grid: int, new_grid: int) -> dict[str, torch.Tensor]:
    """A network's state with its position embeddings moved from one grid of patches to another on the same image.

    What a table says at a place of the image stays there:

    - a learnt vector for each patch is seen as the image that its grid makes and resized as one, from centre to centre
      (Dosovitskiy et al. 2010.11929, section 3.2, for fine-tuning at higher resolution; here bicubic, with antialiasing
      where the grid shrinks: `timm.layers.resample_abs_pos_embed`); rows before the patches, for a class token, stay as
      they are. A plane is kept exactly but within two old patches of the border;
    - row and column vectors are resized in the same way along their own axis;
    - relative biases are interpolated linearly at the offsets of the new grid counted in steps of the old one, offset 0
      staying where it is; offsets that the old grid did not reach take the value at its edge. A plane is kept exactly
      within the old offsets;
    - sinusoids of row and column and rotations have no weights: build the network for the new grid with its original
      one.

    At the same grid every tensor is the same object as before.

    Args:
        state: a state dictionary, with or without a prefix before the network's names; not changed.
        old_grid: patches along one side where the state was trained.
        new_grid: patches along one side where it is to be used.

    Raises:
        ValueError: a table does not fit the old grid, or holds raster offsets, which mean other displacements on
            another grid.
    """
    resized = dict(state)
    if old_grid == new_grid:
        return resized
    for name, tensor in state.items():
        if _ends(name, _OFFSET_KEYS_ENDING):
            raise ValueError(
                f"{name}: keys of raster offsets cannot move from a grid of {old_grid} to one of {new_grid}: the same "
                "offset along the raster is another displacement there; use the form relbias or rotary, or train anew"
            )
        if any(_ends(name, ending) for ending in _RESIZED_ENDINGS):
            resized[name] = _resized_grid(name, tensor, old_grid, new_grid)
        elif any(_ends(name, ending) for ending in _AXIS_ENDINGS):
            resized[name] = _resized_axis(name, tensor, old_grid, new_grid)
        elif _ends(name, _BIAS_ENDING):
            resized[name] = _resized_bias(name, tensor, old_grid, new_grid)
    return resized


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _resized_grid(name: str, table: torch.Tensor, old_grid: int, new_grid: int) -> torch.Tensor:
    """Vectors of patches ``[T, D]`` or ``[1, P + T, D]``."""
    rows = table.reshape(1, -1, table.shape[-1])
    num_prefix_rows = rows.shape[1] - old_grid**2
    if num_prefix_rows < 0 or (num_prefix_rows > 0 and table.ndim == 2):
        _refuse(name, table, old_grid, f"{old_grid**2} rows")
    resized: torch.Tensor = resample_abs_pos_embed(
        rows, [new_grid, new_grid], [old_grid, old_grid], num_prefix_tokens=num_prefix_rows
    )
    return resized.reshape(*table.shape[:-2], -1, table.shape[-1])


def _resized_axis(name: str, table: torch.Tensor, old_grid: int, new_grid: int) -> torch.Tensor:
    """Vectors of rows or of columns, ``[g, D / 2]``."""
    if len(table) != old_grid:
        _refuse(name, table, old_grid, f"{old_grid} rows")
    line: torch.Tensor = resample_abs_pos_embed(table.unsqueeze(0), [new_grid, 1], [old_grid, 1], num_prefix_tokens=0)
    return line.squeeze(0)


def _resized_bias(name: str, table: torch.Tensor, old_grid: int, new_grid: int) -> torch.Tensor:
    """Biases of two-dimensional offsets, ``[(2g - 1)^2, heads]``."""
    old_side, new_side = 2 * old_grid - 1, 2 * new_grid - 1
    if len(table) != old_side**2:
        _refuse(name, table, old_grid, f"{old_side**2} rows")
    offsets = torch.arange(1 - new_grid, new_grid, dtype=table.dtype, device=table.device) * (old_grid / new_grid)
    scaled = offsets / max(old_grid - 1, 1)  # -1 and 1 are the outermost old offsets
    rows, columns = torch.meshgrid(scaled, scaled, indexing="ij")
    sampled = F.grid_sample(
        table.T.reshape(1, -1, old_side, old_side),
        torch.stack([columns, rows], dim=-1).unsqueeze(0),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return sampled.reshape(-1, new_side**2).T.contiguous()


def _refuse(name: str, table: torch.Tensor, old_grid: int, expected: str) -> NoReturn:
    raise ValueError(
        f"{name} has shape {list(table.shape)}, which does not belong to a grid of {old_grid} x {old_grid} patches: "
        f"expected {expected}"
    )
