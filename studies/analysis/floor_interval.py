"""The interval of a floor: every floor that the replicates do not reject.

At a candidate floor the other parameters are fitted. Each replicate then pulls the floor up or down by its *efficient
score*: the derivative of its Huber losses along the floor, cleared of what the other parameters could absorb. The mean
of R scores over its standard error is Student's t with R - 1 degrees, and the interval is where it stays within the
quantile: a score test, inverted, its variance taken over whole replicates (Boos 1992, The American Statistician 46).

A floor often ends at zero, and its estimate is skewed: a t-interval around it is wrong there on any scale, but the
scores, being nearly linear in the data, are not, and zero needs no special case. Where all replicates share their test
images, the delete-one jackknife of the mean score over blocks of them is added to its variance.
"""

from __future__ import annotations

import numpy as np

from .curve import Array
from .fit_search import FitData
from .forms import Form
from .jackknife import t_quantile
from .robust import Cells, minimise, residuals

NEGLIGIBLE = 1e-6
"""Of the smallest error: a floor below it is called zero."""


def floor_interval(form: Form, data: FitData, theta: Array, confidence: float) -> tuple[float, float]:
    """Ends of the interval of the floor of a fit [p]; NaN without replicates and stated errors.

    The lower end is 0 where no floor at all is not rejected; the upper one is the largest median error (chance in M4)
    where the data rejects none.
    """
    degrees = np.inf if data.standard_error is not None else data.num_replicates - 1
    quantile = t_quantile(0.5 + confidence / 2, degrees)
    if np.isnan(quantile):
        return np.nan, np.nan
    estimate = float(form.natural(theta[None], data.log_x0)[0, 0])
    lowest, highest = NEGLIGIBLE * float(np.exp(data.median.min())), float(np.exp(data.median.max()))
    if estimate >= highest:
        return estimate, estimate
    low = 0.0
    if estimate > lowest:
        low = _end(form, data, theta, max(estimate, lowest), lowest, quantile)
    high = _end(form, data, theta, max(estimate, lowest), highest, quantile)
    return (0.0 if low <= lowest else low), high


def _end(form: Form, data: FitData, theta: Array, inside: float, outside: float, quantile: float) -> float:
    """The first floor on the way from inside to outside that is rejected; `outside` if none is.

    A grid, dense near `inside`, finds where the rejection begins; finer grids follow in that gap.
    """
    fraction = np.concatenate([[0.0], np.geomspace(1e-4, 1, 30)])
    floors = inside + fraction * (outside - inside)
    if outside < inside:  # evenly in ln E too, down to what counts as zero
        floors = np.sort(np.union1d(floors, np.geomspace(outside, inside, 12)))[::-1]
    for _ in range(6):
        rejected = np.abs(score_t(form, data, theta, floors)) > quantile
        rejected[0] = False
        if not rejected.any():
            return outside
        first = int(rejected.argmax())
        near, far = floors[first - 1], floors[first]
        if abs(far - near) <= 1e-3 * max(abs(far - inside), 1e-9 * inside):
            break
        floors = np.linspace(near, far, 12)
    return float((near + far) / 2)


def score_t(form: Form, data: FitData, theta: Array, floors: Array) -> Array:
    """Student's t of floors [K], the others fitted from those of the full fit [p]; positive if a floor is too low."""
    thetas = _profile(form, data, theta, floors)
    residual, gradient = residuals(form, data.cells, thetas)
    inside = data.weight * (np.abs(residual) <= data.delta)  # the loss is quadratic there
    curvature = np.einsum("kn,knp,knq->kpq", inside.sum(axis=1), gradient, gradient)
    others = np.linalg.pinv(curvature[:, 1:, 1:], rcond=1e-12, hermitian=True)
    absorbed = np.einsum("kpq,kq->kp", others, curvature[:, 1:, 0])
    direction = gradient[:, :, 0] - np.einsum("knp,kp->kn", gradient[:, :, 1:], absorbed)  # [K, n]
    pull = data.weight * np.clip(residual, -data.delta, data.delta)  # [K, R, n]
    scores = np.einsum("krn,kn->kr", pull, direction)
    if data.standard_error is not None:
        variance = np.sum((inside[:, 0] * direction * data.standard_error) ** 2, axis=1)
    else:
        variance = scores.var(axis=1, ddof=1) / data.num_replicates
        if data.blocks is not None:
            variance = variance + _block_variance(form, data, thetas, direction)
    mean = scores.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / np.sqrt(variance)
    return np.asarray(np.where(mean == 0, 0.0, t))


def _block_variance(form: Form, data: FitData, thetas: Array, direction: Array) -> Array:
    """Delete-one-block jackknife variance of the mean score [K]."""
    assert data.blocks is not None
    fitted = form.log_error(thetas, data.z)[0]
    deviation = data.blocks[None] - fitted[:, None, None, :]  # [K, B, R, n]
    pull = data.weight * np.clip(deviation, -data.delta, data.delta)
    means = np.einsum("kbrn,kn->kb", pull, direction) / data.num_replicates
    count = means.shape[1]
    return np.asarray((count - 1) / count * np.sum((means - means.mean(axis=1, keepdims=True)) ** 2, axis=1))


def _profile(form: Form, data: FitData, theta: Array, floors: Array) -> Array:
    """Parameters [K, p] of the best fits with given floors [K]."""
    generator = np.random.default_rng(0)
    starts = np.concatenate([theta[None], form.starts(data.z, data.median, 5, generator)])
    thetas = np.tile(starts, (len(floors), 1))
    thetas[:, 0] = np.repeat(form.internal_floor(floors), len(starts))
    free = np.ones(form.num_parameters, bool)
    free[0] = False
    cells = Cells(data.z, data.rows[None], data.weight[None], data.delta)
    found = minimise(form, cells, thetas, free=free, max_steps=100)
    best = found.loss.reshape(len(floors), -1).argmin(axis=1)
    return np.asarray(found.theta.reshape(len(floors), len(starts), -1)[np.arange(len(floors)), best])
