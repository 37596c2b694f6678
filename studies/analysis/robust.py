"""Minimising the sum of Huber losses of many curve fits at once.

A fit has p <= 4 parameters and at most some hundred cells, so a minimiser's time is the interpreter's, not the
arithmetic's: K fits (random starts, deletions, values of a profiled parameter) advance together, as one Levenberg-
Marquardt iteration on arrays. The weights of iteratively reweighted least squares make each of its steps majorise the
Huber loss (Huber 1964), and a step is taken only where the loss falls.

The sum, not the mean, of the losses is minimised, and to the end: a mean with a minimiser's default tolerance stops
early (Besiroglu et al. 2024, arXiv 2404.10102, on Hoffmann et al.).

Shapes: K fits, R replicates, n values of x, p parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .curve import Array
from .forms import Form

MAX_DAMPING = 1e12


@dataclass(frozen=True)
class Cells:
    """What is fitted.

    Attributes:
        z: ln(x / x0) [n].
        log_error: [K, R, n], or [1, R, n] where all fits share it; finite wherever the weight is not 0.
        weight: 1 for a cell that counts, 0 for one that does not; shape as `log_error`.
        delta: of the Huber loss [n].
    """

    z: Array
    log_error: Array
    weight: Array
    delta: Array


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
    form: Form, cells: Cells, theta: Array, *, free: npt.NDArray[np.bool_] | None = None, max_steps: int = 300
) -> Minimum:
    """Local minima of the sum of Huber losses of log errors.

    Args:
        form: of the curve.
        cells: what it is fitted to.
        theta: where to start [K, p].
        free: which parameters may move [p]; all by default.
        max_steps: iterations at most; a fit stops before when its loss no longer falls.
    """
    theta = theta.copy()
    moving = np.ones(theta.shape[1], bool) if free is None else free
    loss = _loss(form, cells, theta)
    damping = np.full(len(theta), 1e-2)
    running = np.isfinite(loss)
    still = np.zeros(len(theta), int)
    for _ in range(max_steps):
        live = np.flatnonzero(running)
        if len(live) == 0:
            break
        part = _part(cells, live)
        gradient, curvature = _equations(form, part, theta[live], moving)
        diagonal = np.einsum("kpp->kp", curvature)
        ridge = damping[live, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-30
        step = np.zeros_like(gradient)
        system = curvature + ridge[:, :, None] * np.eye(ridge.shape[1])
        step = np.linalg.solve(system, gradient[:, :, None])[:, :, 0]
        tried = theta[live].copy()
        tried[:, moving] += np.clip(step, -3, 3)
        tried_loss = _loss(form, part, tried)
        better = tried_loss < loss[live]
        gain = np.where(better, loss[live] - tried_loss, 0.0)
        small = gain <= 1e-15 * loss[live] + 1e-32
        tiny_step = np.abs(step).max(axis=1) < 1e-12
        theta[live[better]] = tried[better]
        loss[live[better]] = tried_loss[better]
        damping[live] = np.where(better, damping[live] / 5, damping[live] * 4).clip(1e-12, MAX_DAMPING)
        still[live] = np.where(better & ~small, 0, still[live] + 1)
        running[live] = ~(tiny_step | (still[live] >= 12) | (damping[live] >= MAX_DAMPING))
    return Minimum(theta, loss)


def residuals(form: Form, cells: Cells, theta: Array) -> tuple[Array, Array]:
    """Measured minus fitted log errors [K, R, n] and the gradient of the fitted ones [K, n, p]."""
    fitted, gradient = form.log_error(theta, cells.z)
    return cells.log_error - fitted[:, None, :], gradient


def _part(cells: Cells, live: npt.NDArray[np.intp]) -> Cells:
    if len(cells.log_error) == 1:
        return cells
    return Cells(cells.z, cells.log_error[live], cells.weight[live], cells.delta)


def _loss(form: Form, cells: Cells, theta: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        residual, _ = residuals(form, cells, theta)
        loss = np.einsum("krn->k", cells.weight * huber(residual, cells.delta))
    return np.asarray(np.where(np.isnan(loss), np.inf, loss))


def _equations(form: Form, cells: Cells, theta: Array, moving: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Minus the gradient of the loss [K, p] and its majorising curvature [K, p, p], in the parameters that move."""
    residual, gradient = residuals(form, cells, theta)
    gradient = gradient[:, :, moving]
    with np.errstate(divide="ignore"):
        weight = cells.weight * np.minimum(1.0, cells.delta / np.abs(residual))
    pull = np.einsum("krn,krn->kn", weight, residual)
    total = weight.sum(axis=1)
    return np.einsum("kn,knp->kp", pull, gradient), np.einsum("kn,knp,knq->kpq", total, gradient, gradient)
