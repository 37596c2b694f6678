"""Lanes side by side on CUDA streams: who has waited for whom, seen without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models.lanes import build_lanes
from models.lanes.branches import LaneStreams

CUDA_IMAGES: Any = SimpleNamespace(device=torch.device("cuda", 0))


class FakeStream:
    """A stream that knows which results are ready for what is put on it next."""

    made: list[FakeStream]
    active: FakeStream

    def __init__(self, device: torch.device) -> None:
        self.ready: set[str] = set()
        FakeStream.made.append(self)

    def record_event(self) -> frozenset[str]:
        return frozenset(self.ready)

    def wait_event(self, event: frozenset[str]) -> None:
        self.ready |= event


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    """The current stream of a GPU that is not there, with the images of a batch under way on it."""

    @contextlib.contextmanager
    def switched(stream: FakeStream) -> Iterator[None]:
        before, FakeStream.active = FakeStream.active, stream
        yield
        FakeStream.active = before

    FakeStream.made = []
    FakeStream.active = stream = FakeStream(torch.device("cuda", 0))
    stream.ready.add("images")
    FakeStream.made.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream


def test_lanes_wait_for_their_images_and_the_rest_waits_for_all_lanes(current: FakeStream) -> None:
    streams = LaneStreams(3)
    for step in range(2):
        with streams.fork(CUDA_IMAGES) as on_stream:
            for lane in range(3):
                with on_stream(lane):
                    ready = FakeStream.active.ready
                    assert {"images", *(f"logits {step - 1}.{one}" for one in range(3) if step)} <= ready
                    assert not any(f"logits {step}.{other}" in ready for other in range(3)), "they run side by side"
                    ready.add(f"logits {step}.{lane}")
            assert FakeStream.active is current
        assert {f"logits {step}.{lane}" for lane in range(3)} <= current.ready
    assert len(FakeStream.made) == 3, "one for each lane, the same in every step"


def test_a_lane_that_fails_leaves_no_other_on_its_own(current: FakeStream) -> None:
    def failing() -> None:
        with LaneStreams(2).fork(CUDA_IMAGES) as on_stream:
            with on_stream(0):
                FakeStream.active.ready.add("logits")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        failing()
    assert "logits" in current.ready


def test_logits_are_put_together_after_the_lanes_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = build_lanes([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)], "branches")
    stack, order = torch.stack, []

    @contextlib.contextmanager
    def fork(self: LaneStreams, images: torch.Tensor) -> Iterator[Any]:
        yield lambda lane: contextlib.nullcontext(order.append(f"lane {lane}"))
        order.append("joined")

    monkeypatch.setattr(LaneStreams, "fork", fork)
    monkeypatch.setattr(torch, "stack", lambda *rest: (order.append("stacked"), stack(*rest))[1])
    assert lanes(torch.zeros(2, 3, 1, 2, 2)).shape == (2, 3, 2)
    assert order == ["lane 0", "lane 1", "joined", "stacked"]
