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
from .robust import minimise, residuals

NEGLIGIBLE = 1e-6
"""Of the smallest error: a floor below it is called zero."""


def floor_intervals(
    form: Form, data: FitData, theta: Array, confidences: tuple[float, ...]
) -> list[tuple[float, float]]:
    """Ends of the intervals of the floor of a fit [p]; NaN without replicates and stated errors.

    A lower end is 0 where no floor at all is not rejected; an upper one is the largest median error where none below
    it is.
    """
    degrees = np.inf if data.standard_error is not None else data.num_replicates - 1
    if degrees == 0:
        return [(np.nan, np.nan)] * len(confidences)
    estimate = float(form.natural(theta[None], data.log_x0)[0, 0])
    lowest, highest = NEGLIGIBLE * float(np.exp(data.median.min())), float(np.exp(data.median.max()))
    highest = min(highest, 0.999 * form.largest_floor)
    if estimate >= highest:
        return [(estimate, estimate)] * len(confidences)
    quantiles = [t_quantile(0.5 + confidence / 2, degrees) for confidence in confidences]
    inside = max(estimate, lowest)
    fraction = np.concatenate([[0.0], np.geomspace(1e-4, 1, 16)])
    upwards = inside + fraction * (highest - inside)
    high = _ends(form, data, theta, upwards, -1, quantiles)
    low = np.zeros(len(quantiles))
    if inside > lowest:
        downwards = np.union1d(inside + fraction * (lowest - inside), np.geomspace(lowest, inside, 8))[::-1]
        low = _ends(form, data, theta, downwards, 1, quantiles)
    return [(0.0 if a <= lowest else float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _ends(form: Form, data: FitData, theta: Array, floors: Array, sign: int, quantiles: list[float]) -> Array:
    """Per quantile, the first of floors [K], from the estimate outwards, at which sign t exceeds it; the last if none.

    The gap before it is then divided by 4 five times.
    """
    starts = np.concatenate([theta[None], form.starts(data.z, data.median, 2, np.random.default_rng(0))])
    thetas = _profile(form, data, floors, np.tile(starts, (len(floors), 1, 1)))
    t = sign * score_t(form, data, thetas)
    ends = np.full(len(quantiles), floors[-1])
    firsts = [int((t[1:] > quantile).argmax()) + 1 if (t[1:] > quantile).any() else None for quantile in quantiles]
    for which, (first, quantile) in enumerate(zip(firsts, quantiles, strict=True)):
        if first is None:
            continue
        near, far, warm = floors[first - 1], floors[first], thetas[[first - 1, first]]
        for _ in range(5):
            between = near + (far - near) * np.array([0.25, 0.5, 0.75])
            fitted = _profile(form, data, between, np.tile(warm, (len(between), 1, 1)))
            rejected = np.append(sign * score_t(form, data, fitted) > quantile, True)
            k = int(rejected.argmax())
            near, far = np.concatenate([[near], between, [far]])[k : k + 2]
        ends[which] = (near + far) / 2
    return ends


def score_t(form: Form, data: FitData, thetas: Array) -> Array:
    """Student's t of the floors of parameters [K, p] whose others are fitted; positive where a floor is too low."""
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


def _profile(form: Form, data: FitData, floors: Array, starts: Array) -> Array:
    """Parameters [K, p] of the best fits with given floors [K], from starts [K, S, p]."""
    count, num_starts, num_parameters = starts.shape
    thetas = starts.reshape(-1, num_parameters)
    thetas[:, 0] = np.repeat(form.internal_floor(floors), num_starts)
    found = minimise(form, data.cells, thetas, free=np.arange(num_parameters) > 0, max_steps=100, tolerance=1e-9)
    best = found.loss.reshape(count, num_starts).argmin(axis=1)
    return np.asarray(found.theta.reshape(count, num_starts, -1)[np.arange(count), best])
