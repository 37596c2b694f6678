"""timm's vision transformer with positions put in: after the stem, before every block, or in attention.

A block stays a map of tokens to tokens, so that ``network.blocks(tokens)`` is the encoder in every form. Own parameters
lie where they are used (``blocks.2.position``, ``blocks.2.attn.position``); those used in several layers or at the stem
lie once, in the network (``position``), and the layers only refer to them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import Attention  # type: ignore[attr-defined]
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn import functional as F

from models.position import build_position
from models.transformer_form import PositionSite, TransformerForm


class TellsPosition(nn.Module):
    """A layer that is told about places by a module of its own, or by one that belongs to the network."""

    def tell(self, position: nn.Module, *, shared: bool) -> None:
        """Take a position module; a shared one is kept out of this layer's parameters."""
        self.position = None if shared else position
        self.shared_position = (position,) if shared else ()  # in a tuple: it is no part of this module

    @property
    def places(self) -> nn.Module:
        """The position module."""
        own = self.shared_position[0] if self.shared_position else self.position
        assert isinstance(own, nn.Module)
        return own


class AddingBlock(TellsPosition, Block):
    """A transformer block before which positions are added to its tokens."""

    def __init__(self, *, new_position: Callable[[], nn.Module], shared: bool, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.tell(new_position(), shared=shared)

    def forward(self, x: torch.Tensor, *masks: Any, **named_masks: Any) -> torch.Tensor:  # noqa: ANN401  # timm's
        """Map tokens ``[B, N, D]`` to tokens."""
        tokens: torch.Tensor = super().forward(self.places(x), *masks, **named_masks)
        return tokens


class TellingAttention(TellsPosition, Attention):
    """timm's multi-head attention whose queries and keys know their places."""

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Map tokens ``[B, N, D]`` to tokens.

        Raises:
            ValueError: a mask is given: logits of place take its argument of the attention kernel.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("attention with relative or rotary positions takes no mask")
        batch_size, num_tokens, width = x.shape
        projected = self.qkv(x).view(batch_size, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = projected.unbind(0)
        queries, keys, logits = self.places(queries, keys)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=logits)
        mixed: torch.Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).reshape(batch_size, num_tokens, width)))
        return mixed


class TellingBlock(Block):
    """A transformer block whose attention is told about places."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        proj_drop: float,
        new_position: Callable[[], nn.Module],
        shared: bool,
        **options: Any,  # noqa: ANN401  # timm's own
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, qkv_bias=qkv_bias, proj_drop=proj_drop, **options)
        attention = TellingAttention(dim, num_heads=num_heads, qkv_bias=qkv_bias, proj_drop=proj_drop)
        attention.tell(new_position(), shared=shared)
        self.attn = attention


class PositionedTransformer(VisionTransformer):
    """timm's vision transformer with another position embedding than its own.

    Args:
        form: position kind and site.
        grid: patches along one side.
        original_grid: the same of the grid that the network was designed for.
        options: timm's, without ``pos_embed`` and ``block_fn``.
    """

    def __init__(
        self,
        form: TransformerForm,
        *,
        grid: int,
        original_grid: int,
        embed_dim: int,
        num_heads: int,
        **options: Any,  # noqa: ANN401  # timm's own
    ) -> None:
        new_position = partial(
            build_position,
            form.position,
            grid=grid,
            original_grid=original_grid,
            width=embed_dim,
            num_heads=num_heads,
            num_prefix_tokens=form.num_prefix_tokens,
        )
        common = None if form.site is PositionSite.EVERY else new_position()

        def position_of_block() -> nn.Module:
            return new_position() if common is None else common

        block: Callable[..., nn.Module] = Block
        if form.site is not PositionSite.STEM:
            block = partial(
                TellingBlock if form.position.in_attention else AddingBlock,
                new_position=position_of_block,
                shared=common is not None,
            )
        super().__init__(
            pos_embed="none",
            embed_dim=embed_dim,
            num_heads=num_heads,
            block_fn=block,  # type: ignore[arg-type]  # timm only calls it
            **options,
        )
        self.position = common
        self.position_at_stem = form.site is PositionSite.STEM

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Put the class token before the patches, add positions if they belong here, and drop out.

        timm drops nothing where it has no position embedding; here all kinds are regularised at the same place.
        """
        tokens = super()._pos_embed(x)
        if self.position is not None and self.position_at_stem:
            tokens = self.position(tokens)
        dropped: torch.Tensor = self.pos_drop(tokens)
        return dropped

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed: timm's, and every table of positions."""
        tables = {name for name, _ in self.named_parameters() if "position" in name.split(".")}
        exempt: set[str] = super().no_weight_decay() | tables
        return exempt
