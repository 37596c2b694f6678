"""Networks inside a module that only holds them, such as a LightningModule."""

from __future__ import annotations

from torch import nn

_DECLARED = ("patch_embed", "pos_embed", "num_prefix_tokens")


def declaring(network: nn.Module) -> tuple[str, nn.Module]:
    """The module that tells how a network cuts images into tokens, as timm's networks do.

    Args:
        network: any; where it has none of `patch_embed`, `pos_embed` and `num_prefix_tokens` itself, the modules in it
            are asked, those that hold others first.

    Returns:
        The first module that has one of them, with its dotted name (empty for the network itself); the network where
        none has, or where several equally deep have, of which it cannot be told which is meant.
    """
    level = [("", network)]
    while level:
        found = [one for one in level if any(hasattr(one[1], name) for name in _DECLARED)]
        if found:
            return found[0] if len(found) == 1 else ("", network)
        level = [
            (f"{name}.{child}" if name else child, module)
            for name, holder in level
            for child, module in holder.named_children()
        ]
    return "", network
