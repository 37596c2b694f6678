"""An LSTM that reads a grid of patches row by row, as one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class RasterLSTM(nn.Module):
    """One LSTM in raster order with a linear map back to the token size.

    Takes the place of timm's ``LSTM2d`` in a Sequencer block.

    Args:
        input_size: token size ``D``.
        hidden_size: LSTM state size.
        num_layers: stacked LSTM layers.
        block_options: options of the 2-D form (``bidirectional``, ``union``, ``with_fc``), which mean nothing here.
    """

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int = 1, **block_options: Any) -> None:  # noqa: ANN401
        super().__init__()
        del block_options
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.merge = nn.Linear(hidden_size, input_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Scan patches ``[B, H, W, D]`` -> ``[B, H, W, D]``; a patch sees itself and those before it."""
        states, _ = self.lstm(patches.flatten(1, 2))
        merged: torch.Tensor = self.merge(states)
        return merged.view_as(patches)
