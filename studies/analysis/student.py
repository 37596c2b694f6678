"""Student's t and the chi-square distribution, by the special functions beneath `scipy.stats`.

The numbers are the same; loading `scipy.stats` takes a quarter of a second, which every report would wait for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from .curve import Array


def t_quantiles(probability: float, degrees: npt.ArrayLike) -> Array:
    """Quantiles of Student's t, the normal one for infinitely many degrees of freedom; shape as `degrees`."""
    of = np.asarray(degrees, float)
    endless = np.isinf(of)
    student = special.stdtrit(np.where(endless, 1, of), probability)
    return np.asarray(np.where(endless, special.ndtri(probability), student))


def t_below(value: npt.ArrayLike, degrees: float) -> Array:
    """Probability that a variable distributed as Student's t is below `value`, any shape."""
    at = np.asarray(value, float)
    return np.asarray(special.ndtr(at) if np.isinf(degrees) else special.stdtr(degrees, at))


def chi_square_quantile(probability: float, degrees: float) -> float:
    """Quantile of the chi-square distribution."""
    return float(2 * special.gammaincinv(degrees / 2, probability))
