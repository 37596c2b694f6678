"""Minimising the sum of Huber losses of many curve fits at once.

A fit has p <= 4 parameters and at most some hundred cells, so a minimiser's time is the interpreter's, not the
arithmetic's: K fits (random starts, deletions, values of a profiled parameter, of one curve or of several, see
`together`) advance at once, as one Levenberg-Marquardt iteration on arrays. The weights of iteratively reweighted
least squares make each of its steps majorise the Huber loss (Huber 1964), and a step is taken only where the loss
falls.

The sum, not the mean, of the losses is minimised, and to the end: a mean with a minimiser's default tolerance stops
early (Besiroglu et al. 2024, arXiv 2404.10102, on Hoffmann et al.).

Shapes: K fits, R replicates, n values of x, p parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from .curve import Array
from .forms import Form

MAX_DAMPING = 1e12
VANISHED = 1e-16
"""Of the largest curvature: a parameter with less changes no error by more than a hundred millionth."""

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Sums:
    """What a step needs to know of the cells, whatever the form.

    Attributes:
        loss: sum of Huber losses [K]; infinite where it is not a number.
        pull: how fast the loss falls as a fitted log error rises [K, n].
        weight: of iteratively reweighted least squares [K, n].
    """

    loss: Array
    pull: Array
    weight: Array


class Cells(Protocol):
    """What K fits are fitted to."""

    @property
    def z(self) -> Array:
        """ln(x / x0) [K, n], or [1, n] where all fits share it."""

    def sums(self, fitted: Array) -> Sums:
        """Sums over replicates, of fitted log errors [K, n]."""

    def part(self, fits: npt.NDArray[np.intp]) -> Self:
        """The cells of some of the fits."""

    def repeated(self, times: int) -> Self:
        """Those of every fit several times in a row."""

    @classmethod
    def joined(cls, cells: Sequence[Self], counts: Sequence[int]) -> Self:
        """Those of several curves one after another, of so many fits each; a curve of fewer x has empty ones more."""


@dataclass(frozen=True)
class EveryCell:
    """Cells that are gone through one by one. Each array has a first axis of 1 where all fits share it.

    Attributes:
        z: ln(x / x0) [K, n].
        log_error: [K, R, n], finite wherever the weight is not 0.
        weight: 1 for a cell that counts, 0 for one that does not [K, R, n].
        delta: of the Huber loss [K, n].
    """

    z: Array
    log_error: Array
    weight: Array
    delta: Array

    def sums(self, fitted: Array) -> Sums:
        """See `Cells`."""
        residual, delta = self.log_error - fitted[:, None, :], self.delta[:, None, :]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss = np.einsum("krn->k", self.weight * huber(residual, delta))
            weight = self.weight * np.minimum(1.0, delta / np.abs(residual))
            return Sums(_or_infinite(loss), np.einsum("krn,krn->kn", weight, residual), weight.sum(axis=1))

    def part(self, fits: npt.NDArray[np.intp]) -> Self:
        """See `Cells`."""
        return type(self)(*(of_fits(each, fits) for each in self._arrays))

    def repeated(self, times: int) -> Self:
        """See `Cells`."""
        return type(self)(*(each if len(each) == 1 else np.repeat(each, times, axis=0) for each in self._arrays))

    @classmethod
    def joined(cls, cells: Sequence[Self], counts: Sequence[int]) -> Self:
        """See `Cells`."""
        return cls(
            z=stacked([one.z for one in cells], counts),
            log_error=stacked([one.log_error for one in cells], counts),
            weight=stacked([one.weight for one in cells], counts),
            delta=stacked([one.delta for one in cells], counts, empty=1.0),
        )

    @property
    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return self.z, self.log_error, self.weight, self.delta


def of_fits(array: npt.NDArray[Number], fits: npt.NDArray[np.intp]) -> npt.NDArray[Number]:
    """Of an array [K, ...] that of some of the fits, or what all share [1, ...]."""
    return array if len(array) == 1 else array[fits]


def stacked(arrays: Sequence[npt.NDArray[Number]], counts: Sequence[int], empty: float = 0.0) -> npt.NDArray[Number]:
    """Arrays [count or 1, ...] of several curves one after another; `empty` where one is smaller than the others."""
    shape = np.max([each.shape[1:] for each in arrays], axis=0)
    joined = np.full((sum(counts), *shape), empty, arrays[0].dtype)
    for each, count, end in zip(arrays, counts, np.cumsum(counts).tolist(), strict=True):
        joined[(slice(end - count, end), *map(slice, each.shape[1:]))] = each
    return joined


@dataclass(frozen=True)
class Minimum:
    """Where the minimiser stopped.

    Attributes:
        theta: parameters [K, p].
        loss: sum of Huber losses [K].
    """

    theta: Array
    loss: Array


def huber(residual: Array, delta: Array) -> Array:
    """r^2 / 2 up to delta, delta (|r| - delta / 2) beyond."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return np.asarray(inside * (size - inside / 2))


def minimise(
    form: Form,
    cells: Cells,
    theta: Array,
    *,
    floor_given: bool = False,
    max_steps: int = 300,
    tolerance: float = 1e-15,
) -> Minimum:
    """Local minima of the sum of Huber losses of log errors.

    Args:
        form: of the curve.
        cells: what it is fitted to.
        theta: where to start [K, p].
        floor_given: whether the first parameter stays.
        max_steps: iterations at most.
        tolerance: a fit has arrived when three steps in a row promised to lower its loss by less than this share of it,
            or 12 did not lower it.
    """
    moving = slice(int(floor_given), None)
    ended = theta.copy()
    at = _at(form, cells, theta)
    losses = at.loss.copy()
    live = np.flatnonzero(np.isfinite(losses))
    theta, at, part = theta[live], at.part(live), cells.part(live)
    damping, idle = np.full(len(live), 1e-2), np.zeros(len(live), int)
    lowest, highest = form.limits
    for _ in range(max_steps):
        if len(live) == 0:
            break
        step, promised = _step(at, moving, damping, theta[:, moving], form.limits[:, moving])
        tried = theta.copy()
        tried[:, moving] += step
        tried = np.where(np.isneginf(tried), tried, np.minimum(np.maximum(tried, lowest), highest))  # -inf: no floor
        there = _at(form, part, tried)
        better = there.loss < at.loss
        arrived = np.abs(promised) <= tolerance * at.loss  # one that was cut off may promise a rise: it has not arrived
        idle = np.where(better & ~arrived, 0, idle + np.where(arrived, 4, 1))
        np.copyto(theta, tried, where=better[:, None])
        at.take(there, better)
        damping = np.maximum(np.where(better, damping / 5, damping * 4), 1e-12)
        running = (idle < 12) & (damping < MAX_DAMPING) & (np.abs(step).max(axis=1) > 1e-12)
        if not running.all():
            ended[live], losses[live] = theta, at.loss
            going = np.flatnonzero(running)
            live, theta, at, part = live[going], theta[going], at.part(going), part.part(going)
            damping, idle = damping[going], idle[going]
    ended[live], losses[live] = theta, at.loss
    return Minimum(ended, losses)


@dataclass(frozen=True)
class _At:
    """What is known where fits are.

    Attributes:
        loss: see `Sums`, as `pull` and `weight`.
        gradient: of the fitted log errors [K, n, p].
    """

    loss: Array
    pull: Array
    weight: Array
    gradient: Array

    def part(self, fits: npt.NDArray[np.intp]) -> _At:
        """The same of some of the fits."""
        return _At(*(each[fits] for each in (self.loss, self.pull, self.weight, self.gradient)))

    def take(self, other: _At, where: npt.NDArray[np.bool_]) -> None:
        """Goes where `other` is, with the fits [K] for which `where` is true."""
        np.copyto(self.loss, other.loss, where=where)
        np.copyto(self.pull, other.pull, where=where[:, None])
        np.copyto(self.weight, other.weight, where=where[:, None])
        np.copyto(self.gradient, other.gradient, where=where[:, None, None])


def _at(form: Form, cells: Cells, theta: Array) -> _At:
    """Of parameters [K, p]; those so far off that they overflow give a loss that no step accepts."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        fitted, gradient = form.log_error(theta, cells.z)
        sums = cells.sums(fitted)
    return _At(sums.loss, sums.pull, sums.weight, gradient)


def _step(at: _At, moving: slice, damping: Array, theta: Array, limits: Array) -> tuple[Array, Array]:
    """Damped steps [K, q] of the q parameters that move, each at most 3 long, and the fall of loss they promise [K].

    A parameter that is pulled beyond its limit stays there, and the others step as if it were given: a step cut off at
    the limit would be none of the best for them. So does one that is pulled down and has all but vanished from the
    curve, as a floor on its way to none.
    """
    gradient = at.gradient[:, :, moving]
    downhill = (at.pull[:, None, :] @ gradient)[:, 0]
    curvature = (gradient * at.weight[:, :, None]).transpose(0, 2, 1) @ gradient
    diagonal = np.einsum("kpp->kp", curvature)  # a view
    largest = diagonal.max(axis=1, keepdims=True)
    lowest, highest = limits
    down = (downhill < 0) & ((theta <= lowest) | (diagonal < VANISHED * largest))
    held = down | ((downhill > 0) & (theta >= highest))
    if held.any():
        downhill = np.where(held, 0.0, downhill)
        curvature *= ~(held[:, :, None] | held[:, None, :])
    diagonal += damping[:, None] * diagonal + 1e-12 * largest + 1e-30
    step = np.linalg.solve(curvature, downhill[:, :, None])[:, :, 0]
    step = np.minimum(np.maximum(step, -3.0), 3.0)
    return step, np.einsum("kp,kp->k", step, downhill)


def _or_infinite(loss: Array) -> Array:
    return np.asarray(np.where(np.isnan(loss), np.inf, loss))
