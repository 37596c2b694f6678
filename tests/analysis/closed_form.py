"""Curves and tables whose truth is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from studies.analysis.curve import Curve

SIZES = 2.0 ** np.arange(7, 16)


def prior(num_train: float) -> float:
    """E(N) = 1.5 (1 + 8 / (N - 9)): meets `flexible` at N = 177, E = 11/7."""
    return 1.5 * (1 + 8 / (num_train - 9))


def flexible(num_train: float) -> float:
    return 1 + 64 / (num_train - 65)


def prior_inverse(error: float) -> float:
    return 9 + 8 / (error / 1.5 - 1)


def flexible_inverse(error: float) -> float:
    return 65 + 64 / (error - 1)


def curve_of(errors: object, x: object = SIZES, family: str = "a", **known: object) -> Curve:
    """A curve of errors [R, n] or [n]."""
    rows = np.log(np.atleast_2d(np.asarray(errors, float)))
    names = tuple(str(r) for r in range(len(rows)))
    return Curve(family, "num_train", np.asarray(x, float), rows, names, **known)  # type: ignore[arg-type]


def dense(truth: Callable[[float], float], low: float, high: float, num: int, family: str) -> Curve:
    """A curve without noise at `num` sizes."""
    x = np.geomspace(low, high, num)
    return curve_of([truth(size) for size in x], x, family)


def table_of(rows: dict[str, dict[float, list[float]]]) -> pd.DataFrame:
    """A table from {family: {x: errors by replicate}}; NaN errors are rows with NaN."""
    return pd.DataFrame(
        [
            {"family": family, "num_train": x, "replicate": r, "error": error, "num_test": 1000}
            for family, sizes in rows.items()
            for x, errors in sizes.items()
            for r, error in enumerate(errors)
        ]
    )


def noisy_table(
    truths: dict[str, Callable[[float], float]],
    sizes: tuple[float, ...] = (64, 256, 1024, 4096),
    replicates: int = 4,
    seed: int = 0,
    noise: float = 0.02,
) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return table_of(
        {
            family: {
                x: [truth(x) * math.exp(noise * generator.standard_normal()) for _ in range(replicates)] for x in sizes
            }
            for family, truth in truths.items()
        }
    )
