"""The rungs of the ladder of permutations, and how factors of errors at them are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from .curve import Curve
from .quantity import Quantity
from .table import CurveTable

REFERENCE = "none"
"""The rung that the others are compared with."""

SCOPES: Mapping[str, str] = {
    "within_patch": "pixels permuted within patches",
    "patches": "patches permuted",
    "pixels": "all pixels permuted",
}
"""What a rung does to images, in words that follow `with`."""


def curve_of(arm: str, table: CurveTable, column: str) -> Curve:
    """The curve of an arm; one without points where nothing was measured."""
    nothing = Curve(arm, column, np.empty(0), np.empty((0, 0)), ())
    return table.curves.get(arm, nothing)


def on_images(rung: str) -> str:
    """`on images as they are`, `with patches permuted`."""
    return "on images as they are" if rung == REFERENCE else f"with {SCOPES[rung]}"


def values_text(of: Quantity, several: Iterable[float]) -> str:
    """`128, 512 images`."""
    return f"{', '.join(of.number(x) for x in several)} {of.unit}"


def factor_text(change: float, low: float, high: float) -> str:
    """A change of log errors as the factor of errors, with its interval where there is one: `3.12 (2.20 to 4.43)`."""
    text = f"{np.exp(change):.2f}"
    return text if math.isnan(low) else f"{text} ({_bound(low)} to {_bound(high)})"


def _bound(end: float) -> str:
    """An end of an interval of a factor; with few replicates it can be far away."""
    if end > math.log(1000):
        return "more than 1,000"
    return f"{np.exp(end):.2f}" if end > math.log(0.005) else "less than 0.01"
