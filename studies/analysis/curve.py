"""A measured curve: log error over x, replicate by replicate, and the pair of curves that a comparison rests on.

Shapes: R replicates, n values of x, B blocks of test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from .finding import LeftOut
from .quantity import Quantity, quantity

Array = npt.NDArray[np.float64]
Interpolation = Literal["linear", "monotone"]

FEWEST_REPLICATES = 3
"""Two replicates leave one degree of freedom, and an interval of 12.7 standard errors."""


@dataclass(frozen=True)
class Curve:
    """Log error of one family over x.

    Attributes:
        family: whose curve.
        column: name of x in the table.
        x: [n], ascending and distinct.
        log_error: natural logarithms of errors [R, n]; NaN where a replicate has no row at this x.
        replicates: what the rows of `log_error` are called; rows of two families with one name belong together.
        standard_error: of the log errors [n], where the table states an error per point; used without replicates only.
        block_log_error: log errors with one block of test images deleted [B, R, n], where all replicates were tested
            on the same images and the blocks are known.
    """

    family: str
    column: str
    x: Array
    log_error: Array
    replicates: tuple[str, ...]
    standard_error: Array | None = None
    block_log_error: Array | None = None

    @property
    def quantity(self) -> Quantity:
        """What x is."""
        return quantity(self.column)

    @property
    def log_x(self) -> Array:
        """ln x [n]."""
        return np.log(self.x)

    @property
    def num_replicates(self) -> int:
        """R."""
        return len(self.replicates)

    @property
    def mean(self) -> Array:
        """Mean log error over replicates [n]."""
        return np.asarray(np.nanmean(self.log_error, axis=0))

    @property
    def log_std(self) -> Array:
        """Standard deviation of the log errors over replicates [n]; NaN where there is only one."""
        count = np.sum(~np.isnan(self.log_error), axis=0)
        deviation = np.where(np.isnan(self.log_error), 0.0, self.log_error - self.mean)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(np.where(count > 1, np.sum(deviation**2, axis=0) / (count - 1), np.nan)))

    def rows_of(self, replicates: Iterable[str]) -> list[int]:
        """Rows of `log_error` that are of these replicates."""
        if replicates == self.replicates:  # as usual, and looking up hundreds takes its time
            return list(range(len(self.replicates)))
        place = {name: row for row, name in enumerate(self.replicates)}
        return [place[name] for name in replicates]

    def restricted(self, replicates: tuple[str, ...], kept: npt.NDArray[np.bool_]) -> Curve:
        """The curve of some replicates at some of its x, in the given order of replicates."""
        rows = self.rows_of(replicates)
        return replace(
            self,
            x=self.x[kept],
            log_error=self.log_error[rows][:, kept],
            replicates=replicates,
            standard_error=None if self.standard_error is None else self.standard_error[kept],
            block_log_error=None if self.block_log_error is None else self.block_log_error[:, rows][:, :, kept],
        )


def interpolant(log_x: Array, log_error: Array, kind: Interpolation) -> Callable[[Array], Array]:
    """Curves between their points, in ln x and ln error.

    Args:
        log_x: ascending [n].
        log_error: [..., n].
        kind: `linear`, or `monotone`: the piecewise cubic of Fritsch and Carlson (1980), which has no extremum of its
            own between two points.

    Returns:
        A function from ln x [m], inside the range of `log_x`, to ln error [..., m].
    """
    if kind == "monotone" and len(log_x) > 2:
        cubic = PchipInterpolator(log_x, log_error, axis=-1)
        return lambda at: np.asarray(cubic(at))
    return lambda at: _linear(log_x, log_error, at)


def interpolate(log_x: Array, log_error: Array, at: Array, kind: Interpolation) -> Array:
    """The values of `interpolant` at ln x = `at` [m]: [..., m]."""
    return interpolant(log_x, log_error, kind)(at)


def _linear(log_x: Array, log_error: Array, at: Array) -> Array:
    if len(log_x) == 1:
        return np.repeat(log_error, len(at), axis=-1)
    left = np.clip(np.searchsorted(log_x, at, side="right") - 1, 0, len(log_x) - 2)
    weight = (at - log_x[left]) / (log_x[left + 1] - log_x[left])
    return np.asarray((1 - weight) * log_error[..., left] + weight * log_error[..., left + 1])


@dataclass(frozen=True)
class Pair:
    """Two curves on complete rows: every replicate has both families at every x of theirs.

    Attributes:
        first: a curve.
        second: another over the same quantity, with the same replicates; its x may differ.
        left_out: rows and values of x given up to make the rows complete.
        planned_x: every x at which either family has a row, [n].
    """

    first: Curve
    second: Curve
    left_out: tuple[LeftOut, ...]
    planned_x: Array

    @property
    def log_range(self) -> tuple[float, float]:
        """ln x between which both curves are known; empty if the first exceeds the second."""
        low = max(self.first.log_x[0], self.second.log_x[0])
        high = min(self.first.log_x[-1], self.second.log_x[-1])
        return float(low), float(high)

    @property
    def nodes(self) -> Array:
        """ln x of all measured points of both curves where both are known, ascending."""
        low, high = self.log_range
        nodes = np.union1d(self.first.log_x, self.second.log_x)
        return nodes[(nodes >= low) & (nodes <= high)]

    def swapped(self) -> Pair:
        """The pair in the other order."""
        return replace(self, first=self.second, second=self.first)


def pair_up(first: Curve, second: Curve) -> Pair | None:
    """The largest complete part of two curves; None if they have no replicate and x in common.

    A replicate is its whole row (PROTOCOL 6). As long as rows are missing, an x of one family that at least half of the
    replicates lack is given up, else the replicate that lacks the most; but never so many replicates that fewer than
    three are left while giving up an x would do. Each is named in `Pair.left_out`.
    """
    alike = first.replicates == second.replicates
    in_both = {*first.replicates} if alike else {*first.replicates} & {*second.replicates}
    common = tuple(name for name in first.replicates if name in in_both)
    left_out = [
        LeftOut(f"replicate {name} of {curve.family}", f"{other.family} has no such replicate")
        for curve, other in ((first, second), (second, first))
        for name in curve.replicates
        if name not in in_both
    ]
    if not common:
        return None
    rows = np.concatenate([curve.log_error[curve.rows_of(common)] for curve in (first, second)], axis=1)
    columns = [(curve.family, x) for curve in (first, second) for x in curve.x]
    missing = np.isnan(rows)
    keep_row, keep_column = np.ones(rows.shape[0], bool), np.ones(rows.shape[1], bool)
    while (live := missing & keep_row[:, None] & keep_column).any():
        column_share = live.sum(axis=0) / keep_row.sum()
        spared = keep_row.sum() > FEWEST_REPLICATES and column_share.max() < 0.5
        if spared or keep_column[: len(first.x)].sum() == 1 or keep_column[len(first.x) :].sum() == 1:
            worst = int(live.sum(axis=1).argmax())
            keep_row[worst] = False
            absent = [columns[i] for i in np.flatnonzero(live[worst])]
            listed = ", ".join(f"{family} at {first.column}={x:g}" for family, x in absent)
            left_out.append(LeftOut(f"replicate {common[worst]}", f"it has no {listed}"))
        else:
            worst = int(column_share.argmax())
            keep_column[worst] = False
            family, x = columns[worst]
            absent_rows = ", ".join(common[i] for i in np.flatnonzero(live[:, worst]))
            left_out.append(LeftOut(f"{family} at {first.column}={x:g}", f"no row for replicates {absent_rows}"))
    split = len(first.x)
    if not keep_row.any() or not keep_column[:split].any() or not keep_column[split:].any():
        return None
    names = tuple(name for name, keep in zip(common, keep_row, strict=True) if keep)
    return Pair(
        first.restricted(names, keep_column[:split]),
        second.restricted(names, keep_column[split:]),
        tuple(left_out),
        np.union1d(first.x, second.x),
    )
