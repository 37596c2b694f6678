"""What a vision transformer adds to its tokens, by lane: class token, registers and position embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from timm.models.vision_transformer import VisionTransformer

from models.lanes.layers import stacked_parameter
from models.position import AddedPosition, AxialPosition, LearnedPosition
from models.positioned import PositionedTransformer

OWN_TOKENS = ("cls_token", "reg_token", "pos_embed")


class StackedVisionTransformer(VisionTransformer):
    """timm's vision transformer with tokens ``[L, 1, T, D]``, added to the images of their own lane.

    Made by `stack_tokens` from a solo network; all but the adding of the tokens is timm's own code.
    """

    num_lanes: int

    def _by_image(self, token: torch.Tensor, num_images: int) -> torch.Tensor:
        """Tokens ``[L, 1, T, D]`` repeated for the images of their lanes, ``[L * B, T, D]``."""
        return token.expand(-1, num_images // self.num_lanes, -1, -1).flatten(0, 1)

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Put class and register tokens before the patches ``[L * B, T, D]`` and add the position embedding."""
        patches = x.reshape(x.shape[0], -1, x.shape[-1])
        prefix = [self._by_image(token, x.shape[0]) for token in (self.cls_token, self.reg_token) if token is not None]
        if self.no_embed_class or self.pos_embed is None:
            tokens = torch.cat([*prefix, self._with_positions(patches)], dim=1)
        else:
            tokens = self._with_positions(torch.cat([*prefix, patches], dim=1) if prefix else patches)
        placed: torch.Tensor = self.pos_drop(tokens)
        return placed

    def _with_positions(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.pos_embed is None:
            return tokens
        return (tokens.view(self.num_lanes, -1, *tokens.shape[1:]) + self.pos_embed).flatten(0, 1)


class StackedPositionedTransformer(PositionedTransformer, StackedVisionTransformer):
    """The same with positions put in: tokens by lane first, then positions."""


STACKED_TRANSFORMERS: dict[type[VisionTransformer], type[StackedVisionTransformer]] = {
    VisionTransformer: StackedVisionTransformer,
    PositionedTransformer: StackedPositionedTransformer,
}


def stack_tokens(copy: VisionTransformer, networks: Sequence[VisionTransformer]) -> None:
    """Turn ``copy`` into the stacked form, in place, with the tokens of ``networks``."""
    for name in OWN_TOKENS:
        if getattr(networks[0], name) is not None:
            copy.register_parameter(name, stacked_parameter([getattr(network, name) for network in networks]))
    copy.__class__ = STACKED_TRANSFORMERS[type(networks[0])]
    copy.num_lanes = len(networks)  # type: ignore[assignment]


class _AddedByLane(AddedPosition):
    """A table ``[L, T, D]``, added to tokens ``[L * B, P + T, D]`` of its own lane."""

    num_lanes: int

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        lanes = tokens.view(self.num_lanes, -1, *tokens.shape[1:])
        return (lanes + self.token_table().unsqueeze(1)).flatten(0, 1)


class StackedLearnedPosition(_AddedByLane, LearnedPosition):
    """`LearnedPosition` of every lane."""


class StackedAxialPosition(_AddedByLane, AxialPosition):
    """`AxialPosition` of every lane."""


_STACKED_POSITIONS: dict[type[AddedPosition], type[_AddedByLane]] = {
    LearnedPosition: StackedLearnedPosition,
    AxialPosition: StackedAxialPosition,
}


def stack_positions(layers: Sequence[AddedPosition]) -> AddedPosition:
    """Learnt positions of ``L`` solo networks as one module, under their own names with one more axis in front."""
    stacked = deepcopy(layers[0])
    for name, _ in layers[0].named_parameters():
        stacked.register_parameter(name, stacked_parameter([layer.get_parameter(name) for layer in layers]))
    stacked.__class__ = _STACKED_POSITIONS[type(layers[0])]
    stacked.num_lanes = len(layers)  # type: ignore[assignment]
    return stacked
