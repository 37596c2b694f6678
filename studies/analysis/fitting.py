"""Fitting a form to a curve, robustly and with intervals.

All cells are fitted, not their means: the sum of Huber losses of log errors, as Hoffmann et al. (2022) fit theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from .curve import Array, Curve
from .extrapolation import FormChoice, choose_form
from .fit_points import below_chance, left_out_near_chance, measured_points
from .fit_search import FitData, fit_data, refit, search
from .fitted_curve import CurveFit, NoFit, Refits
from .floor_interval import floor_intervals
from .forms import Form, build_form
from .jackknife import Estimate, t_quantile
from .robust import Cells, residuals

FormName = Literal["auto", "M1", "M2", "M3", "M4"]


def fit_curves(
    curves: Mapping[str, Curve],
    *,
    form: FormName = "auto",
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    num_starts: int = 100,
) -> dict[str, CurveFit | NoFit]:
    """`fit_curve` of every family."""
    return {
        family: fit_curve(curve, form=form, chance=chance, confidence=confidence, seed=seed, num_starts=num_starts)
        for family, curve in curves.items()
    }


def fit_curve(
    curve: Curve,
    *,
    form: FormName = "auto",
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    num_starts: int = 100,
) -> CurveFit | NoFit:
    """A form fitted to the curve of one family.

    Args:
        curve: its log errors; cells that are not finite are left out.
        form: M1 to M4, or `auto`: the one that extrapolates best, see `choose_form`.
        chance: error of a classifier that guesses. Where it is given, M1 to M3 leave out points above 0.8 x chance.
        confidence: of all intervals.
        seed: of the random starts, together with the numbers of the data.
        num_starts: random starts of the full fit.

    Returns:
        The fit, or `NoFit` with the reason where the form has more parameters than the curve has sizes, or has a floor
        and the error does not fall with x.

    Raises:
        ValueError: the form is unknown, M4 is asked for without chance, or an argument is out of its range.
    """
    _check(chance, confidence, num_starts)
    choice = choose_form(curve, chance=chance, seed=seed, num_starts=num_starts) if form == "auto" else None
    chosen = build_form(form if choice is None else choice.chosen, chance)
    measured, left_out = measured_points(curve)
    kept = np.ones(len(measured.x), bool) if chosen.needs_chance else below_chance(measured, chance)
    left_out += left_out_near_chance(measured, kept, chance)
    if (reason := _reason_against(chosen, measured, kept, chance, seed)) is not None:
        used = f"{int(kept.sum())} sizes of {curve.family}"
        return NoFit(
            method=f"form {chosen.name}", used=used, left_out=tuple(left_out), family=curve.family, reason=reason
        )
    found, data = search(chosen, fit_data(measured, kept), num_starts, seed)
    theta = found.theta[0]
    refits = _refits(chosen, data, theta)
    coefficients, floor = _coefficients(chosen, data, theta, refits, confidence)
    return CurveFit(
        method=_method(data, num_starts, choice),
        used=_used(measured, kept, data),
        left_out=tuple(left_out),
        family=curve.family,
        column=curve.column,
        form=chosen.name,
        formula=chosen.formula,
        coefficients=coefficients,
        floor=floor,
        correlation=_correlation(chosen, data, theta),
        chance=chance,
        x=measured.x[kept],
        delta=data.delta,
        loss=float(found.loss[0]),
        num_cells=data.num_cells,
        num_starts=num_starts,
        theta=theta,
        log_x0=data.log_x0,
        refits=refits,
        choice=choice,
        confidence=confidence,
    )


def _check(chance: float | None, confidence: float, num_starts: int) -> None:
    if chance is not None and not (chance > 0 and np.isfinite(chance)):
        raise ValueError(f"chance is {chance}; expected a positive error, for example 0.9 for ten equal classes")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, for example 0.95")
    if num_starts < 1:
        raise ValueError(f"num_starts is {num_starts}; expected at least 1, and 100 for a fit to be reported")


def _reason_against(
    form: Form, curve: Curve, kept: npt.NDArray[np.bool_], chance: float | None, seed: int
) -> str | None:
    """Why a form cannot be fitted to the kept points; None if it can."""
    num_sizes = int(kept.sum())
    if num_sizes < form.num_parameters:
        below = "" if chance is None or form.needs_chance else f" at most 0.8 x chance ({chance:g})"
        return (
            f"form {form.name} has {form.num_parameters} parameters and the curve {num_sizes} "
            f"size{'' if num_sizes == 1 else 's'} with an error{below}"
        )
    if form.has_floor:
        slope = float(search(build_form("M1", None), fit_data(curve, kept), 20, seed)[0].theta[0, 1])
        if slope <= 1e-9:
            return (
                f"its error does not fall as {curve.column} grows (as a power law it has the exponent {slope:.3g}), so "
                f"form {form.name} cannot tell a floor from an exponent; M1 can be fitted"
            )
    return None


def _refits(form: Form, data: FitData, theta: Array) -> Refits:
    """The fit with each replicate, then each block deleted; or with each point moved by its stated error."""
    none = np.empty((0, len(theta)))
    no_shift = np.empty((2, 0, len(theta)))
    if data.num_replicates > 1:
        without = data.weight * (1 - np.eye(data.num_replicates)[:, :, None])
        replicates = refit(form, Cells(data.z, data.rows[None], without, data.delta), theta)
        blocks = none
        if data.blocks is not None:
            blocks = refit(form, Cells(data.z, data.blocks, data.weight[None], data.delta), theta)
        return Refits(replicates, blocks, no_shift, data.num_replicates - 1)
    if data.standard_error is not None:
        moved = np.diag(data.standard_error)[:, None, :]
        shifted = [
            refit(form, Cells(data.z, data.rows[None] + sign * moved, data.weight[None], data.delta), theta)
            for sign in (1, -1)
        ]
        return Refits(none, none, np.stack(shifted), np.inf)
    return Refits(none, none, no_shift, 0)


def _coefficients(
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
            alone, joint = floor_intervals(form, data, theta, (confidence, each))
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
    with np.errstate(over="ignore"):
        return estimate if may_be_negative else estimate.exponentiated()


def _correlation(form: Form, data: FitData, theta: Array) -> float:
    """Of the estimates of floor and exponent when the cells scatter independently, from the curvature of the loss."""
    if not form.has_floor or np.isneginf(theta[0]):
        return np.nan
    residual, gradient = residuals(form, data.cells, theta[None])
    inside = (data.weight * (np.abs(residual[0]) <= data.delta)).sum(axis=0)
    curvature = np.einsum("n,np,nq->pq", inside, gradient[0], gradient[0])
    if np.linalg.matrix_rank(curvature) < len(theta):
        return np.nan
    covariance = np.linalg.inv(curvature)
    where = form.coefficients.index("exponent")
    return float(covariance[0, where] / np.sqrt(covariance[0, 0] * covariance[where, where]))


def _used(curve: Curve, kept: npt.NDArray[np.bool_], data: FitData) -> str:
    x = curve.x[kept]
    number, unit = curve.quantity.number, curve.quantity.unit
    return f"{data.num_cells} cells of {curve.family} at {len(x)} sizes, {number(x[0])} to {number(x[-1])} {unit}"


def _method(data: FitData, num_starts: int, choice: FormChoice | None) -> str:
    """How a fit was reached, for a methods section."""
    if data.num_replicates > 1:
        delta = "twice the log standard deviation of the replicates at a size"
        interval = (
            f"the floor's interval holds every floor that a score test over whole replicates does not reject"
            f" (Student's t, {data.num_replicates - 1} degrees of freedom), the others are delete-one-replicate"
            " jackknife-t intervals on a log scale"
        )
        if data.blocks is not None:
            interval += f"; the variance of {len(data.blocks)} blocks of shared test images is added"
    elif data.standard_error is not None:
        delta = "twice the stated standard error of a point"
        interval = "intervals propagate the stated standard errors"
    else:
        delta = "twice the robust standard deviation of the residuals of a least-squares fit"
        interval = "no intervals: the table has neither replicates nor stated errors"
    form = "the form is given" if choice is None else f"form: {choice.method}"
    return (
        f"sum of Huber losses of log errors over all cells, delta {delta} (at least 0.001), minimised from {num_starts}"
        f" random starts of which the best 12 after 20 steps are followed to the end; {form}; {interval}; the intervals"
        " of all coefficients hold jointly (Bonferroni), the floor's own is pointwise"
    )
