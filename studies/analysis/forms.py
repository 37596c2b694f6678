"""The forms a data curve may have, as Alabdulmohsin et al. (2022, arXiv 2209.06640) number them.

M1  E = A x^-b                            a power law without a floor
M2  E = E_inf + A x^-b                    as in Hoffmann et al. (2022, arXiv 2203.15556)
M3  E = A (1/x + g)^b                     so that E_inf = A g^b
M4  (E - E_inf) / (E_0 - E)^a = A x^-b    sigmoidal; E_0 is the error of chance

Each is written in parameters that may take any real value, and in ln(x / x0), x0 being the geometric mean of the fitted
x, so that amplitude and exponent are nearly uncorrelated:

- `log_floor`, first, in all but M1: ln E_inf; in M4 ln(E_inf / (E_0 - E_inf)). Minus infinity is a floor of zero, and
  the forms are defined there.
- `log_amplitude`: ln A + the share that x0 brings; M4 also takes in (1 - a) ln(E_0 - E_inf), see there.
- `log_exponent`: ln b. In M1 it is b itself, which may be negative: an error that grows with x.
- `log_skew`, in M4 only: ln a.

Shapes: K parameter vectors of p numbers, n values of x. Where z is [n], [K, n] is another for every parameter vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit, logit

from .curve import Array

WITH_FLOOR = np.array([[-40.0, -100.0, -12.0, -15.0], [40.0, 100.0, 2.3, 4.0]])
"""Limits of the internal parameters of the forms with a floor, see `Form.limits`: exponents from 6e-6 to 10."""


class Form(ABC):
    """A parametric curve.

    Attributes:
        name: M1 to M4.
        formula: as people write it.
        coefficients: what its natural coefficients are called, in the order of the internal parameters.
        has_floor: whether the first internal parameter is the floor.
        needs_chance: whether it is defined only where the error of chance is known.
        limits: lowest and highest value [2, p] of the internal parameters that a minimiser need try: beyond them a
            curve is a step, a constant, or the same to a millionth.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    coefficients: ClassVar[tuple[str, ...]]
    has_floor: ClassVar[bool] = True
    needs_chance: ClassVar[bool] = False
    limits: ClassVar[Array]

    @property
    def num_parameters(self) -> int:
        """p."""
        return len(self.coefficients)

    @abstractmethod
    def log_error(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """Log errors [K, n] and their gradient [K, n, p] of parameters [K, p] at z = ln(x / x0) [n]."""

    @abstractmethod
    def natural(self, theta: Array, log_x0: float) -> Array:
        """Coefficients in natural units [K, p], in the order of `coefficients`."""

    @abstractmethod
    def starts(self, z: Array, log_error: Array, num: int, generator: np.random.Generator) -> Array:
        """Random parameters [num, p] whose amplitude suits the median log errors [n] at z [n]."""

    @abstractmethod
    def inverse(self, theta: Array, log_error: Array) -> Array:
        """z [K, m] at which curves have the log errors [m]; NaN where they never do."""

    @property
    def largest_floor(self) -> float:
        """Every floor is below it."""
        return np.inf

    def internal_floor(self, floor: Array) -> Array:
        """The first internal parameter of a floor."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(floor))


class PowerLaw(Form):
    """M1: ln E = a - b z."""

    name = "M1"
    formula = "E = A x^-b"
    coefficients = ("amplitude", "exponent")
    has_floor = False
    limits = np.array([[-100.0, -10.0], [100.0, 10.0]])

    def log_error(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Form`."""
        amplitude, exponent = theta[:, 0, None], theta[:, 1, None]
        fitted = amplitude - exponent * z
        ones = np.ones(fitted.shape)
        return fitted, np.stack([ones, -z * ones], axis=-1)

    def natural(self, theta: Array, log_x0: float) -> Array:
        """See `Form`."""
        return np.stack([np.exp(theta[:, 0] + theta[:, 1] * log_x0), theta[:, 1]], axis=-1)

    def inverse(self, theta: Array, log_error: Array) -> Array:
        """See `Form`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _finite((theta[:, 0, None] - log_error) / theta[:, 1, None])

    def starts(self, z: Array, log_error: Array, num: int, generator: np.random.Generator) -> Array:
        """See `Form`."""
        exponent = generator.uniform(-0.5, 2, num)
        return np.stack([np.median(log_error + exponent[:, None] * z, axis=1), exponent], axis=-1)


class PowerLawWithFloor(Form):
    """M2: ln E = ln(exp(e) + exp(a - b z))."""

    name = "M2"
    formula = "E = E_inf + A x^-b"
    coefficients = ("floor", "amplitude", "exponent")
    limits = WITH_FLOOR[:, :3]

    def log_error(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Form`."""
        floor, amplitude, exponent = theta[:, 0, None], theta[:, 1, None], np.exp(theta[:, 2, None])
        power = amplitude - exponent * z
        share = expit(power - floor)  # of the power law in the error
        return np.logaddexp(floor, power), np.stack([1 - share, share, -share * exponent * z], axis=-1)

    def natural(self, theta: Array, log_x0: float) -> Array:
        """See `Form`."""
        exponent = np.exp(theta[:, 2])
        return np.stack([np.exp(theta[:, 0]), np.exp(theta[:, 1] + exponent * log_x0), exponent], axis=-1)

    def inverse(self, theta: Array, log_error: Array) -> Array:
        """See `Form`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            above = log_error + np.log(-np.expm1(theta[:, 0, None] - log_error))
        return _finite((theta[:, 1, None] - above) / np.exp(theta[:, 2, None]))

    def starts(self, z: Array, log_error: Array, num: int, generator: np.random.Generator) -> Array:
        """See `Form`."""
        floor, exponent = _random_floors(log_error, num, generator), _random_exponents(num, generator)
        above = np.maximum(np.exp(log_error) - floor[:, None], 1e-3 * np.exp(log_error))
        amplitude = np.median(np.log(above) + exponent[:, None] * z, axis=1)
        return np.stack([np.log(floor), amplitude, np.log(exponent)], axis=-1)


class ShiftedPowerLaw(Form):
    """M3: ln E = b ln(exp(a / b - z) + exp(e / b)).

    The shift of the paper's form is g = (E_inf / A)^(1/b); written with the floor in its place, a floor of zero is M1
    and the floor is a parameter with an interval of its own.
    """

    name = "M3"
    formula = "E = A (1/x + (E_inf / A)^(1/b))^b"
    coefficients = ("floor", "amplitude", "exponent")
    limits = WITH_FLOOR[:, :3]

    def log_error(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Form`."""
        floor, amplitude, exponent = theta[:, 0, None], theta[:, 1, None], np.exp(theta[:, 2, None])
        power, level = amplitude / exponent - z, floor / exponent
        share = expit(power - level)
        both = np.logaddexp(power, level)
        with np.errstate(invalid="ignore"):
            from_level = np.where(share < 1, (1 - share) * level, 0.0)
        of_exponent = exponent * (both - share * amplitude / exponent - from_level)
        return exponent * both, np.stack([1 - share, share, of_exponent], axis=-1)

    def natural(self, theta: Array, log_x0: float) -> Array:
        """See `Form`."""
        exponent = np.exp(theta[:, 2])
        return np.stack([np.exp(theta[:, 0]), np.exp(theta[:, 1] + exponent * log_x0), exponent], axis=-1)

    def inverse(self, theta: Array, log_error: Array) -> Array:
        """See `Form`."""
        exponent = np.exp(theta[:, 2, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            above = log_error / exponent + np.log(-np.expm1((theta[:, 0, None] - log_error) / exponent))
        return _finite(theta[:, 1, None] / exponent - above)

    def starts(self, z: Array, log_error: Array, num: int, generator: np.random.Generator) -> Array:
        """See `Form`."""
        floor, exponent = _random_floors(log_error, num, generator), _random_exponents(num, generator)
        inner = log_error / exponent[:, None]
        ratio = np.minimum(np.log(floor)[:, None] / exponent[:, None] - inner, -1e-3)
        amplitude = exponent * np.median(inner + np.log(-np.expm1(ratio)) + z, axis=1)
        return np.stack([np.log(floor), amplitude, np.log(exponent)], axis=-1)


@dataclass(frozen=True)
class Sigmoid(Form):
    """M4: ln s - a ln(1 - s) = A' - b z, with s = (E - E_inf) / (E_0 - E_inf).

    The left side grows with s from minus to plus infinity, so every parameter gives one curve, between floor and
    chance. A' = ln A - b ln x0 - (1 - a) ln(E_0 - E_inf).

    Attributes:
        chance: E_0.
    """

    chance: float

    name = "M4"
    formula = "(E - E_inf) / (E_0 - E)^a = A x^-b"
    coefficients = ("floor", "amplitude", "exponent", "skew")
    needs_chance = True
    limits = WITH_FLOOR

    def log_error(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Form`; the gradient is that of the implicit function."""
        floor, amplitude = expit(theta[:, 0, None]), theta[:, 1, None]
        exponent, skew = np.exp(theta[:, 2, None]), np.exp(theta[:, 3, None])
        v = _solve_sigmoid(amplitude - exponent * z, skew)  # logit of s
        s, rest, grown = _logistic(v)
        slope = rest + skew * s  # of the left side in v
        relative = floor + (1 - floor) * s  # E / E_0
        of_v = (1 - floor) * s * rest / (relative * slope)
        of_floor = floor * (1 - floor) * rest / relative
        gradient = [of_floor, of_v, -of_v * exponent * z, -of_v * skew * grown]
        return np.log(self.chance) + np.log(relative), np.stack(gradient, axis=-1)

    def natural(self, theta: Array, log_x0: float) -> Array:
        """See `Form`."""
        floor, exponent, skew = self.chance * expit(theta[:, 0]), np.exp(theta[:, 2]), np.exp(theta[:, 3])
        span = np.log(self.chance) + np.log(expit(-theta[:, 0]))
        amplitude = np.exp(theta[:, 1] + exponent * log_x0 + (1 - skew) * span)
        return np.stack([floor, amplitude, exponent, skew], axis=-1)

    def inverse(self, theta: Array, log_error: Array) -> Array:
        """See `Form`."""
        floor = expit(theta[:, 0, None])
        relative = np.exp(log_error - np.log(self.chance))
        with np.errstate(divide="ignore", invalid="ignore"):
            s = (relative - floor) / (1 - floor)
            left = np.log(s) - np.exp(theta[:, 3, None]) * np.log1p(-s)
        return _finite((theta[:, 1, None] - left) / np.exp(theta[:, 2, None]))

    def starts(self, z: Array, log_error: Array, num: int, generator: np.random.Generator) -> Array:
        """See `Form`."""
        lowest = np.minimum(log_error, np.log(0.9 * self.chance))
        floor, exponent = _random_floors(lowest, num, generator), _random_exponents(num, generator)
        skew = np.exp(generator.normal(0, 1, num))
        s = np.clip((np.exp(log_error) - floor[:, None]) / (self.chance - floor[:, None]), 1e-3, 1 - 1e-3)
        left = np.log(s) - skew[:, None] * np.log1p(-s)
        amplitude = np.median(left + exponent[:, None] * z, axis=1)
        return np.stack([self.internal_floor(floor), amplitude, np.log(exponent), np.log(skew)], axis=-1)

    @property
    def largest_floor(self) -> float:
        """See `Form`."""
        return self.chance

    def internal_floor(self, floor: Array) -> Array:
        """See `Form`."""
        return np.asarray(logit(np.asarray(floor) / self.chance))


WITHOUT_CHANCE: dict[str, Form] = {form.name: form for form in (PowerLaw(), PowerLawWithFloor(), ShiftedPowerLaw())}


def build_form(name: str, chance: float | None) -> Form:
    """A form by its name; the same name and chance give equal forms.

    Raises:
        ValueError: the name is unknown, or M4 is asked for without the error of chance.
    """
    if name == "M4":
        if chance is None:
            raise ValueError("form M4 needs the error of chance: give chance, for example 0.9 for ten equal classes")
        return Sigmoid(chance)
    if name not in WITHOUT_CHANCE:
        raise ValueError(f"form is {name!r}; expected auto, M1, M2, M3 or M4")
    return WITHOUT_CHANCE[name]


def _finite(z: Array) -> Array:
    return np.asarray(np.where(np.isfinite(z), z, np.nan))


def _random_floors(log_error: Array, num: int, generator: np.random.Generator) -> Array:
    """Floors between a thousandth of the smallest error and nearly all of it."""
    smallest = float(np.exp(np.min(log_error)))
    return np.asarray(smallest * np.clip(generator.uniform(0, 1, num), 1e-3, 0.99))


def _random_exponents(num: int, generator: np.random.Generator) -> Array:
    return np.asarray(np.exp(generator.uniform(np.log(0.05), np.log(3), num)))


def _solve_sigmoid(right: Array, skew: Array) -> Array:
    """v of -ln(1 + exp(-v)) + skew ln(1 + exp(v)) = right.

    The left side grows, and is convex or concave throughout, so Newton's iteration converges from everywhere, in the
    end quadratically: after a step of 1e-9 the error is that of the machine. It starts where the term that outweighs
    the other is all there is.
    """
    below = right < 0
    alone = np.maximum(np.where(below, -right, right / skew), 1e-300)  # what ln(1 + exp(.)) should be
    v = alone + np.log(-np.expm1(-alone))
    v = np.where(below, -v, v)
    for _ in range(60):
        s, rest, grown = _logistic(v)
        residual = skew * grown - (grown - v) - right  # ln(1 + exp(-v)) = ln(1 + exp(v)) - v
        step = residual / (rest + skew * s)
        v = v - step
        if np.all(np.abs(step) <= 1e-9 * (1 + np.abs(v))):
            break
    return np.asarray(v)


def _logistic(v: Array) -> tuple[Array, Array, Array]:
    """1 / (1 + exp(-v)), 1 / (1 + exp(v)) and ln(1 + exp(v)), any shape, from one exponential and one logarithm."""
    small = np.exp(-np.abs(v))
    large = 1 / (1 + small)
    smaller, positive = small * large, v > 0
    share = np.where(positive, large, smaller)
    return share, np.where(positive, smaller, large), np.maximum(v, 0.0) + np.log1p(small)
