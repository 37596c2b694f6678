"""Which points of a curve a form may be fitted to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .curve import Curve
from .finding import LeftOut

NEAR_CHANCE = 0.8
"""Of chance: above it curves bend as no power law does (Alabdulmohsin et al. 2022)."""


def measured_points(curve: Curve) -> tuple[Curve, list[LeftOut]]:
    """The curve with what is not finite as NaN and without points that no replicate has; and what that left out."""
    finite = np.isfinite(curve.log_error)
    left_out = []
    for x, present in zip(curve.x, finite.T, strict=True):
        if not present.all():
            who = (
                "no replicate has"
                if not present.any()
                else f"{int((~present).sum())} of {len(present)} replicates lack"
            )
            left_out.append(LeftOut(f"cells of {curve.family} at {curve.column}={x:g}", f"{who} an error there"))
    kept = np.asarray(finite.any(axis=0))
    cleaned = curve.restricted(curve.replicates, kept)
    return _with_nan(cleaned), left_out


def below_chance(curve: Curve, chance: float | None) -> npt.NDArray[np.bool_]:
    """Points [n] whose median error is at most 0.8 x chance; all where chance is not known."""
    if chance is None:
        return np.ones(len(curve.x), bool)
    return np.asarray(np.nanmedian(curve.log_error, axis=0) <= np.log(NEAR_CHANCE * chance))


def left_out_near_chance(curve: Curve, kept: npt.NDArray[np.bool_], chance: float | None) -> list[LeftOut]:
    """The points that are not kept, each with the reason."""
    return [
        LeftOut(
            f"{curve.family} at {curve.column}={x:g}",
            f"its median error {np.exp(log_error):.3g} is above {NEAR_CHANCE:g} x chance ({chance:g})",
        )
        for x, log_error in zip(curve.x[~kept], np.nanmedian(curve.log_error[:, ~kept], axis=0), strict=True)
    ]


def _with_nan(curve: Curve) -> Curve:
    return replace(curve, log_error=np.where(np.isfinite(curve.log_error), curve.log_error, np.nan))
