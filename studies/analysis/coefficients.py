"""The coefficients of a fitted form with their intervals."""

from __future__ import annotations

import numpy as np

from .curve import Array
from .fit_search import FitData
from .floor_interval import floor_intervals
from .forms import Form
from .jackknife import Estimate, t_quantile
from .refits import Refits


async def coefficient_intervals(
    form: Form, data: FitData, theta: Array, refits: Refits, confidence: float
) -> tuple[dict[str, Estimate], Estimate]:
    """All coefficients with Bonferroni's joint intervals, each at 1 - (1 - confidence) / p; and the floor alone.

    With R - 1 < p degrees of freedom the covariance of p coefficients is singular, and Hotelling's ellipsoid undefined;
    Bonferroni's box needs no covariance.
    """
    each = 1 - (1 - confidence) / form.num_parameters
    values = form.natural(theta[None], data.log_x0)[0]
    estimates, floor = {}, Estimate(0.0, np.nan, np.nan, confidence, 0)
    for index, (name, value) in enumerate(zip(form.coefficients, values.tolist(), strict=True)):
        if name == "floor":
            alone, joint = await floor_intervals(form, data, theta, (confidence, each))
            floor = Estimate(value, *alone, confidence, refits.degrees)
            estimates[name] = Estimate(value, *joint, confidence, refits.degrees)
        else:
            estimates[name] = _jackknifed(form, data, theta, refits, index, each, confidence)
    return estimates, floor


def _jackknifed(
    form: Form, data: FitData, theta: Array, refits: Refits, index: int, each: float, confidence: float
) -> Estimate:
    """The jackknife-t interval of a coefficient at confidence `each`, on its logarithm where it cannot be negative."""
    may_be_negative = form.coefficients[index] == "exponent" and not form.has_floor  # M1

    def scaled(thetas: Array) -> Array:
        natural = form.natural(thetas, data.log_x0)[:, index]
        return natural if may_be_negative else np.log(natural)

    value = float(scaled(theta[None])[0])
    half = t_quantile(0.5 + each / 2, refits.degrees) * float(np.sqrt(refits.variance(scaled)))
    estimate = Estimate(value, value - half, value + half, confidence, refits.degrees)
    return estimate if may_be_negative else estimate.exponentiated()


def floor_exponent_correlation(form: Form, data: FitData, theta: Array) -> float:
    """Of the estimates of floor and exponent when the cells scatter independently, from the curvature of the loss."""
    if not form.has_floor or np.isneginf(theta[0]):
        return np.nan
    residual, gradient = data.residuals(form, theta[None])
    inside = (data.weight * (np.abs(residual[0]) <= data.delta)).sum(axis=0)
    curvature = np.einsum("n,np,nq->pq", inside, gradient[0], gradient[0])
    if np.linalg.matrix_rank(curvature) < len(theta):
        return np.nan
    covariance = np.linalg.inv(curvature)
    where = form.coefficients.index("exponent")
    return float(covariance[0, where] / np.sqrt(covariance[0, 0] * covariance[where, where]))
