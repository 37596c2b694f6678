"""The interval of a floor: every floor that the replicates do not reject.

At a candidate floor the other parameters are fitted. Each replicate then pulls the floor up or down by its *efficient
score*: the derivative of its Huber losses along the floor, cleared of what the other parameters could absorb. The mean
of R scores over its standard error is Student's t with R - 1 degrees, and the interval is where it stays within the
quantile: a score test, inverted, its variance taken over whole replicates (Boos 1992, The American Statistician 46).

A floor often ends at zero, and its estimate is skewed: a t-interval around it is wrong there on any scale, but the
scores, being nearly linear in the data, are not, and zero needs no special case. Where all replicates share their test
images, the delete-one jackknife of the mean score over blocks of them is added to its variance.

Measured coverage of the nominal 95% interval in simulated studies, M2 given, a standard deviation of .03 per replicate
and .05 per cell in log error, 3, 5 and 10 replicates, 200 studies each (the standard error of a coverage is .015):

    sizes              E_inf   A    b     score test         jackknife-t on E_inf   jackknife-t on ln E_inf
    9, by factors 2    .16     6    .5    .940 .940 .955     .945 .940 .955         .950 .935 .960
                       .0625   1.9  .41   .945 .940 .945     .960 .945 .945         .960 .940 .950
                       .05     3.6  .35   .945 .940 .940     .960 .940 .945         .910 .955 .960
                       0       3.6  .35   .975 .975 .980     .980 .965 .980         undefined
    5, by factors 4    .16     6    .5    .960 .970 .970     .960 .965 .975         .965 .970 .980
                       .0625   1.9  .41   .965 .960 .960     .970 .965 .965         .975 .955 .960
                       .05     3.6  .35   .970 .970 .950     .940 .950 .945         .835 .885 .940

With an error of .04 from 20 blocks of test images that all replicates share (150 studies, .02 per replicate, .03 per
cell, the second curve at 9 sizes) it covered 1.0, .98 and .953; without the blocks .86, .75 and .63.
"""

from __future__ import annotations

import numpy as np

from .curve import Array
from .fit_search import FitData
from .forms import Form
from .jackknife import jackknife_variance, t_quantile
from .together import Minimisation

NEGLIGIBLE = 1e-6
"""Of the smallest error: a floor below it is called zero."""
INERT = 1e-8
"""A parameter whose curvature is below this part of the largest does not move the curve."""


async def floor_intervals(
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
    downwards = inside + fraction * (lowest - inside)
    if inside > lowest:
        downwards = np.union1d(downwards, np.geomspace(lowest, inside, 8))[::-1]
    low, high = await _ends(form, data, theta, (downwards, upwards), quantiles)
    return [(0.0 if a <= lowest else a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


async def _ends(
    form: Form, data: FitData, theta: Array, ways: tuple[Array, Array], quantiles: list[float]
) -> tuple[Array, Array]:
    """The first rejected floors on the ways down and up from the estimate, one per quantile; the last floor if none is.

    The gap before each is then divided by 4 five times, all together.
    """
    starts = np.concatenate([theta[None], form.starts(data.z, data.median, 2, np.random.default_rng(0))])
    brackets, warm, place, signed = [], [], [], []
    ends = [np.full(len(quantiles), way[-1]) for way in ways]
    floors = np.concatenate(ways)
    profile = await _profile(form, data, floors, np.tile(starts, (len(floors), 1, 1)))
    profiles, tested = (np.split(each, [len(ways[0])]) for each in (profile, score_t(form, data, profile)))
    for which, (way, sign) in enumerate(zip(ways, (1, -1), strict=True)):
        thetas, t = profiles[which], sign * tested[which]
        for index, quantile in enumerate(quantiles):
            rejected = np.flatnonzero(t[1:] > quantile)
            if len(rejected):
                first = int(rejected[0])
                brackets.append(way[first : first + 2])
                warm.append(thetas[first : first + 2])
                place.append((which, index))
                signed.append(sign * quantile)
    if not brackets:
        return ends[0], ends[1]
    gap, starts, limit = np.array(brackets), np.repeat(np.array(warm), 3, axis=0), np.array(signed)[:, None]
    for _ in range(5):
        between = gap[:, :1] + np.diff(gap) * np.array([0.25, 0.5, 0.75])
        profile = await _profile(form, data, between.ravel(), starts.copy())
        t = score_t(form, data, profile).reshape(between.shape)
        accepted = np.sum(np.cumprod(t * np.sign(limit) <= np.abs(limit), axis=1), axis=1)
        nodes = np.concatenate([gap[:, :1], between, gap[:, 1:]], axis=1)
        gap = np.stack([nodes[np.arange(len(gap)), accepted + shift] for shift in (0, 1)], axis=1)
    for (which, index), end in zip(place, gap.mean(axis=1), strict=True):
        ends[which][index] = end
    return ends[0], ends[1]


def score_t(form: Form, data: FitData, thetas: Array) -> Array:
    """Student's t of the floors of parameters [K, p] whose others are fitted; positive where a floor is too low."""
    residual, gradient = data.residuals(form, thetas)
    inside = data.weight * (np.abs(residual) <= data.delta)  # the loss is quadratic there
    curvature = np.einsum("kn,knp,knq->kpq", inside.sum(axis=1), gradient, gradient)
    own = np.einsum("kpp->kp", curvature)
    # A parameter at the end of its range, as the skew of M4 at 0, does nothing and can absorb nothing.
    moving = own > INERT * own.max(axis=1, keepdims=True)
    curvature = np.where(moving[:, :, None] & moving[:, None, :], curvature, 0.0)
    size = np.where(moving, np.sqrt(np.where(moving, own, 1.0)), 1.0)
    scaled = curvature / (size[:, :, None] * size[:, None, :]) + 1e-12 * np.eye(form.num_parameters)
    scaled = scaled + np.where(moving, 0.0, 1.0)[:, :, None] * np.eye(form.num_parameters)
    absorbed = np.linalg.solve(scaled[:, 1:, 1:], scaled[:, 1:, :1])[:, :, 0] * size[:, :1] / size[:, 1:]
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
    return jackknife_variance(means.T)


async def _profile(form: Form, data: FitData, floors: Array, starts: Array) -> Array:
    """Parameters [K, p] of the best fits with given floors [K], from starts [K, S, p]."""
    count, num_starts, num_parameters = starts.shape
    thetas = starts.reshape(-1, num_parameters)
    thetas[:, 0] = np.repeat(form.internal_floor(floors), num_starts)
    found = await Minimisation(form, data.cells, thetas, floor_given=True, max_steps=100, tolerance=1e-9)
    best = found.loss.reshape(count, num_starts).argmin(axis=1)
    return np.asarray(found.theta.reshape(count, num_starts, -1)[np.arange(count), best])
