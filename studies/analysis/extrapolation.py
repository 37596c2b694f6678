"""Which form a curve has, asked of the sizes it was not fitted to.

How well a form describes the points it was fitted to says little about the next ones: more parameters always describe
better. So the forms are fitted to the lower sizes and judged on the two largest (Alabdulmohsin et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .curve import Curve
from .finding import Finding, LeftOut, Names, name_of
from .fit_points import below_chance, left_out_near_chance, measured_points
from .fit_search import fit_data, search
from .forms import build_form
from .together import together

DEFAULT_FORM = "M2"
FORM_NAMES = ("M1", "M2", "M3", "M4")  # M1 has the fewest parameters, M4 the most
NUM_HELD_OUT = 2
SPARE_SIZES = 2
"""Sizes a form is fitted to beyond its number of parameters before its extrapolation is judged."""
TIE = 1e-6
"""In root mean square log error: forms nearer to each other than that extrapolate equally well."""


@dataclass(frozen=True, kw_only=True)
class FormChoice(Finding):
    """The form of a curve, chosen by how well it extrapolates.

    Attributes:
        family: whose curve.
        chosen: M1 to M4.
        by_extrapolation: whether at least two forms competed; otherwise `chosen` is the default, M2.
        why: one clause.
        log_errors: root mean square log error on the held-out sizes of every form that competed.
        held_out: the two largest sizes, which no form saw.
    """

    family: str
    chosen: str
    by_extrapolation: bool
    why: str
    log_errors: Mapping[str, float]
    held_out: tuple[float, ...]

    def sentence(self, names: Names | None = None) -> str:
        """See `Finding`."""
        how = "chosen by extrapolation" if self.by_extrapolation else "not chosen by extrapolation"
        return f"{name_of(self.family, names)}: form {self.chosen}, {how}: {self.why}."


def choose_form(curve: Curve, *, chance: float | None = None, seed: int = 0, num_starts: int = 100) -> FormChoice:
    """The form that extrapolates best to the two largest sizes.

    Args:
        curve: of one family.
        chance: error of chance; without it M4 does not compete.
        seed: of the random starts.
        num_starts: random starts of each fit.

    Returns:
        The choice. A form competes if it has at least two fitting sizes more than parameters; of forms that
        extrapolate equally well, the one with the fewest parameters is chosen. If fewer than two compete, M2.
    """
    (choice,) = together([chosen_form(curve, chance, seed, num_starts)])
    return choice


async def chosen_form(curve: Curve, chance: float | None, seed: int, num_starts: int) -> FormChoice:
    """See `choose_form`."""
    curve, left_out = measured_points(curve)
    kept = below_chance(curve, chance)
    left_out += left_out_near_chance(curve, kept, chance)
    held_out = np.zeros(len(curve.x), bool)
    held_out[np.flatnonzero(kept)[-NUM_HELD_OUT:]] = True
    lower = curve.x < np.min(curve.x[held_out], initial=np.inf)
    log_errors: dict[str, float] = {}
    for name in FORM_NAMES:
        if name == "M4" and chance is None:
            left_out.append(LeftOut("form M4", "it needs the error of chance, which is not given"))
            continue
        needed = build_form(name, chance).num_parameters + SPARE_SIZES
        fitted = lower if name == "M4" else lower & kept
        if (have := int(fitted.sum())) < needed or held_out.sum() < NUM_HELD_OUT:
            reason = f"needs {needed} sizes below the {NUM_HELD_OUT} held out, the curve has {have}"
            left_out.append(LeftOut(f"form {name}", reason))
            continue
        log_errors[name] = await _extrapolation_error(name, curve, fitted, held_out, chance, seed, num_starts)
    sizes = tuple(float(x) for x in curve.x[held_out])
    competed = len(log_errors) > 1
    chosen = DEFAULT_FORM
    if competed:
        best = min(log_errors.values())
        chosen = next(name for name, value in log_errors.items() if value <= best + TIE)
    return FormChoice(
        method=(
            f"each form fitted to all sizes but the {NUM_HELD_OUT} largest and judged by its root mean square log error"
            f" against the mean log errors there; a form needs {SPARE_SIZES} fitting sizes more than parameters"
        ),
        used=f"{int(kept.sum())} sizes of {curve.family}",
        left_out=tuple(left_out),
        family=curve.family,
        chosen=chosen,
        by_extrapolation=competed,
        why=_why(curve, log_errors, sizes, int(kept.sum())),
        log_errors=log_errors,
        held_out=sizes,
    )


async def _extrapolation_error(
    name: str,
    curve: Curve,
    fitted: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    chance: float | None,
    seed: int,
    num_starts: int,
) -> float:
    """Root mean square log error of a form at the held-out points."""
    form, data = build_form(name, chance), fit_data(curve, fitted)
    found, _ = await search(form, data, num_starts, seed)
    predicted = form.log_error(found.theta, curve.log_x[held_out] - data.log_x0)[0][0]
    return float(np.sqrt(np.mean((predicted - curve.mean[held_out]) ** 2)))


def _why(curve: Curve, log_errors: Mapping[str, float], held_out: tuple[float, ...], num_sizes: int) -> str:
    if len(log_errors) < 2:
        competing = "no form" if not log_errors else f"only {next(iter(log_errors))}"
        return f"with {num_sizes} sizes {competing} can compete, and {DEFAULT_FORM} is the default"
    listed = ", ".join(f"{name} {value:.3f}" for name, value in log_errors.items())
    where = " and ".join(curve.quantity.number(x) for x in held_out)
    return f"root mean square log error at {where} {curve.quantity.unit}: {listed}"
