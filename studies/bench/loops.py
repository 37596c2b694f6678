"""The three training loops as measured: each takes optimiser steps when told to and says when it began and ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

CLIP_NORM = 1.0


@dataclass(frozen=True)
class Span:
    """A stretch of training on the machine's monotonic clock, which all processes share.

    Attributes:
        start, stop: seconds.
        images: images trained on in between.
        loss: training loss at the end; of the first lane where several runs train as one.
    """

    start: float
    stop: float
    images: int
    loss: float

    @property
    def seconds(self) -> float:
        """Wall seconds."""
        return self.stop - self.start


class TrainingLoop(Protocol):
    """A loop that continues where it stood; between two stretches it costs nothing."""

    def steps(self, count: int) -> Span:
        """Takes `count` optimiser steps."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    @property
    def options(self) -> dict[str, Any]:
        """How the loop was set up, for the table."""


@dataclass
class Stopwatch:
    """Reads the monotonic clock when the device has finished what it was given."""

    device: torch.device
    start: float = field(default=0.0, init=False)
    stop: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """Starts."""
        self.start = self._now()

    def end(self) -> None:
        """Stops."""
        self.stop = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
