"""Bytes moved by a training step, counted as the step runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import build_optimizer

from .loops import CLIP_NORM
from .machine import total_bytes
from .workload import Workload


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of every tensor that an operation reads or writes.

    Each kernel is taken to read its inputs from memory and to write its outputs there once: what eager execution does
    when nothing stays in a cache. So it is an upper bound of the traffic, and the arithmetic intensity that follows
    from it is a lower bound. Views and shape changes move nothing; a tensor changed in place is read and written.

    Attributes:
        num_bytes: so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  # an OpOverload
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Runs the operation and counts it."""
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view and func not in _ALLOCATIONS:
            read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
            written = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
            self.num_bytes += sum(map(total_bytes, read)) + sum(map(total_bytes, written))
            self.num_bytes += _rewritten(func, args, kwargs or {}) if not written else 0
        return outputs


_ALLOCATIONS = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
        torch.ops.aten._unsafe_view.default,
        torch.ops.aten._reshape_alias.default,
    }
)


def _rewritten(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:  # noqa: ANN401
    """Bytes written in place by an operation that returns nothing, as the multi-tensor ones of optimisers do."""
    written = 0
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[place] if place < len(args) else None)
            written += sum(total_bytes(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    return written


def bytes_per_step(workload: Workload) -> int:
    """Bytes of one training step in fp32 on the CPU: forward, backward, clipping and AdamW; data excluded.

    Counted on the second step, when the optimiser has its state.
    """
    network = workload.classifier().network
    optimizer = build_optimizer(network, workload.learning_rate, workload.weight_decay)
    images, labels = workload.batches("cpu").batch_at(0)
    parameters = list(network.parameters())
    counter = ByteCounter()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    step()
    with counter:
        step()
    return counter.num_bytes
