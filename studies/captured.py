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
            _clear_workspaces()  # those of the capture come from the graph's own memory
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                self._graph, stream=side, capture_error_mode="thread_local"
            ):  # a thread may read images
                step()

    def replay(self) -> None:
        """Does the step once more; returns before it is done."""
        self._graph.replay()

    def close(self) -> None:
        """Gives the graph's private memory back."""
        torch.cuda.synchronize(self._device)
        self._graph.reset()
        _clear_workspaces()
        torch.cuda.empty_cache()


def _clear_workspaces() -> None:
    """Gives cuBLAS's workspaces back to the allocator.

    cuBLAS keeps a workspace for every stream, and a graph remembers its address. Lightning frees all of them when a fit
    ends: one that was made before the capture would be freed under the graph, one made during it belongs to the graph's
    private memory and stays where it is.
    """
    if hasattr(torch._C, "_cuda_clearCublasWorkspaces"):
        torch._C._cuda_clearCublasWorkspaces()
