"""A fitted curve: its coefficients with their intervals, what it predicts, and where it meets another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from .curve import Array
from .finding import Finding, Names, name_of
from .forms import Form, build_form
from .jackknife import Estimate, t_quantile
from .refits import Refits

if TYPE_CHECKING:
    from .extrapolation import FormChoice


@dataclass(frozen=True, kw_only=True)
class CurveFit(Finding):
    """A form fitted to the curve of one family.

    Attributes:
        family: whose curve.
        column: name of x in the table.
        form: M1 to M4.
        formula: the form as people write it.
        coefficients: in natural units, by name (`floor`, `amplitude`, `exponent`, `skew`), with intervals that hold
            jointly: all of them at once with the nominal confidence.
        floor: E_inf with the interval of the floor alone; 0 without an interval in M1, which has none by definition.
        correlation: of the floor and the exponent; NaN where the form or the fit has no floor.
        chance: error of chance, where known.
        x: sizes the form is fitted to [n].
        delta: of the Huber loss at each of them, in log error [n].
        loss: sum of Huber losses of all cells.
        num_cells: how many.
        num_starts: random starts of the fit.
        theta: internal parameters [p], see `forms`.
        log_x0: mean of ln x, to which the internal parameters refer.
        refits: the same with data deleted or moved.
        choice: how the form was chosen; None if it was given.
        confidence: nominal, of every interval.
    """

    family: str
    column: str
    form: str
    formula: str
    coefficients: Mapping[str, Estimate]
    floor: Estimate
    correlation: float
    chance: float | None
    x: Array
    delta: Array
    loss: float
    num_cells: int
    num_starts: int
    theta: Array
    log_x0: float
    refits: Refits
    choice: FormChoice | None
    confidence: float

    @property
    def _form(self) -> Form:
        return build_form(self.form, self.chance)

    def predict(self, x: npt.ArrayLike) -> Array:
        """Error at x, any shape."""
        return np.asarray(np.exp(self._log_errors(self.theta[None], x)[0]))

    def band(self, x: npt.ArrayLike) -> tuple[Array, Array]:
        """Ends of the pointwise interval of the fitted error at x; NaN where the fit has no interval.

        Jackknife-t on the log error, over the refits of the chosen form; that the form is right is taken for granted.
        """
        middle = self._log_errors(self.theta[None], x)[0]
        half = t_quantile(0.5 + self.confidence / 2, self.refits.degrees) * np.sqrt(
            self.refits.variance(lambda thetas: self._log_errors(thetas, x))
        )
        return np.asarray(np.exp(middle - half)), np.asarray(np.exp(middle + half))

    def inverse(self, error: npt.ArrayLike) -> Array:
        """x at which the fitted curve has an error, any shape; NaN where it never does."""
        errors = np.asarray(error, float)
        with np.errstate(divide="ignore", over="ignore"):
            z = self._form.inverse(self.theta[None], np.log(errors.ravel()))[0]
            x = np.exp(z + self.log_x0)
        return np.where(np.isfinite(x), x, np.nan).reshape(errors.shape)

    def sentence(self, names: Names | None = None) -> str:
        """See `Finding`."""
        text = f"{name_of(self.family, names)}: {self._equation()} ({self.form}); {self._floor_clause()}"
        if np.isfinite(self.correlation):
            text += f"; floor and exponent correlate at {_short(self.correlation)}"
        if self.choice is not None and not self.choice.by_extrapolation:
            text += f"; the form was not chosen by extrapolation: {self.choice.why}"
        return text + "."

    def _equation(self) -> str:
        value = {name: estimate.value for name, estimate in self.coefficients.items()}
        n = "N" if self.column == "num_train" else "x"
        amplitude, exponent = _short(value["amplitude"]), value["exponent"]
        power = f"{n}^{_short(-exponent)}"
        if self.form == "M1":
            return f"error = {amplitude} {power}"
        floor = _short(value["floor"])
        if self.form == "M2":
            return f"error = {floor} + {amplitude} {power}"
        if self.form == "M3":
            shift = (value["floor"] / value["amplitude"]) ** (1 / exponent)
            return f"error = {amplitude} (1/{n} + {_short(shift)})^{_short(exponent)}"
        assert self.chance is not None
        return f"(error - {floor}) / ({_short(self.chance)} - error)^{_short(value['skew'])} = {amplitude} {power}"

    def _floor_clause(self) -> str:
        if self.form == "M1":
            return "a form without a floor"
        percent = f"{100 * self.confidence:g}% interval"
        if not self.floor.has_interval:
            known = "no interval, as the table has neither replicates nor stated errors"
            return f"floor {_short(self.floor.value)} ({known})"
        low, high = _short(self.floor.low), _short(self.floor.high)
        if self.floor.low == 0:
            return f"no floor is resolved: best {_short(self.floor.value)}, {percent} 0 to {high} if this is the form"
        return f"floor {_short(self.floor.value)}, {percent} {low} to {high} if this is the form"

    def _log_errors(self, thetas: Array, x: npt.ArrayLike) -> Array:
        at = np.asarray(x, float)
        values = self._form.log_error(thetas, np.log(at.ravel()) - self.log_x0)[0]
        return values.reshape(len(thetas), *at.shape)


@dataclass(frozen=True, kw_only=True)
class NoFit(Finding):
    """Why no form could be fitted to a curve.

    Attributes:
        family: whose curve.
        reason: one clause.
    """

    family: str
    reason: str

    def sentence(self, names: Names | None = None) -> str:
        """See `Finding`."""
        return f"{name_of(self.family, names)}: no curve is fitted: {self.reason}."


def fitted_meeting(first: CurveFit, second: CurveFit, low: float, high: float, *, num_grid: int = 2001) -> list[float]:
    """Every x between low and high at which two fitted curves meet, ascending.

    A dense grid in ln x brackets the changes of sign, Brent's method refines them; curves that only touch do not meet,
    nor do identical ones.

    Raises:
        ValueError: the curves run over different quantities, or low and high are not 0 < low < high.
    """
    if first.column != second.column:
        raise ValueError(f"curves over {first.column} and over {second.column} cannot meet: fit both over the same x")
    if not 0 < low < high:
        raise ValueError(f"curves meet between low={low} and high={high}; expected 0 < low < high")

    def gap(log_x: npt.ArrayLike) -> Array:
        x = np.exp(np.asarray(log_x, float))
        return np.asarray(np.log(first.predict(x)) - np.log(second.predict(x)))

    grid = np.linspace(np.log(low), np.log(high), num_grid)
    sign = np.sign(gap(grid))
    seen = np.flatnonzero(sign)
    changes = [(a, b) for a, b in pairwise(seen) if sign[a] != sign[b]]
    return [float(np.exp(brentq(lambda t: float(gap(t)), grid[a], grid[b], xtol=1e-14))) for a, b in changes]


def _short(value: float) -> str:
    """Three significant digits, without the zero before the point."""
    text = f"{value + 0.0:.3g}"  # no minus before a zero
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
