"""An LSTM for many lanes: every step of the scan is one batched product for all lanes and both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.lanes.layers import StackedLayer, lane_linear


class StackedLSTM(StackedLayer):
    """``nn.LSTM`` (batch first, no projection) of every lane (Hochreiter & Schmidhuber 1997, in PyTorch's gate order).

    The products with the inputs are made for all time steps at once; the recurrence ``h W_hh`` goes step by step, the
    reversed direction side by side with the forward one.
    """

    def __init__(self, layers: Sequence[nn.LSTM]) -> None:
        super().__init__(layers)
        self.hidden_size = layers[0].hidden_size
        self.num_layers = layers[0].num_layers
        self.bias = layers[0].bias
        self.suffixes = ("", "_reverse") if layers[0].bidirectional else ("",)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Scan sequences from zero states.

        Args:
            inputs: ``[L * B, T, in]``.

        Returns:
            What ``nn.LSTM`` gives: the states of the last layer ``[L * B, T, D * hidden]`` for ``D`` directions, and
            every layer's last hidden and cell states, each ``[num_layers * D, L * B, hidden]``.
        """
        hidden_states, cell_states = [], []
        for layer in range(self.num_layers):
            inputs, hidden, cell = self._scan(inputs, layer)
            hidden_states.append(hidden)
            cell_states.append(cell)
        return inputs, (torch.cat(hidden_states), torch.cat(cell_states))

    def _weights(self, name: str, layer: int) -> torch.Tensor:
        """A weight of all directions, ``[D * L, ...]``."""
        return torch.cat([getattr(self, f"{name}_l{layer}{suffix}") for suffix in self.suffixes])

    def _scan(self, inputs: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One layer: states ``[L * B, T, D * hidden]``, last hidden and cell states ``[D, L * B, hidden]``."""
        num_directions, (num_rows, length, size) = len(self.suffixes), inputs.shape
        groups = num_directions * self.num_lanes
        sequences = inputs.transpose(0, 1)  # [T, L * B, in]: time outermost, so that a step is one block of memory
        directed = torch.stack([sequences, sequences.flip(0)][:num_directions])  # [D, T, L * B, in]
        rows = directed.view(num_directions, length, self.num_lanes, -1, size).transpose(1, 2)
        bias = self._weights("bias_ih", layer) + self._weights("bias_hh", layer) if self.bias else None
        projected = lane_linear(rows.reshape(groups, -1, size), self._weights("weight_ih", layer), bias)
        # Cast once, where autocast would do it in every step.
        recurrent = self._weights("weight_hh", layer).to(projected.dtype).transpose(1, 2)
        steps = projected.view(groups, length, -1, 4 * self.hidden_size).unbind(1)

        hidden = cell = steps[0]  # before the first step there is neither
        outputs = []
        for time, gates in enumerate(steps):
            if time:  # the first step starts from zero states
                gates = torch.baddbmm(gates, hidden, recurrent)
            in_gate, forget_gate, candidate, out_gate = gates.chunk(4, dim=2)
            fresh = torch.sigmoid(in_gate) * torch.tanh(candidate)
            cell = torch.sigmoid(forget_gate) * cell + fresh if time else fresh
            hidden = torch.sigmoid(out_gate) * torch.tanh(cell)
            outputs.append(hidden)

        def by_direction(states: torch.Tensor) -> torch.Tensor:
            return states.reshape(num_directions, num_rows, self.hidden_size)

        scanned = torch.stack([by_direction(output) for output in outputs], dim=2)  # [D, L * B, T, hidden]
        directions = [scanned[0], *(one.flip(1) for one in scanned[1:])]
        return torch.cat(directions, dim=2), by_direction(hidden), by_direction(cell)
