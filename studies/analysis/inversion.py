"""A set of x at which two curves cannot be told apart: the interval of their crossover, by inversion of a test."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .curve import Interpolation, Pair
from .jackknife import t_quantile
from .paired import difference
from .quantity import quantity
from .roots import fine_grid, linear_zero, mean_roots


@dataclass(frozen=True)
class Stretch:
    """A connected part of a confidence set; an open end goes on beyond the measured range."""

    low: float
    high: float
    open_below: bool
    open_above: bool


def confidence_set(pair: Pair, confidence: float, interpolation: Interpolation) -> tuple[Stretch, ...] | None:
    """{x : |d(x)| <= t se(x)}: the sizes at which a test of d = 0 at level 1 - confidence does not reject."""
    roots = [math.log(root.x) for root in mean_roots(pair, interpolation)]
    grid = np.union1d(fine_grid(pair), roots)
    here = difference(pair, grid, interpolation)
    if np.isnan(here.standard_error).any() or here.degrees <= 0:
        return None
    excess = np.abs(here.value) - t_quantile(0.5 + confidence / 2, here.degrees) * here.standard_error
    excess[np.isin(grid, roots)] = np.minimum(excess[np.isin(grid, roots)], 0.0)
    inside, stretches = excess <= 0, []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    for start, after in edges.reshape(-1, 2).tolist():
        stop = after - 1
        low = grid[start] if start == 0 else linear_zero(grid, excess, start - 1)
        high = grid[stop] if stop == len(grid) - 1 else linear_zero(grid, excess, stop)
        stretches.append(Stretch(math.exp(low), math.exp(high), start == 0, stop == len(grid) - 1))
    return tuple(stretches)


def without_unmeasured_gaps(stretches: tuple[Stretch, ...], measured: Collection[float]) -> tuple[Stretch, ...]:
    """The set as it may be told: gaps in which nothing was measured are filled.

    Between two neighbouring measured sizes at which two curves cannot be told apart, interpolation alone may tell them
    apart, which is no evidence.
    """
    told: list[Stretch] = []
    for part in stretches:
        if told and not any(told[-1].high <= x <= part.low for x in measured):
            last = told.pop()
            part = Stretch(last.low, part.high, last.open_below, part.open_above)
        told.append(part)
    return tuple(told)


def neighbours_around(stretch: Stretch, measured: Collection[float]) -> tuple[float, float] | None:
    """The measured places below and above a stretch that holds none; None where it holds one or is open."""
    below, above = [x for x in measured if x < stretch.low], [x for x in measured if x > stretch.high]
    if stretch.open_below or stretch.open_above or len(below) + len(above) < len(measured) or not (below and above):
        return None
    return max(below), min(above)


def stretches_text(stretches: tuple[Stretch, ...], column: str) -> str:
    """A confidence set in words: `up to 120, open below 64, and 2,410 to 3,370`."""
    of, parts = quantity(column), []
    for part in stretches:
        low, high = of.number(part.low), of.number(part.high)
        if part.open_below and part.open_above:
            parts.append(f"the whole range from {low} to {high}, open at both ends")
        elif part.open_below:
            parts.append(f"up to {high}, open below {low}")
        elif part.open_above:
            parts.append(f"from {low} on, open above {high}")
        else:
            parts.append(f"{low} to {high}")
    return ", and ".join(parts) or "none"


def places_text(stretches: tuple[Stretch, ...], column: str) -> str:
    """The same inside a sentence: `up to 120 and between 2,410 and 3,370`."""
    of, parts = quantity(column), []
    for part in stretches:
        low, high = of.number(part.low), of.number(part.high)
        if low == high:
            parts.append(f"= {low}")
        elif part.open_below and part.open_above:
            parts.append(f"anywhere from {low} to {high}")
        elif part.open_below:
            parts.append(f"up to {high}")
        elif part.open_above:
            parts.append(f"from {low} on")
        else:
            parts.append(f"between {low} and {high}")
    return " and ".join(parts)
