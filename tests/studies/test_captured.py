"""The capture of a step: what is done on which stream, and in which order, seen without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from studies import captured
from studies.captured import CapturedStep

DEVICE = torch.device("cuda", 0)
Gpu = tuple[list[str], Callable[[str], None]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """What a GPU that is not there is asked for, in order; and a note of work, with the stream it is put on."""
    log: list[str] = []
    active = ["current"]

    class Stream:
        def __init__(self, device: torch.device, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            log.append("replay")

        def reset(self) -> None:
            log.append("reset")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        active.append(stream.name)
        yield
        active.pop()

    @contextlib.contextmanager
    def capture(graph: Graph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        active.append(f"graph on {stream.name}")
        yield
        active.pop()

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device, "current"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("empty cache"))
    monkeypatch.setattr(captured, "_clear_workspaces", lambda: log.append("clear workspaces"))
    return log, lambda what: log.append(f"{what} ({active[-1]})")


def made(note: Callable[[str], None]) -> CapturedStep:
    return CapturedStep(lambda: note("step"), lambda: note("warm-up"), lambda: note("undo"), DEVICE)


def test_the_warm_up_is_undone_before_the_capture_and_nothing_overtakes(gpu: Gpu) -> None:
    order, note = gpu
    made(note)
    assert order == [
        "side waits for current",
        *["warm-up (side)"] * captured.WARM_UP_STEPS,
        "current waits for side",
        "undo (current)",
        "clear workspaces",  # what cuBLAS made in the warm-up would be freed under the graph
        "step (graph on side)",
    ]


def test_the_graph_is_freed_when_nothing_of_it_runs_any_more(gpu: Gpu) -> None:
    order, note = gpu
    step = made(note)
    order.clear()
    step.replay()
    step.close()
    assert order == ["replay", "synchronize", "reset", "clear workspaces", "empty cache"]
