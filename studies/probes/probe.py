"""What a probe says about a network: readings, the arrays that a figure draws, and why one cannot be applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from studies.errors import StudyError


class ProbeError(StudyError):
    """This probe cannot be applied to this network, with the reason for a person (an MLP has no attention)."""


@dataclass(frozen=True)
class Reading:
    """One number a probe read off a network.

    Attributes:
        quantity: What was measured, such as "roll_consistency" or "attention_distance".
        value: The number.
        unit: Its unit: "fraction", "px", "relative", "nat" and so on.
        layer: Name of the module it was read at; "" for the whole network.
        depth: Place of that layer among the layers that this probe read, from 0; None for the whole network.
        head: Attention head, from 0.
        setting: What was varied: the shift in pixels, the patches along a side, as the quantity's docstring says.
        num_images: Images it was read from; 0 where the weights alone were looked at.
    """

    quantity: str
    value: float
    unit: str
    layer: str = ""
    depth: int | None = None
    head: int | None = None
    setting: float | None = None
    num_images: int = 0


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        readings: Its numbers.
        arrays: By name, what a figure draws (small, float32), each with the shape that the probe's docstring gives.
    """

    readings: tuple[Reading, ...]
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
