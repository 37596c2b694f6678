"""Position embeddings, one class for each kind.

Kinds that are *added* map tokens ``[B, P + T, D]`` to tokens: T patches on a square grid in raster order behind P
prefix tokens. Kinds *in attention* map queries and keys ``[B, heads, P + T, d]`` to queries, keys and what is added to
the logits before the softmax. A class token has no place: nothing is added to it, and no offset leads to it or from it.

Learnt tables of every kind start from a normal distribution of deviation 0.02, as timm's does, and are not decayed.

At another image size than the one a network was designed for, the grid has more or fewer patches on the same image.
Fixed kinds of rows and columns then count places in steps of the original grid, from centre to centre: patch i of g
lies at ``(i + 1/2) g0 / g - 1/2``, so that a place in the image keeps its sinusoid and its angle. Learnt tables are
interpolated (`resized_positions`). What is counted along the raster belongs to one grid: sinusoids of the raster index
are refused on another (`TransformerForm.check_grid`), keys of raster offsets cannot be moved to it.
"""

from __future__ import annotations

import torch
from timm.layers import (  # type: ignore[attr-defined]
    RelPosBias,
    apply_rot_embed,
    build_rotary_pos_embed,
    trunc_normal_,
)
from torch import nn
from torch.nn import functional as F

from models.position_resizing import resized_positions
from models.transformer_form import PositionKind

__all__ = [
    "AddedPosition",
    "AxialPosition",
    "LearnedPosition",
    "RelativeBias",
    "RelativeQuery",
    "RotaryPosition",
    "SinusoidalPosition",
    "build_position",
    "patch_places",
    "resized_positions",
    "sinusoids",
]

# Vaswani et al. 1706.03762, section 3.5.
_SINUSOID_BASE = 10_000.0
# The axial rotation of Heo et al. 2403.13298: grids are short against texts, so the base is the square root of that of
# Su et al. 2104.09864.
_ROTARY_BASE = 100.0
_TABLE_DEVIATION = 0.02


class AddedPosition(nn.Module):
    """What every kind that is added to tokens shares."""

    def __init__(self, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    def table(self) -> torch.Tensor:
        """One vector for each patch, ``[..., T, D]``; leading axes are those of the parameters."""
        raise NotImplementedError

    def token_table(self) -> torch.Tensor:
        """The table with zeros for prefix tokens, ``[..., P + T, D]``."""
        table = self.table()
        return F.pad(table, (0, 0, self.num_prefix_tokens, 0)) if self.num_prefix_tokens else table

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add the table to the patches of ``[B, P + T, D]``."""
        return tokens + self.token_table()


class LearnedPosition(AddedPosition):
    """A learnt vector for each of ``T = grid**2`` patches: T D parameters."""

    def __init__(self, grid: int, width: int, num_prefix_tokens: int) -> None:
        super().__init__(num_prefix_tokens)
        self.embedding = _table(grid**2, width)

    def table(self) -> torch.Tensor:
        """The parameters themselves."""
        return self.embedding


class AxialPosition(AddedPosition):
    """A learnt half vector for the row and one for the column: 2 g D / 2 = g D parameters."""

    def __init__(self, grid: int, width: int, num_prefix_tokens: int) -> None:
        super().__init__(num_prefix_tokens)
        if width % 2:
            raise ValueError(f"tokens of width {width}: halves for row and column need an even width")
        self.rows, self.columns = _table(grid, width // 2), _table(grid, width // 2)

    def table(self) -> torch.Tensor:
        """Row and column vector of each patch, side by side."""
        grid = self.rows.shape[-2]
        rows = self.rows.unsqueeze(-2).expand(*self.rows.shape[:-1], grid, -1)  # [..., row, any column, D / 2]
        columns = self.columns.unsqueeze(-3).expand(*self.columns.shape[:-2], grid, -1, -1)
        return torch.cat([rows, columns], dim=-1).flatten(-3, -2)


class SinusoidalPosition(AddedPosition):
    """Fixed sinusoids: no parameters.

    In one dimension those of Vaswani et al. 1706.03762 (section 3.5) at the raster index; in two, half the channels at
    the row and half at the column, as the fixed embedding of Chen et al. 2104.02057 and Beyer et al. 2205.01580.
    """

    waves: torch.Tensor

    def __init__(
        self, grid: int, width: int, num_prefix_tokens: int, *, original_grid: int, num_dimensions: int
    ) -> None:
        super().__init__(num_prefix_tokens)
        places = patch_places(grid, original_grid)
        rows, columns = places.repeat_interleave(grid), places.repeat(grid)
        if width % (2 * num_dimensions):
            raise ValueError(f"tokens of width {width}: sinusoids need a multiple of {2 * num_dimensions}")
        if num_dimensions == 1:
            waves = sinusoids(original_grid * rows + columns, width)
        else:
            waves = torch.cat([sinusoids(rows, width // 2), sinusoids(columns, width // 2)], dim=1)
        self.register_buffer("waves", waves.to(torch.get_default_dtype()), persistent=False)

    def table(self) -> torch.Tensor:
        """The sinusoids."""
        return self.waves


class RelativeBias(nn.Module):
    """A learnt bias for each head and two-dimensional offset (Liu et al. 2103.14030): (2g - 1)^2 x heads parameters.

    timm's `RelPosBias`.
    """

    def __init__(self, grid: int, num_heads: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.offsets = RelPosBias((grid, grid), num_heads)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Queries and keys as they are, and the bias ``[1, heads, P + T, P + T]``."""
        bias = self.offsets.get_bias().to(queries.dtype)
        return queries, keys, _beside_prefix(bias, self.num_prefix_tokens)


class RelativeQuery(nn.Module):
    """One-dimensional relative attention (Dosovitskiy et al. 2010.11929, appendix D.4): (2T - 1) d parameters.

    Each raster offset ``key - query`` has an embedding; the content's query is matched with it as with a key, and the
    result added to the logits of content, both scaled by ``d**-0.5``. Heads share the embeddings, as in Shaw et al.
    1803.02155 (section 3.3).
    """

    def __init__(self, grid: int, head_width: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.num_patches = grid**2
        self.offset_keys = _table(2 * grid**2 - 1, head_width)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Queries and keys as they are, and the logits of place ``[B, heads, P + T, P + T]``."""
        patches = queries[:, :, self.num_prefix_tokens :]
        batch_size, num_heads, num_patches, head_width = patches.shape
        # Row r is offset r - (T - 1): the keys of query i are the T rows from T - 1 - i on.
        keys_of_query = self.offset_keys.unfold(0, num_patches, 1).flip(0)  # [T queries, d, T keys]
        by_patch = patches.permute(2, 0, 1, 3).reshape(num_patches, -1, head_width)
        logits = torch.bmm(by_patch * head_width**-0.5, keys_of_query.to(queries.dtype))
        logits = logits.view(num_patches, batch_size, num_heads, num_patches).permute(1, 2, 0, 3)
        return queries, keys, _beside_prefix(logits, self.num_prefix_tokens)


class RotaryPosition(nn.Module):
    """Two-dimensional axial rotation of queries and keys (Heo et al. 2403.13298): no parameters.

    Half of a head's channel pairs turn with the row, half with the column, so that logits depend on offsets alone.
    """

    sines: torch.Tensor
    cosines: torch.Tensor

    def __init__(self, grid: int, head_width: int, num_prefix_tokens: int, *, original_grid: int) -> None:
        super().__init__()
        if head_width % 4:
            raise ValueError(f"heads of width {head_width}: a rotation by row and column needs a multiple of 4")
        self.num_prefix_tokens = num_prefix_tokens
        sines, cosines = build_rotary_pos_embed(
            [grid, grid],
            dim=head_width,
            temperature=_ROTARY_BASE,
            in_pixels=False,
            ref_feat_shape=[original_grid, original_grid],
        )
        self.register_buffer("sines", sines, persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Queries and keys with the patches among them rotated, and nothing for the logits."""
        return self._rotated(queries), self._rotated(keys), None

    def _rotated(self, heads: torch.Tensor) -> torch.Tensor:
        patches = apply_rot_embed(heads[:, :, self.num_prefix_tokens :], self.sines, self.cosines)
        if not self.num_prefix_tokens:
            return patches
        return torch.cat([heads[:, :, : self.num_prefix_tokens], patches], dim=2)


def build_position(
    kind: PositionKind, *, grid: int, original_grid: int, width: int, num_heads: int, num_prefix_tokens: int
) -> nn.Module:
    """The module of one kind for a square grid of patches; for no positions, one that adds nothing.

    Args:
        kind: what is told about places.
        grid: patches along one side.
        original_grid: patches along one side of the grid that the network was designed for.
        width: size of a token.
        num_heads: attention heads of a block.
        num_prefix_tokens: tokens before the patches.

    Raises:
        ValueError: tokens or heads have a width that the kind cannot divide.
    """
    if kind is PositionKind.NONE:
        return nn.Identity()
    if kind is PositionKind.LEARNED_1D:
        return LearnedPosition(grid, width, num_prefix_tokens)
    if kind is PositionKind.LEARNED_2D:
        return AxialPosition(grid, width, num_prefix_tokens)
    if kind is PositionKind.RELATIVE_BIAS:
        return RelativeBias(grid, num_heads, num_prefix_tokens)
    if kind is PositionKind.RELATIVE_QUERY:
        return RelativeQuery(grid, width // num_heads, num_prefix_tokens)
    if kind is PositionKind.ROTARY:
        return RotaryPosition(grid, width // num_heads, num_prefix_tokens, original_grid=original_grid)
    num_dimensions = 1 if kind is PositionKind.SINUSOIDAL_1D else 2
    return SinusoidalPosition(
        grid, width, num_prefix_tokens, original_grid=original_grid, num_dimensions=num_dimensions
    )


def patch_places(grid: int, original_grid: int) -> torch.Tensor:
    """Centres of patches along one side in steps of the original grid, ``[grid]``: 0, 1, 2, ... on that grid itself."""
    return (torch.arange(grid, dtype=torch.float64) + 0.5) * original_grid / grid - 0.5


def sinusoids(places: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of ``p / 10,000^(2i / width)``, i = 0, 1, ..., in turn: places ``[n]`` -> ``[n, width]``."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=places.device) / width
    angles = places.unsqueeze(1) * _SINUSOID_BASE**-exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _table(num_rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(trunc_normal_(torch.empty(num_rows, width), std=_TABLE_DEVIATION))


def _beside_prefix(logits: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """Logits of patches ``[..., T, T]`` among those of all tokens, zero to and from prefix tokens."""
    return F.pad(logits, (num_prefix_tokens, 0, num_prefix_tokens, 0)) if num_prefix_tokens else logits
