"""The error a family would keep with unlimited x, whatever form its curve is given.

A floor is an extrapolation: it depends on the form as much as on the data. M2 and M3 have the same number of parameters
and approach their floors differently; a curve of few sizes fits both and gives two floors whose intervals need not even
overlap. The interval stated here is therefore the hull of those of M2 and M3, and of the form chosen by extrapolation
where that is another one with a floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .curve import Curve
from .finding import Finding, Names, name_of
from .fitted_curve import CurveFit, NoFit
from .fitting import NUM_STARTS, FormName, fitted
from .jackknife import Estimate
from .together import together

FORMS_WITH_FLOOR: tuple[FormName, ...] = ("M2", "M3")
FEWEST_SIZES = 4
"""Three parameters through three sizes leave nothing by which to tell a floor from a slope."""


@dataclass(frozen=True, kw_only=True)
class Floor(Finding):
    """The floor of one family over several forms.

    Attributes:
        family: whose.
        by_form: the floor under each form that could be fitted, with its own interval.
        value: under the form chosen by extrapolation where it has a floor, else under M2, else under M3.
        low: smallest lower end over the forms; NaN without intervals.
        high: largest upper end.
        confidence: nominal coverage of every interval; the hull covers at least as often.
        reason: why no form could be fitted; empty otherwise.
    """

    family: str
    by_form: Mapping[str, Estimate]
    value: float
    low: float
    high: float
    confidence: float
    reason: str = ""

    def contains(self, error: float) -> bool:
        """Whether an error lies in the hull."""
        return self.low <= error <= self.high

    def sentence(self, names: Names | None = None) -> str:
        """The floor and its interval over all forms."""
        name = name_of(self.family, names)
        if not self.by_form:
            return f"{name}: no floor can be fitted: {self.reason}."
        forms = " and ".join(self.by_form)
        if math.isnan(self.low):
            return f"{name}: floor {self.value:.3g}, without an interval for want of replicates (forms {forms})."
        each = "; ".join(f"{form} {one.low:.3g} to {one.high:.3g}" for form, one in self.by_form.items())
        span = f"{100 * self.confidence:g}% interval {self.low:.3g} to {self.high:.3g} over forms {forms} ({each})"
        if self.low == 0:
            return f"{name}: no floor is resolved, best {self.value:.3g}, {span}."
        return f"{name}: floor {self.value:.3g}, {span}."


def floor_of(
    curve: Curve,
    fit: CurveFit | NoFit | None = None,
    *,
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Floor:
    """The floor of a curve over all forms that have one.

    Args:
        curve: the measured curve.
        fit: of the form chosen by extrapolation, where there is one; made with the same settings, it is not made anew.
        chance: error of guessing.
        confidence: of the intervals.
        seed: of the random starts of fits.
    """
    (floor,) = together([_floor(curve, fit, chance, confidence, seed)])
    return floor


def floors_of(
    curves: Mapping[str, Curve],
    fits: Mapping[str, CurveFit | NoFit],
    *,
    chance: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Floor]:
    """`floor_of` of every family, all at once."""
    floors = [_floor(curve, fits.get(family), chance, confidence, seed) for family, curve in curves.items()]
    return dict(zip(curves, together(floors), strict=True))


async def _floor(
    curve: Curve, fit: CurveFit | NoFit | None, chance: float | None, confidence: float, seed: int
) -> Floor:
    """See `floor_of`."""
    known = {fit.form: fit} if isinstance(fit, CurveFit) else {}
    fits = [
        known.get(form) or await fitted(curve, form, chance, confidence, seed, NUM_STARTS) for form in FORMS_WITH_FLOOR
    ]
    if isinstance(fit, CurveFit) and fit.form not in ("M1", *FORMS_WITH_FLOOR):
        fits.append(fit)
    usable = [one for one in fits if isinstance(one, CurveFit) and len(one.x) >= FEWEST_SIZES]
    by_form = {one.form: one.floor for one in usable}
    chosen = fit.form if isinstance(fit, CurveFit) and fit.form in by_form else next(iter(by_form), None)
    reasons = [one.reason for one in fits if isinstance(one, NoFit)]
    reasons.append(f"fewer than {FEWEST_SIZES} sizes cannot tell a floor from a slope.")
    left_out = next((one.left_out for one in fits), ())
    return Floor(
        method="floors of M2 and M3, each with its score-test interval over replicates, and the hull of these",
        used=f"{curve.family}, {len(curve.x)} values of {curve.column}, {curve.num_replicates} replicates",
        left_out=left_out,
        family=curve.family,
        by_form=by_form,
        value=by_form[chosen].value if chosen else math.nan,
        low=min((one.low for one in by_form.values()), default=math.nan),
        high=max((one.high for one in by_form.values()), default=math.nan),
        confidence=confidence,
        reason=reasons[0] if reasons and not by_form else "",
    )
