"""An LSTM that reads a grid of patches as one sequence, and the orders in which it can."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn


@cache
def scan_order(order: str, height: int, width: int) -> tuple[int, ...]:
    """Which patch is read when: numbers of the patches of a grid, counted row by row.

    Args:
        order: ``raster`` reads row by row; ``column`` column by column; ``snake`` row by row, every second row
            backwards, so that patches that follow each other always touch; ``shuffled`` in one random order, the same
            for every network and run, drawn anew for every grid size.
        height: rows of the grid.
        width: columns of the grid.

    Raises:
        ValueError: there is no such order.
    """
    rows = [list(range(row * width, (row + 1) * width)) for row in range(height)]
    if order == "raster":
        reading = rows
    elif order == "column":
        reading = [[row[column] for row in rows] for column in range(width)]
    elif order == "snake":
        reading = [row[::-1] if index % 2 else row for index, row in enumerate(rows)]
    elif order == "shuffled":  # by a hash and not by a generator, whose stream may change with the library's version
        reading = [sorted(range(height * width), key=lambda patch: hashlib.sha256(f"patch {patch}".encode()).digest())]
    else:
        raise ValueError(f"there is no scan order {order!r}; expected raster, column, snake or shuffled")
    return tuple(patch for part in reading for patch in part)


class ScanLSTM(nn.Module):
    """One LSTM over all patches in a fixed order, with a linear map back to the token size.

    Takes the place of timm's ``LSTM2d`` in a Sequencer block.

    Args:
        input_size: token size ``D``.
        hidden_size: LSTM state size.
        num_layers: stacked LSTM layers.
        order: of `scan_order`.
        block_options: options of the 2-D form (``bidirectional``, ``union``, ``with_fc``), which mean nothing here.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        order: str = "raster",
        **block_options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        del block_options
        self.order = order
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.merge = nn.Linear(hidden_size, input_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Scan patches ``[B, H, W, D]`` -> ``[B, H, W, D]``; a patch sees itself and those read before it."""
        reading = scan_order(self.order, *patches.shape[1:3])
        states, _ = self.lstm(_reordered(patches.flatten(1, 2), reading))
        merged: torch.Tensor = self.merge(states)
        return _reordered(merged, sorted(range(len(reading)), key=reading.__getitem__)).view_as(patches)


def _reordered(tokens: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Tokens ``[B, T, D]`` in another order; without a tensor of indices, which would have to be on their device."""
    if list(order) == sorted(order):
        return tokens
    parts = tokens.unbind(1)
    return torch.stack([parts[index] for index in order], dim=1)
