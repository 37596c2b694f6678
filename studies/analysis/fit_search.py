"""The best parameters of a form for a curve: a search from many starts, and quick refits of nearly the same data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .curve import Array, Curve
from .forms import Form
from .robust import Cells, EveryCell, Minimum
from .sorted_rows import FEWEST_ROWS, SortedCells
from .together import Minimisation

NUM_FINALISTS = 12
SMALLEST_DELTA = 1e-3
"""In log error. No error is known to a thousandth of itself; a smaller delta would only be harder to minimise with."""
MAD_OF_NORMAL = 1.4826
MAD_CORRECTION = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
"""By which the median absolute deviation of n normal values is too small (Croux and Rousseeuw 1992)."""


@dataclass(frozen=True)
class FitData:
    """The cells of one curve, ready to be fitted; rows in an order that depends on the numbers alone.

    Attributes:
        z: ln x - log_x0 [n].
        log_x0: mean of ln x.
        rows: log errors [R, n]; 0 where missing.
        weight: 1 where measured, else 0 [R, n].
        blocks: log errors with one block of test images deleted [B, R, n], 0 where missing; None if not known.
        standard_error: stated, of the log errors [n]; None unless there is a single replicate.
        delta: of the Huber loss [n]; infinite where only residuals can tell the noise.
    """

    z: Array
    log_x0: float
    rows: Array
    weight: Array
    blocks: Array | None
    standard_error: Array | None
    delta: Array

    @cached_property
    def cells(self) -> Cells:
        """All of them, for any number of fits."""
        if self.is_long:
            return SortedCells.of(self.z, self.rows, self.weight, self.delta)
        return self.every_cell(self.rows[None], self.weight[None])

    @property
    def without_each_replicate(self) -> Cells:
        """For R fits that each leave one row out."""
        if isinstance(self.cells, SortedCells):
            return self.cells.leaving_out(self.rows, self.weight)
        return self.every_cell(self.rows[None], self.weight * (1 - np.eye(self.num_replicates)[:, :, None]))

    def every_cell(self, rows: Array, weight: Array) -> EveryCell:
        """Others in place of the measured ones, with other weights, each [K, R, n] or [1, R, n]."""
        return EveryCell(self.z[None], rows, weight, self.delta[None])

    def residuals(self, form: Form, theta: Array) -> tuple[Array, Array]:
        """Measured minus fitted log errors [K, R, n] of parameters [K, p], and the gradient of the fitted [K, n, p]."""
        fitted, gradient = form.log_error(theta, self.z)
        return self.rows - fitted[:, None, :], gradient

    @property
    def is_long(self) -> bool:
        """Whether sums over sorted rows are quicker than sums over all."""
        return self.num_replicates >= FEWEST_ROWS and bool(np.isfinite(self.delta).all())

    @property
    def num_replicates(self) -> int:
        """R."""
        return len(self.rows)

    @property
    def num_cells(self) -> int:
        """Measured ones."""
        return int(self.weight.sum())

    def generator(self, seed: int) -> np.random.Generator:
        """Random numbers that depend on the seed and on every number of the data, and on no name or order."""
        digest = hashlib.sha256()
        for array in (self.z + self.log_x0, self.rows, self.weight):
            digest.update(np.ascontiguousarray(array).tobytes())
        return np.random.default_rng([seed, *np.frombuffer(digest.digest(), np.uint32).tolist()])

    @cached_property
    def median(self) -> Array:
        """Median log error over replicates [n]."""
        return np.asarray(np.nanmedian(np.where(self.weight > 0, self.rows, np.nan), axis=0))


def fit_data(curve: Curve, kept: npt.NDArray[np.bool_]) -> FitData:
    """The cells of a curve at some of its x [n], rows sorted by their numbers; a row without any is dropped."""
    rows = curve.log_error[:, kept]
    order = np.lexsort(rows.T[::-1])
    order = order[~np.isnan(rows[order]).all(axis=1)]
    rows = rows[order]
    measured = ~np.isnan(rows)
    blocks = None if curve.block_log_error is None else curve.block_log_error[:, order][:, :, kept]
    stated = curve.standard_error[kept] if curve.standard_error is not None and len(rows) == 1 else None
    if stated is not None and not np.isfinite(stated).all():
        stated = None
    log_x = curve.log_x[kept]
    return FitData(
        z=log_x - log_x.mean(),
        log_x0=float(log_x.mean()),
        rows=np.where(measured, rows, 0.0),
        weight=measured.astype(float),
        blocks=None if blocks is None else np.where(measured, blocks, 0.0),
        standard_error=stated,
        delta=_delta(rows, stated),
    )


async def search(form: Form, data: FitData, num_starts: int, seed: int) -> tuple[Minimum, FitData]:
    """The best fit of a form, and the data with the delta it was found with.

    Where neither replicates nor stated errors tell the noise, the scatter about a least-squares fit does.
    """
    generator = data.generator(seed)
    found = await _search(form, data, num_starts, generator)
    if np.isfinite(data.delta).all():
        return found, data
    scale = _scale_of_residuals(form, data, found.theta[0])
    data = replace(data, delta=np.full(len(data.z), max(2 * scale, SMALLEST_DELTA)))
    return await _search(form, data, num_starts, generator), data


async def _search(form: Form, data: FitData, num_starts: int, generator: np.random.Generator) -> Minimum:
    """The best fit from random starts: all make 20 steps, the 12 best of them go on to the end.

    A floor of zero is a fit of its own, and stays unless a floor above zero fits better.
    """
    starts = form.starts(data.z, data.median, num_starts, generator)
    begun = await Minimisation(form, data.cells, starts, max_steps=20)
    finalists = begun.theta[np.argsort(begun.loss, kind="stable")[:NUM_FINALISTS]]
    if not form.has_floor:
        return _best(await Minimisation(form, data.cells, finalists))
    without = finalists.copy()
    without[:, 0] = -np.inf
    done = await Minimisation(form, data.cells, np.concatenate([finalists, without]))
    resolved, zero = _best(done, slice(0, NUM_FINALISTS)), _best(done, slice(NUM_FINALISTS, None))
    return zero if zero.loss[0] <= resolved.loss[0] * (1 + 1e-9) + 1e-20 else resolved


async def refit(form: Form, cells: Cells, count: int, theta: Array) -> Array:
    """Parameters [K, p] for `count` = K slightly different sets of cells, from those of the full fit [p].

    Each starts from the full fit, from it with half the smallest error as floor, and from it without a floor.
    """
    starts = [theta]
    if form.has_floor:
        smallest = np.exp(np.min(form.log_error(theta[None], cells.z)[0]))
        for floor in (form.internal_floor(np.asarray(smallest / 2)), -np.inf):
            if floor != theta[0]:
                starts.append(np.concatenate([[floor], theta[1:]]))
    kinds = len(starts)
    found = await Minimisation(form, cells.repeated(kinds), np.tile(np.stack(starts), (count, 1)))
    best = found.loss.reshape(count, kinds).argmin(axis=1)
    return np.asarray(found.theta.reshape(count, kinds, -1)[np.arange(count), best])


def _scale_of_residuals(form: Form, data: FitData, theta: Array) -> float:
    """Robust standard deviation of the residuals of a fit [p]: their median absolute deviation, freedom corrected."""
    residual = data.residuals(form, theta[None])[0][0][data.weight > 0]
    free = max(len(residual) - form.num_parameters, 1)
    return float(MAD_OF_NORMAL * np.median(np.abs(residual)) * np.sqrt(len(residual) / free))


def _delta(rows: Array, stated: Array | None) -> Array:
    """Twice the log standard deviation of each point [n].

    A standard deviation is held within a factor 2 of the pooled one (the median over points of the scaled median
    absolute deviation), which also stands in for a point with one replicate: two runs that happen to agree are not
    exact, and a diverged run must not widen its own tolerance.
    """
    if stated is not None:
        return np.asarray(np.maximum(2 * stated, SMALLEST_DELTA))
    count = (~np.isnan(rows)).sum(axis=0)
    many = count > 1
    if not many.any():
        return np.full(rows.shape[1], np.inf)
    deviation = np.abs(rows - np.nanmedian(rows, axis=0))
    correction = np.array([MAD_CORRECTION.get(c, c / (c - 0.8)) for c in count.tolist()])
    pooled = float(np.median((MAD_OF_NORMAL * correction * np.nanmedian(deviation, axis=0))[many]))
    own = np.full(rows.shape[1], pooled)
    own[many] = np.nanstd(rows[:, many], axis=0, ddof=1)
    return np.asarray(np.maximum(2 * np.clip(own, pooled / 2, 2 * pooled), SMALLEST_DELTA))


def _best(found: Minimum, among: slice = slice(None)) -> Minimum:
    losses = found.loss[among]
    best = int(np.argmin(losses))
    return Minimum(found.theta[among][best : best + 1], losses[best : best + 1])
