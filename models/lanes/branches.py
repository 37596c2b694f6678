"""CUDA streams for networks that run side by side, in a form that one CUDA graph can capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

OnStream = Callable[[int], AbstractContextManager[object]]


class LaneStreams:
    """One CUDA stream for every lane, forked from the current stream and joined to it again.

    A lane's stream first waits for an event on the current stream, and the current stream waits for every lane before
    anything more is put on it. Under capture these events are what draws the lanes into the graph and out again.
    Autograd runs every backward step on the stream of its forward step, and lets the stream that called ``backward``
    wait for the gradients of all, so that backward is forked and joined the same way.

    No ``record_stream`` is needed: images made on the current stream are freed, and logits made on a lane's stream are
    read, only on streams that have waited for one another, in eager runs as under capture, where blocks with recorded
    streams would never be used again. The streams are the same in every step, because what accumulates a gradient stays
    on the stream that it was first made on.

    Args:
        num_lanes: how many. PyTorch has 32 streams to give; with more lanes, some share one and run in turn.
    """

    def __init__(self, num_lanes: int) -> None:
        self._num_lanes = num_lanes
        self._streams: dict[torch.device, list[torch.cuda.Stream]] = {}

    @contextmanager
    def fork(self, images: torch.Tensor) -> Iterator[OnStream]:
        """Give a context for every lane in which its work is put on its stream; join them all at the end.

        On a CPU, and for fake CUDA tensors where no device is, the contexts do nothing: lanes run in turn.
        """
        if images.device.type != "cuda" or not torch.cuda.is_available():
            yield _in_turn
            return
        current = torch.cuda.current_stream(images.device)
        streams = self._on_device(images.device)
        forked = current.record_event()
        for stream in streams:
            stream.wait_event(forked)
        try:
            yield lambda lane: torch.cuda.stream(streams[lane])
        finally:
            for stream in streams:
                current.wait_event(stream.record_event())

    def _on_device(self, device: torch.device) -> list[torch.cuda.Stream]:
        if device not in self._streams:
            self._streams[device] = [torch.cuda.Stream(device) for _ in range(self._num_lanes)]  # type: ignore[no-untyped-call]
        return self._streams[device]

    def __deepcopy__(self, memo: dict[int, object]) -> LaneStreams:
        """A copy of the lanes gets streams of its own."""
        return LaneStreams(self._num_lanes)

    def __reduce__(self) -> tuple[type[LaneStreams], tuple[int]]:
        """Streams are not saved."""
        return LaneStreams, (self._num_lanes,)


def _in_turn(lane: int) -> AbstractContextManager[object]:
    del lane
    return nullcontext()
