"""Numbers from raw seconds: rates, medians with their range, and ratios formed within a repeat."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """The median of repeats and their range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))


@dataclass(frozen=True)
class Timing:
    """The repeats of one contender in one mode.

    Attributes:
        contender: `study`, `lightning` or `timm`.
        mode: `machine`: as it uses the whole machine; `thread`: one process with one thread.
        images: trained on in each repeat.
        seconds: of each repeat, in the order in which they were taken.
        startup_seconds: from the launch of a fresh process to the end of its first step.
        memory_bytes: most resident memory of all its processes together.
        gpu_bytes: most memory allocated on the GPU.
        losses: training loss after the first step and at the end.
        num_parameters: of the network.
        options: how the loop was set up; processes, threads and flags.
    """

    contender: str
    mode: str
    images: int
    seconds: tuple[float, ...]
    startup_seconds: float
    memory_bytes: int
    gpu_bytes: int
    losses: tuple[float, float]
    num_parameters: int
    options: Mapping[str, Any]

    @property
    def rates(self) -> tuple[float, ...]:
        """Images per second of each repeat."""
        return tuple(self.images / seconds for seconds in self.seconds)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Timing:
        """Reads back what JSON made of `dataclasses.asdict`."""
        return cls(**(dict(content) | {name: tuple(content[name]) for name in ("seconds", "losses")}))


def ratios(of: Timing, to: Timing) -> tuple[float, ...]:
    """How many times faster `of` is than `to`, one number per repeat.

    Both were measured moments apart within a repeat, so what else the machine did cancels as far as it can; the median
    of these ratios is reported, never the ratio of two medians.

    Raises:
        ValueError: they were not repeated equally often.
    """
    if len(of.seconds) != len(to.seconds):
        raise ValueError(f"{len(of.seconds)} repeats of {of.contender} against {len(to.seconds)} of {to.contender}")
    return tuple(ours / theirs for ours, theirs in zip(of.rates, to.rates, strict=True))


def flops_per_second(timing: Timing, train_flops_exact: int) -> Spread:
    """Achieved FLOP/s: exact training FLOPs per image (3 f - f_first, PROTOCOL 2) x images per second."""
    return Spread.of(train_flops_exact * rate for rate in timing.rates)


def utilisation(timing: Timing, train_flops_exact: int, peak_flops: float) -> float:
    """Model FLOPs utilisation: achieved FLOP/s over the measured matmul peak."""
    return flops_per_second(timing, train_flops_exact).median / peak_flops


def steps_for(seconds: float, steps_per_second: float) -> int:
    """Steps that take about `seconds`; at least one."""
    return max(1, round(seconds * steps_per_second))


def find(timings: Sequence[Timing], contender: str, mode: str) -> Timing | None:
    """The timing of a contender in a mode."""
    return next((one for one in timings if (one.contender, one.mode) == (contender, mode)), None)
