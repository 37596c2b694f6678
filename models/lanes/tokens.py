"""The tokens that a vision transformer owns itself: position embedding, class token and registers, by lane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer

from models.lanes.layers import stacked_parameter

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


def stack_tokens(copy: VisionTransformer, networks: Sequence[VisionTransformer]) -> None:
    """Turn ``copy`` into the stacked form, in place, with the tokens of ``networks``."""
    for name in OWN_TOKENS:
        if getattr(networks[0], name) is not None:
            copy.register_parameter(name, stacked_parameter([getattr(network, name) for network in networks]))
    copy.__class__ = StackedVisionTransformer
    copy.num_lanes = len(networks)  # type: ignore[assignment]
