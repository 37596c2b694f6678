"""The one optimiser that all families are trained with."""

from __future__ import annotations

from timm.optim import param_groups_weight_decay
from torch import nn, optim

ADAMW_BETAS = (0.9, 0.999)


def build_optimizer(network: nn.Module, learning_rate: float, weight_decay: float) -> optim.AdamW:
    """AdamW that decays matrices only (Loshchilov & Hutter 1711.05101).

    Biases, norm parameters and whatever the network lists in ``no_weight_decay()`` (position embeddings) are not
    decayed. Pass the network, not the `LightningModule` around it, whose parameter names would not match that list.
    """
    exempt = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()  # type: ignore[operator]
    groups = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=exempt)
    return optim.AdamW(groups, lr=learning_rate, betas=ADAMW_BETAS, weight_decay=weight_decay)
