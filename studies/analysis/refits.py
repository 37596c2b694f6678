"""Fits of slightly changed data, whose scatter is the variance of a fit and of anything computed from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .curve import Array
from .fit_search import FitData, refit
from .forms import Form
from .jackknife import jackknife_variance


@dataclass(frozen=True)
class Refits:
    """Parameters fitted again to slightly changed data.

    Attributes:
        replicates: with one replicate deleted [R, p]; empty without replicates.
        blocks: with one block of test images deleted [B, p]; empty where blocks are not known.
        shifted: with one point moved by plus, then minus its stated standard error [2, n, p]; empty unless there are
            no replicates and the table states errors.
        degrees: of freedom: R - 1, infinite for stated errors, 0 where nothing is known of the uncertainty.
    """

    replicates: Array
    blocks: Array
    shifted: Array
    degrees: float

    def variance(self, of: Callable[[Array], Array]) -> Array:
        """Variance of a function of parameters, [K, p] -> [K, ...], as [...]; NaN where it is not known."""
        shape = np.shape(of(self.replicates if len(self.replicates) else self.shifted[0]))[1:]
        if self.degrees == 0:
            return np.full(shape, np.nan)
        if self.shifted.size:
            return np.asarray(np.sum(((of(self.shifted[0]) - of(self.shifted[1])) / 2) ** 2, axis=0))
        parts = [jackknife_variance(of(deleted)) for deleted in (self.replicates, self.blocks) if len(deleted)]
        return np.asarray(sum(parts, np.zeros(shape)))


async def refitted(form: Form, data: FitData, theta: Array) -> Refits:
    """The fit with each replicate, then each block deleted; or with each point moved by its stated error."""
    none = np.empty((0, len(theta)))
    no_shift = np.empty((2, 0, len(theta)))
    if data.num_replicates > 1:
        replicates = await refit(form, data.without_each_replicate, data.num_replicates, theta)
        blocks = none
        if data.blocks is not None:
            blocks = await refit(form, data.every_cell(data.blocks, data.weight[None]), len(data.blocks), theta)
        return Refits(replicates, blocks, no_shift, data.num_replicates - 1)
    if data.standard_error is not None:
        moved = np.diag(data.standard_error)[:, None, :]
        shifted = [
            await refit(form, data.every_cell(data.rows + sign * moved, data.weight[None]), len(moved), theta)
            for sign in (1, -1)
        ]
        return Refits(none, none, np.stack(shifted), np.inf)
    return Refits(none, none, no_shift, 0)
