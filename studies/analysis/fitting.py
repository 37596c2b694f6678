"""Fitting a form to a curve, robustly and with intervals.

All cells are fitted, not their means: the sum of Huber losses of log errors, as Hoffmann et al. (2022) fit theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from .coefficients import coefficient_intervals, floor_exponent_correlation
from .curve import Curve
from .extrapolation import FormChoice, chosen_form
from .fit_points import below_chance, left_out_near_chance, measured_points
from .fit_search import FitData, fit_data, search
from .fitted_curve import CurveFit, NoFit
from .forms import Form, build_form
from .refits import refitted
from .together import together

FormName = Literal["auto", "M1", "M2", "M3", "M4"]
NUM_STARTS = 100


def fit_curves(
    curves: Mapping[str, Curve],
    *,
    form: FormName = "auto",
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    num_starts: int = NUM_STARTS,
) -> dict[str, CurveFit | NoFit]:
    """`fit_curve` of every family, all at once: it takes a part of the time that one after another takes."""
    fits = [fitted(curve, form, chance, confidence, seed, num_starts) for curve in curves.values()]
    return dict(zip(curves, together(fits), strict=True))


def fit_curve(
    curve: Curve,
    *,
    form: FormName = "auto",
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    num_starts: int = NUM_STARTS,
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
    (fit,) = together([fitted(curve, form, chance, confidence, seed, num_starts)])
    return fit


async def fitted(
    curve: Curve, form: FormName, chance: float | None, confidence: float, seed: int, num_starts: int
) -> CurveFit | NoFit:
    """See `fit_curve`."""
    _check(chance, confidence, num_starts)
    choice = await chosen_form(curve, chance, seed, num_starts) if form == "auto" else None
    chosen = build_form(form if choice is None else choice.chosen, chance)
    measured, left_out = measured_points(curve)
    kept = np.ones(len(measured.x), bool) if chosen.needs_chance else below_chance(measured, chance)
    left_out += left_out_near_chance(measured, kept, chance)
    if (reason := await _reason_against(chosen, measured, kept, chance, seed)) is not None:
        used = f"{int(kept.sum())} sizes of {curve.family}"
        return NoFit(
            method=f"form {chosen.name}", used=used, left_out=tuple(left_out), family=curve.family, reason=reason
        )
    found, data = await search(chosen, fit_data(measured, kept), num_starts, seed)
    theta = found.theta[0]
    refits = await refitted(chosen, data, theta)
    coefficients, floor = await coefficient_intervals(chosen, data, theta, refits, confidence)
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
        correlation=floor_exponent_correlation(chosen, data, theta),
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


async def _reason_against(
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
        power_law, _ = await search(build_form("M1", None), fit_data(curve, kept), 20, seed)
        if (slope := float(power_law.theta[0, 1])) <= 1e-9:
            return (
                f"its error does not fall as {curve.column} grows (as a power law it has the exponent {slope:.3g}), so "
                f"form {form.name} cannot tell a floor from an exponent; M1 can be fitted"
            )
    return None


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
        " of all coefficients hold jointly (Bonferroni), the floor's own is pointwise; all take the form for granted"
    )
