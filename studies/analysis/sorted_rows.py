"""Huber losses of a curve against its replicates, from sums over sorted rows instead of over every row.

At one size the loss of a fitted value f is a sum over replicates that changes its shape only where f passes a measured
value by plus or minus delta. With the values sorted, and with running sums of them and of their squares, the sum for
any f follows from two places in the order: what lies below, within and above [f - delta, f + delta]. A fit then takes
n log R instead of n R operations, and R fits that each leave one replicate out take R n log R, not R^2 n.

Values are sorted relative to their median, so that little cancels in the sums. Losses and their slopes are those of
`robust.Cells` up to rounding. The weights of iteratively reweighted least squares, delta / |r| beyond delta, have no
running sum; the mean of |r| on either side stands in for each |r| there. Weights only scale a minimiser's steps, and a
step is taken only where the loss falls: it ends at the same minimum.

Shapes: K fits, R replicates, n values of x. A first axis of K is 1 where all fits share one curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from .curve import Array
from .robust import Sums, huber, of_fits, stacked

FEWEST_ROWS = 8
"""Replicates from which sorting pays; below, every row is gone through."""

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Running:
    """Running sums over the sorted values of every size of every curve, one size after another.

    Attributes:
        key: every sorted value, moved so that one search finds a place in any size.
        one: running sums of the values, of each size one more than its values.
        two: of their squares.
    """

    key: Array
    one: Array
    two: Array


@dataclass(frozen=True)
class Columns:
    """Where in `Running` the sizes of a fit's curve are.

    Attributes:
        centre: what values are relative to [K, n].
        count: measured values [K, n].
        first_key: place of the first value of each size in `key` [K, n].
        first_sum: of the first sum in `one` and `two` [K, n].
        lowest: values are searched for between these [K, n].
        highest: and these [K, n].
        shift: what moves a value of a size into `key` [K, n].
    """

    centre: Array
    count: Places
    first_key: Places
    first_sum: Places
    lowest: Array
    highest: Array
    shift: Array

    def part(self, fits: Places) -> Columns:
        """Those of some of the fits."""
        return Columns(**{field.name: of_fits(getattr(self, field.name), fits) for field in fields(self)})

    @classmethod
    def joined(cls, columns: Sequence[Self], counts: Sequence[int]) -> Self:
        """Those of several curves, of so many fits each; a size that a curve lacks holds no value."""
        return cls(
            **{field.name: stacked([getattr(one, field.name) for one in columns], counts) for field in fields(cls)}
        )

    @property
    def end(self) -> float:
        """Behind all keys."""
        return float((self.highest + self.shift).max())


@dataclass(frozen=True)
class LeftOut:
    """The row that each fit leaves out.

    Attributes:
        log_error: its values [K, n].
        weight: 1 where it was measured, else 0 [K, n].
    """

    log_error: Array
    weight: Array

    @classmethod
    def nothing(cls, z: Array) -> Self:
        """For fits at z [K, n] that leave none out."""
        return cls(np.zeros_like(z), np.zeros_like(z))

    @classmethod
    def joined(cls, rows: Sequence[Self], counts: Sequence[int]) -> Self:
        """Those of several curves, of so many fits each."""
        return cls(stacked([one.log_error for one in rows], counts), stacked([one.weight for one in rows], counts))


@dataclass(frozen=True)
class SortedCells:
    """Cells of which all fits of a curve share the rows, though each may leave one out.

    Attributes:
        z: ln(x / x0) [K, n].
        delta: of the Huber loss [K, n].
        running: sums over the rows of all curves.
        columns: which of these are a fit's.
        left_out: what the fits leave out; None where none does.
    """

    z: Array
    delta: Array
    running: Running
    columns: Columns
    left_out: LeftOut | None = None

    @classmethod
    def of(cls, z: Array, rows: Array, weight: Array, delta: Array) -> Self:
        """Of one curve: z and delta [n], log errors and weights [R, n], every size with at least one measured value."""
        values = [np.sort(column[kept > 0]) for column, kept in zip(rows.T, weight.T, strict=True)]
        centre = np.array([np.median(column) for column in values])
        values = [column - middle for column, middle in zip(values, centre, strict=True)]
        count = np.array([len(column) for column in values])
        lowest, highest = (
            np.array([column[0] for column in values]) - 1,
            np.array([column[-1] for column in values]) + 1,
        )
        # One beyond either end, where whatever is farther out is looked for.
        shift = np.concatenate([[0.0], np.cumsum(highest - lowest)[:-1]]) - lowest
        first = np.concatenate([[0], np.cumsum(count)[:-1]])
        sums = [np.concatenate([[0.0], np.cumsum(column)]) for column in values]
        squares = [np.concatenate([[0.0], np.cumsum(column**2)]) for column in values]
        keys = [column + moved for column, moved in zip(values, shift, strict=True)]
        return cls(
            z=z[None],
            delta=delta[None],
            running=Running(np.concatenate(keys), np.concatenate(sums), np.concatenate(squares)),
            columns=Columns(
                centre=centre[None],
                count=count[None],
                first_key=first[None],
                first_sum=(first + np.arange(len(first)))[None],
                lowest=lowest[None],
                highest=highest[None],
                shift=shift[None],
            ),
        )

    def leaving_out(self, rows: Array, weight: Array) -> Self:
        """For as many fits as there are rows [R, n], each without one of them."""
        return replace(self, left_out=LeftOut(rows, weight))

    def sums(self, fitted: Array) -> Sums:
        """See `Cells`."""
        running, columns, delta = self.running, self.columns, self.delta
        value = fitted - columns.centre
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            sides = np.stack([value - delta, value + delta])
            inside = np.minimum(np.maximum(sides, columns.lowest), columns.highest) + columns.shift
            low, high = np.searchsorted(running.key, inside.ravel()).reshape(inside.shape) - columns.first_key
            begin, end = columns.first_sum + low, columns.first_sum + high
            one_begin, one_end = running.one[begin], running.one[end]
            within, beyond = high - low, columns.count - high
            one_last = running.one[columns.first_sum + columns.count]
            below, above = low * value - one_begin, one_last - one_end - beyond * value  # sums of |r|
            inner = one_end - one_begin
            squares = running.two[end] - running.two[begin] + value * (within * value - 2 * inner)
            loss = squares / 2 + delta * (below + above - delta / 2 * (low + beyond))
            pull = inner - within * value + delta * (beyond - low)
            weight = within + delta * (low**2 / np.where(low, below, 1.0) + beyond**2 / np.where(beyond, above, 1.0))
            if self.left_out is not None:
                residual, kept = self.left_out.log_error - fitted, self.left_out.weight
                own = kept * np.minimum(1.0, delta / np.abs(residual))
                loss, pull = loss - kept * huber(residual, delta), pull - own * residual
                weight = np.maximum(weight - own, 0.0)
            total = loss.sum(axis=1)
            return Sums(np.where(np.isnan(total), np.inf, total), pull, weight)

    def part(self, fits: Places) -> Self:
        """See `Cells`."""
        left_out = self.left_out
        return replace(
            self,
            z=of_fits(self.z, fits),
            delta=of_fits(self.delta, fits),
            columns=self.columns.part(fits),
            left_out=left_out and LeftOut(left_out.log_error[fits], left_out.weight[fits]),
        )

    def repeated(self, times: int) -> Self:
        """See `Cells`."""
        if self.left_out is None:
            return self
        fits = np.repeat(np.arange(len(self.left_out.weight)), times)
        return self.part(fits)

    @classmethod
    def joined(cls, cells: Sequence[Self], counts: Sequence[int]) -> Self:
        """See `Cells`."""
        keys, columns, end, num_keys, num_sums = [], [], 0.0, 0, 0
        for one in cells:
            own = one.columns
            keys.append(one.running.key + end)
            first_key, first_sum = own.first_key + num_keys, own.first_sum + num_sums
            columns.append(replace(own, first_key=first_key, first_sum=first_sum, shift=own.shift + end))
            end, num_keys, num_sums = end + own.end, num_keys + len(one.running.key), num_sums + len(one.running.one)
        return cls(
            z=stacked([one.z for one in cells], counts),
            delta=stacked([one.delta for one in cells], counts, empty=1.0),
            running=Running(
                np.concatenate(keys),
                np.concatenate([one.running.one for one in cells]),
                np.concatenate([one.running.two for one in cells]),
            ),
            columns=Columns.joined(columns, counts),
            left_out=LeftOut.joined([one.left_out or LeftOut.nothing(one.z) for one in cells], counts)
            if any(one.left_out is not None for one in cells)
            else None,
        )
