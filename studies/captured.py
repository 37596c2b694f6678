"""A device step captured in one CUDA graph, so that replaying it costs the host one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries choose kernels and make their workspaces; their effects are undone."""


class CapturedStep:
    """A function of tensors, captured once and replayed many times.

    The graph holds the addresses of everything the step reads and writes: whoever changes weights, optimiser state or
    tables afterwards must copy into the same tensors.

    Args:
        step: what is captured. It may not ask the host for a value, and must find its tensors where they are.
        warm_up: a step to warm up with, whose effects are undone.
        undo: called once after the warm-up; must put back all that `warm_up` has changed, in place.
        device: a CUDA device.
    """

    def __init__(
        self, step: Callable[[], None], warm_up: Callable[[], None], undo: Callable[[], None], device: torch.device
    ) -> None:
        self._device = device
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_STEPS):
                    warm_up()
            current.wait_stream(side)
            undo()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=side):
                step()

    def replay(self) -> None:
        """Does the step once more; returns before it is done."""
        self._graph.replay()

    def close(self) -> None:
        """Gives the graph's private memory back."""
        torch.cuda.synchronize(self._device)
        self._graph.reset()
        torch.cuda.empty_cache()
