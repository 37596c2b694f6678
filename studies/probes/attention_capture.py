"""The attention of any network, seen where it is computed.

Fused or not, with biases, rotations, masks or none: in the end a layer gives logits to a softmax. Here the two calls by
which torch code does that are watched, `scaled_dot_product_attention` and `softmax`, and what they are given is noted
under the name of the innermost module that runs. No module is changed and none needs to be known, so that timm's
attention, this package's and anyone's are read alike, and what is read is what the network used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .presenting import evaluation_mode

Seen = Callable[[str, torch.Tensor], None]
_SOFTMAXES: tuple[object, ...] = (F.softmax, torch.softmax, torch.Tensor.softmax)


def attention_logits(network: nn.Module, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """What the softmax of every attention layer is given, up to a constant for each query.

    Args:
        network: any; put in evaluation mode meanwhile.
        images: float `[B, C, H, W]`.

    Returns:
        Name of the layer -> logits `[B', heads, queries, keys]`, scaled, with biases and masks, in the order in which
        they were computed. `B'` is B unless the layer attends within windows. Empty without attention.
    """
    found: dict[str, torch.Tensor] = {}
    with evaluation_mode(network), torch.no_grad(), watching_attention(network, found.__setitem__):
        network(images)
    return found


@contextmanager
def watching_attention(network: nn.Module, seen: Seen) -> Iterator[None]:
    """Tell `seen(layer, logits)` of every attention that the network computes meanwhile.

    A layer that attends again in the same forward pass is told as `<layer>#2` and so on. The network's inner hooks are
    removed at the end, also after an error.
    """
    inside: list[str] = []
    counts: dict[str, int] = {}

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object) -> None:
            del module, inputs
            if not name:  # a new forward pass
                inside.clear()
                counts.clear()
            inside.append(name)

        return hook

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs, output
        inside.pop()

    def told(logits: torch.Tensor) -> None:
        layer = inside[-1] if inside else ""
        counts[layer] = counts.get(layer, 0) + 1
        seen(layer if counts[layer] == 1 else f"{layer}#{counts[layer]}", logits)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            # The outermost to enter and the innermost to leave, so that other hooks run inside the module they are of.
            stack.callback(module.register_forward_pre_hook(enter(name), prepend=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(_AttentionWatch(told))
        yield


class _AttentionWatch(TorchFunctionMode):
    """Sees what torch's attention kernel and its softmax are given."""

    def __init__(self, told: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401  # whatever torch is called with
        del types
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._tell(_kernel_logits(*args, **named))
        elif func in _SOFTMAXES:
            if (logits := _softmax_logits(*args, **named)) is not None:
                self._tell(logits)
        elif func is F.multi_head_attention_forward:
            return self._with_weights(func, args, named)
        return func(*args, **named)

    def _tell(self, logits: torch.Tensor) -> None:
        """`[B, queries, keys]` is one head."""
        self._told(logits.unsqueeze(1) if logits.ndim == 3 else logits)

    def _with_weights(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401  # torch's
        """`nn.MultiheadAttention` asked for its weights; their logarithms are logits up to a constant."""
        wanted = named.pop("need_weights"), named.pop("average_attn_weights")  # torch passes both on, whoever calls
        output, weights = func(*args, **named, need_weights=True, average_attn_weights=False)
        self._told(weights.log())
        need_weights, average = wanted
        return output, (weights.mean(dim=1) if average else weights) if need_weights else None


def _kernel_logits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `F.scaled_dot_product_attention` gives to its softmax, by its documentation."""
    del value, dropout_p
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        return logits.masked_fill(later, float("-inf"))
    if attn_mask is None:
        return logits
    return logits.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else logits + attn_mask


def _softmax_logits(
    input: torch.Tensor, dim: int | None = None, *others: object, **named: object
) -> torch.Tensor | None:
    """What a softmax is given if it can be one of attention: over the last axis of `[B, heads, queries, keys]`.

    Or of `[B, queries, keys]`, with as many keys as queries, more than one: else it may be over anything.
    """
    del others, named  # precision
    if input.ndim == 3 and not 1 < input.shape[-1] == input.shape[-2]:
        return None
    return input if input.ndim in (3, 4) and dim in (-1, input.ndim - 1) else None
