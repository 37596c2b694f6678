"""Huber losses of a curve against hundreds of replicates, from sums over sorted rows instead of over every row.

At one size the loss of a fitted value f is a sum over replicates that changes its shape only where f passes a measured
value by plus or minus delta. With the values sorted, and with running sums of them and of their squares, the sum for
any f follows from two places in the order: what lies below, within and above [f - delta, f + delta]. A fit then takes
n log R instead of n R operations, and R fits that each leave one replicate out take R n log R, not R^2 n.

Values are sorted relative to their median, so that little cancels in the sums. Losses and their slopes are those of
`robust.Cells` up to rounding. The weights of iteratively reweighted least squares, delta / |r| beyond delta, have no
running sum; the mean of |r| on either side stands in for each |r| there. Weights only scale a minimiser's steps, and a
step is taken only where the loss falls: it ends at the same minimum.

Shapes: K fits, R replicates, n values of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from .curve import Array
from .robust import Cells, Sums, huber

FEWEST_ROWS = 32
"""Replicates from which sorting pays; below, every row is gone through."""

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Running:
    """Running sums over the sorted values of every size, one size after another.

    Attributes:
        centre: what values are relative to [n].
        count: measured values [n].
        first: place of the first sum of each size in `one` and `two` [n].
        last: of the last [n].
        key: every sorted value, moved so that one search finds a place in any size.
        lowest: values are searched for between these [n]
        highest: and these [n].
        shift: what moves a value of a size into `key` [n].
        one: running sums of the values, of each size one more than its values.
        two: of their squares.
    """

    centre: Array
    count: Places
    first: Places
    last: Places
    key: Array
    lowest: Array
    highest: Array
    shift: Array
    one: Array
    two: Array

    @classmethod
    def of(cls, rows: Array, weight: Array) -> Self:
        """Of log errors and weights [R, n], every column with at least one measured value."""
        columns = [np.sort(column[kept > 0]) for column, kept in zip(rows.T, weight.T, strict=True)]
        centre = np.array([np.median(column) for column in columns])
        columns = [column - middle for column, middle in zip(columns, centre, strict=True)]
        count = np.array([len(column) for column in columns])
        lowest, highest = np.array([column[0] for column in columns]), np.array([column[-1] for column in columns])
        first = np.concatenate([[0], np.cumsum(count + 1)[:-1]])
        room = highest - lowest + 2  # one beyond either end, where whatever is farther out is looked for
        shift = np.concatenate([[0.0], np.cumsum(room)[:-1]]) - lowest + 1
        return cls(
            centre=centre,
            count=count,
            first=first,
            last=first + count,
            key=np.concatenate([column + moved for column, moved in zip(columns, shift, strict=True)]),
            lowest=lowest - 1,
            highest=highest + 1,
            shift=shift,
            one=np.concatenate([np.cumsum([0.0, *column]) for column in columns]),
            two=np.concatenate([np.cumsum([0.0, *(column**2)]) for column in columns]),
        )

    def rank(self, value: Array) -> Places:
        """How many values of its size are below each of [..., n]."""
        inside = np.minimum(np.maximum(value, self.lowest), self.highest) + self.shift
        found = np.searchsorted(self.key, inside.ravel()).reshape(value.shape)
        return np.asarray(found - (self.first - np.arange(len(self.first))))


@dataclass(frozen=True)
class SortedCells(Cells):
    """As `Cells`, of which all fits share the rows, though each may leave one out.

    Attributes:
        deleted: the row that each fit leaves out [K]; None where none does.
    """

    deleted: Places | None = None

    @cached_property
    def running(self) -> Running:
        """Over all rows."""
        return Running.of(self.log_error[0], self.weight[0])

    def part(self, fits: Places) -> SortedCells:
        """See `Cells`."""
        return self if self.deleted is None else self._leaving_out(self.deleted[fits])

    def repeated(self, times: int) -> SortedCells:
        """See `Cells`."""
        return self if self.deleted is None else self._leaving_out(np.repeat(self.deleted, times))

    def sums(self, fitted: Array) -> Sums:
        """See `Cells`."""
        running, delta = self.running, self.delta
        value = fitted - running.centre
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            low, high = running.rank(np.stack([value - delta, value + delta]))
            begin, end = running.first + low, running.first + high
            one_begin, one_end = running.one[begin], running.one[end]
            within, beyond = high - low, running.count - high
            below, above = low * value - one_begin, running.one[running.last] - one_end - beyond * value  # sums of |r|
            inner = one_end - one_begin
            squares = running.two[end] - running.two[begin] + value * (within * value - 2 * inner)
            loss = squares / 2 + delta * (below + above - delta / 2 * (low + beyond))
            pull = inner - within * value + delta * (beyond - low)
            weight = within + delta * (low**2 / np.where(low, below, 1.0) + beyond**2 / np.where(beyond, above, 1.0))
            if self.deleted is not None:
                residual, kept = self.log_error[0][self.deleted] - fitted, self.weight[0][self.deleted]
                own = kept * np.minimum(1.0, delta / np.abs(residual))
                loss, pull = loss - kept * huber(residual, delta), pull - own * residual
                weight = np.maximum(weight - own, 0.0)
            total = loss.sum(axis=1)
            return Sums(np.where(np.isnan(total), np.inf, total), pull, weight)

    def _leaving_out(self, deleted: Places) -> SortedCells:
        other = SortedCells(self.z, self.log_error, self.weight, self.delta, deleted)
        other.__dict__["running"] = self.running  # of the same rows
        return other
