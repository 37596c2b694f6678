"""The one optimiser that all families are trained with."""

from __future__ import annotations

from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn, optim

ADAMW_BETAS = (0.9, 0.999)


def build_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float, *, fused: bool | None = None
) -> optim.AdamW:
    """AdamW that decays matrices only (Loshchilov & Hutter 1711.05101).

    Biases, norm parameters and whatever the network lists in ``no_weight_decay()`` (position embeddings) are not
    decayed. Pass the network, not the `LightningModule` around it, whose parameter names would not match that list.

    Args:
        network: what to train.
        learning_rate: the peak of the schedule.
        weight_decay: on matrices and convolution kernels.
        fused: PyTorch's single-kernel implementation. Faster, but Lightning refuses to clip gradients with it under
            mixed precision, so it is for loops that clip by themselves. None leaves the choice to PyTorch.
    """
    exempt = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()  # type: ignore[operator]
    groups = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=exempt)
    return optim.AdamW(groups, lr=learning_rate, betas=ADAMW_BETAS, weight_decay=weight_decay, fused=fused)
