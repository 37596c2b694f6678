"""Places where two curves meet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from .curve import Array, Interpolation, Pair, interpolant, interpolate
from .jackknife import Estimate, spread

GRID = 64  # places per gap between two measured x at which d(x) and its standard error are evaluated


@dataclass(frozen=True)
class Root:
    """A place where d(x) changes sign.

    Attributes:
        x: where.
        error: the error both families have there.
        better_below: the family with the lower error at smaller x.
        better_above: and at larger x.
    """

    x: float
    error: float
    better_below: str
    better_above: str


def sign_changes(function: Callable[[Array], Array], grid: Array) -> list[float]:
    """Places between `grid[0]` and `grid[-1]` where a continuous function of places [m] changes sign.

    Values of exactly zero on the grid are the root itself, their middle if there are several, where the signs on both
    sides differ.
    """
    values = function(grid)
    places = []
    for left, right in _turns(values):
        if right == left + 1:
            found = brentq(lambda at: function(np.array([at]))[0], grid[left], grid[right], xtol=1e-13, rtol=1e-14)
            places.append(float(found))
        else:
            places.append(float((grid[left + 1] + grid[right - 1]) / 2))
    return places


def meeting_points(
    first: Callable[[float], float], second: Callable[[float], float], low: float, high: float, *, places: int = 2000
) -> list[float]:
    """All x between `low` and `high` where two curves given as functions x -> error meet, from a logarithmic grid."""

    def gap(log_x: Array) -> Array:
        return np.array([math.log(first(x)) - math.log(second(x)) for x in np.exp(log_x).tolist()])

    return [math.exp(place) for place in sign_changes(gap, np.linspace(math.log(low), math.log(high), places))]


def mean_roots(pair: Pair, interpolation: Interpolation) -> tuple[Root, ...]:
    """The sign changes of the interpolated mean d, in order of x."""
    function, roots = _mean_difference(pair, interpolation), []
    grid = pair.nodes if interpolation == "linear" else fine_grid(pair)
    places, values = sign_changes(function, grid), function(grid)
    # The sign between two roots is that of the point farthest from zero there.
    for index, place in enumerate(places):
        low = places[index - 1] if index else grid[0]
        before = values[(grid >= low) & (grid < place)]
        first_better = before[np.abs(before).argmax()] < 0
        below, above = (pair.first, pair.second) if first_better else (pair.second, pair.first)
        log_error = interpolate(pair.first.log_x, pair.first.mean, np.array([place]), interpolation)[0]
        roots.append(Root(math.exp(place), math.exp(log_error), below.family, above.family))
    return tuple(roots)


def root_interval(pair: Pair, confidence: float, interpolation: Interpolation) -> Estimate | None:
    """Jackknife-t on ln x*, only if all data and every deletion have exactly one root."""
    grid = fine_grid(pair)

    def statistic(means: Sequence[Array]) -> Array:
        first = interpolate(pair.first.log_x, means[0], grid, interpolation)
        values = first - interpolate(pair.second.log_x, means[1], grid, interpolation)
        return np.array([_only_root(grid, row) for row in values])

    if np.isnan(statistic([pair.first.mean[None], pair.second.mean[None]])[0]):
        return None
    estimate = spread([pair.first, pair.second], statistic).estimate(confidence).exponentiated()
    return estimate if estimate.has_interval else None


def fine_grid(pair: Pair) -> Array:
    """ln x: all measured points and GRID - 1 places in each gap."""
    nodes = pair.nodes
    if len(nodes) == 1:
        return nodes
    inner = [np.linspace(low, high, GRID, endpoint=False) for low, high in itertools.pairwise(nodes)]
    return np.concatenate([*inner, nodes[-1:]])


def linear_zero(grid: Array, excess: Array, left: int) -> float:
    """Where a line through two neighbouring places crosses zero."""
    low, high = excess[left], excess[left + 1]
    return float(grid[left] + (grid[left + 1] - grid[left]) * low / (low - high))


def _mean_difference(pair: Pair, interpolation: Interpolation) -> Callable[[Array], Array]:
    first, second = (interpolant(curve.log_x, curve.mean, interpolation) for curve in (pair.first, pair.second))
    return lambda log_x: np.asarray(first(log_x) - second(log_x))


def _turns(values: Array) -> list[tuple[int, int]]:
    """Neighbours among the values that are not zero, by index, that differ in sign."""
    signed = np.flatnonzero(values != 0)
    turns = np.flatnonzero(np.diff(values[signed] > 0))
    return [(int(signed[turn]), int(signed[turn + 1])) for turn in turns]


def _only_root(grid: Array, values: Array) -> float:
    """The sign change of a tabulated function, NaN if there is none or another."""
    turns = _turns(values)
    if len(turns) != 1:
        return math.nan
    left, right = turns[0]
    if right > left + 1:
        return float((grid[left + 1] + grid[right - 1]) / 2)
    return linear_zero(grid, values, left)
