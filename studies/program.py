"""What takes optimiser steps: one run by itself, or several of one architecture in lockstep.

A program knows weights, optimiser and batches. How far a cell is, what it has found and whether it still trains is the
business of its `CellCourse`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from models import ImageClassifier

from .cell import Cell
from .objective import objective_of

CLIP_NORM = 1.0  # PROTOCOL 4

Snapshot = dict[str, Any]
"""Weights and optimiser of one lane: `network`, a state dict; `optimizer`, the state dict of `build_optimizer`'s."""


@dataclass(frozen=True)
class Chunk:
    """What some optimiser steps did.

    Attributes:
        losses: float32 [L, steps].
        examples: images each lane was trained on, counted from the batches.
    """

    losses: Tensor
    examples: tuple[int, ...]


OnChunk = Callable[[int, Chunk], None]
"""Called after every chunk with the step it ended before; may save, and may end the fit by raising."""


class Program(Protocol):
    """Takes the steps of one or several cells.

    Attributes:
        num_lanes: cells trained at once (L).
        schedule_steps: (total, cooldown) steps of the present segment; cooldown 0 on the trunk.
    """

    num_lanes: int
    schedule_steps: tuple[int, int]

    def module(self, on_chunk: OnChunk) -> pl.LightningModule:
        """What a Trainer fits: its `training_step` takes the steps `batch[0] .. batch[1] - 1`."""

    def snapshot(self, lane: int) -> Snapshot:
        """A copy of a lane's weights and optimiser, in the form of a solo run."""

    def restore(self, lane: int, snapshot: Snapshot) -> None:
        """Takes a lane back to a snapshot, in place."""

    def network_of(self, lane: int) -> nn.Module:
        """A solo network with the present weights of a lane, on the device, valid until the next call."""

    def close(self) -> None:
        """Frees what only training needs."""


def classifier_arguments(cell: Cell) -> dict[str, Any]:
    """The keyword arguments of `ImageClassifier` for a cell."""
    return cell.network_arguments | {
        "learning_rate": cell.learning_rate,
        "weight_decay": cell.weight_decay,
        "warmup_fraction": cell.warmup_fraction,
        "cooldown_fraction": cell.cooldown_fraction,
        "label_smoothing": cell.label_smoothing,
        "initialization_seed": cell.seeds.initialization,
    }


def initial_network(cell: Cell) -> nn.Module:
    """The network of a cell with its initial weights, on the CPU."""
    return objective_of(cell).adapted(ImageClassifier(**classifier_arguments(cell)).network)


def autocast(
    precision: str, device: torch.device, *, cache_enabled: bool = True
) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where asked for, else nothing.

    Args:
        cache_enabled: keep the cast weights within the context. A CUDA graph must not: it would keep them for ever.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=cache_enabled)
    return contextlib.nullcontext()


def cloned(value: Any) -> Any:  # noqa: ANN401  # any nesting of dictionaries and lists
    """A copy that shares no memory; of a view its own elements only, unlike `copy.deepcopy`, which copies the whole."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cloned(item) for item in value)
    return value
