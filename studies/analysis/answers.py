"""All answers of one table: every pair, every family, every size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .choice import Choice, Needed, choose, needed, with_significance
from .crossover import Crossover, corrected, crossover
from .curve import Curve, Interpolation
from .finding import Finding, Names, plain
from .fitted_curve import CurveFit, NoFit, fitted_meeting
from .fitting import fit_curves
from .floors import Floor, floors_of
from .interaction import DifferenceOfDifferences, corrected_over_pairs, difference_of_differences
from .multiplier import Multiplier, multiplier
from .paired import SAME_X
from .table import CurveTable
from .traits import differs_in

DEFAULT_INTERPOLATION: Interpolation = "monotone"


@dataclass(frozen=True)
class Answers:
    """What a table says.

    Attributes:
        table: the curves and what was left out of them.
        confidence: nominal coverage of all intervals.
        pair: the declared pair, the stronger prior first; None where all pairs are equal.
        crossovers: the declared pair first; the others corrected over one another by Holm.
        multipliers: of the declared pair first, then of every other pair.
        fits: by family; `NoFit` where none was possible, with the reason.
        floors: by family, over all forms with a floor.
        choices: the best family at each x.
        needed: x needed per family and error asked for.
        interactions: difference of differences against a control with permuted pixels, per pair.
    """

    table: CurveTable
    confidence: float
    pair: tuple[str, str] | None
    crossovers: tuple[Crossover, ...]
    multipliers: tuple[Multiplier, ...]
    fits: Mapping[str, CurveFit | NoFit]
    floors: Mapping[str, Floor]
    choices: tuple[Choice, ...]
    needed: tuple[Needed, ...]
    interactions: tuple[DifferenceOfDifferences, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every answer, the main ones first."""
        return (
            *self.crossovers,
            *self.multipliers,
            *self.choices,
            *self.needed,
            *self.interactions,
            *self.floors.values(),
            *self.fits.values(),
        )

    def statements(self, names: Names | None = None) -> list[str]:
        """Every answer as a sentence, the main ones first, then what must be known of the table."""
        return [*(finding.sentence(names) for finding in self.findings), *self.notes]

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known of the table and of the comparison."""
        undeclared = (
            f"No pair was declared: the claims of all {len(self.crossovers)} pairs are corrected over one another."
        )
        return (*([undeclared] if self.pair is None and len(self.crossovers) > 1 else []), *self.table.notes)

    def __str__(self) -> str:
        return "\n".join(self.statements())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "column": self.table.columns.x,
            "confidence": self.confidence,
            "pair": self.pair,
            "curves": {family: plain(_points(curve)) for family, curve in self.table.curves.items()},
            "findings": [finding.as_dict() for finding in self.findings],
            "left_out": [str(item) for item in self.table.left_out],
            "notes": list(self.notes),
        }


def analyse(
    table: CurveTable,
    *,
    pair: tuple[str, str] | None = None,
    control: CurveTable | None = None,
    chance: float | None = None,
    confidence: float = 0.95,
    interpolation: Interpolation = DEFAULT_INTERPOLATION,
    at: Sequence[float] = (),
    errors: Sequence[float] = (),
    seed: int = 0,
) -> Answers:
    """Answers all questions of a table.

    Args:
        table: measured curves.
        pair: the declared pair, the stronger prior first. Without one, two families are a pair, and of more all pairs
            are compared with Holm's correction; the prior is then taken to be the family that is better at the
            smallest x.
        control: the same families on images with permuted pixels.
        chance: error of guessing; fits leave out points above 0.8 of it.
        confidence: nominal coverage of all intervals; claims are made at 1 - confidence.
        interpolation: of mean log errors in ln x.
        at: x to choose a family for; every measured x if empty.
        errors: errors to say the needed x for; a few that are reached if empty.
        seed: of the random starts of fits.

    Raises:
        ValueError: the pair names a family that is not in the table.
    """
    curves = table.curves
    for family in pair or ():
        if family not in curves:
            raise ValueError(f"family {family!r} is not in the table: expected one of {sorted(curves)}")
    fits = fit_curves(curves, chance=chance, confidence=confidence, seed=seed)
    pairs = _pairs(curves, pair)
    if pair is None and len(pairs) == 1:
        pair = pairs[0]
    crossovers = [
        crossover(
            curves[a],
            curves[b],
            confidence=confidence,
            interpolation=interpolation,
            fitted=_meeting(fits[a], fits[b]),
        )
        for a, b in pairs
    ]
    if pair is None:
        crossovers = corrected(crossovers)
    elif len(crossovers) > 2:
        crossovers = [crossovers[0], *corrected(crossovers[1:])]
    choices = [choose(curves, x, interpolation=interpolation) for x in at or _all_x(curves)]
    return Answers(
        table=table,
        confidence=confidence,
        pair=pair,
        crossovers=tuple(crossovers),
        multipliers=tuple(
            multiplier(
                curves[a],
                curves[b],
                confidence=confidence,
                interpolation=interpolation,
                chance=chance,
                differs_in=differs_in(a, b, table.traits),
            )
            for a, b in pairs
        ),
        fits=fits,
        floors=floors_of(curves, fits, chance=chance, confidence=confidence, seed=seed),
        choices=with_significance(
            [choice for choice in choices if choice is not None], [one.tests for one in crossovers]
        ),
        needed=tuple(
            needed(curve, error, confidence=confidence, interpolation=interpolation)
            for error in errors or _round_errors(curves)
            for curve in curves.values()
        ),
        interactions=() if control is None else _interactions(curves, control.curves, pairs, pair, confidence, chance),
    )


def _points(curve: Curve) -> dict[str, Any]:
    """A curve as columns: x, geometric mean error, standard deviation of log errors, replicates at each x."""
    return {
        "x": curve.x,
        "error": np.exp(curve.mean),
        "log_std": curve.log_std,
        "num_replicates": np.sum(~np.isnan(curve.log_error), axis=0),
    }


def _pairs(curves: Mapping[str, Curve], declared: tuple[str, str] | None) -> list[tuple[str, str]]:
    """All pairs, the declared one first, each with the family first that is better where images are fewest."""
    found = [declared] if declared else []
    for a, b in itertools.combinations(curves, 2):
        if declared is None or {a, b} != set(declared):
            found.append((a, b) if _starts_better(curves[a], curves[b]) else (b, a))
    return found


def _starts_better(first: Curve, second: Curve) -> bool:
    """Whether the first is better at the smallest x where they differ; between equals the first."""
    shared = sorted(set(first.x.tolist()) & set(second.x.tolist()))
    for x in shared:
        gap = float(first.mean[first.x == x][0] - second.mean[second.x == x][0])
        if gap:
            return gap < 0
    return bool(first.mean[0] <= second.mean[0])


def _meeting(first: CurveFit | NoFit, second: CurveFit | NoFit) -> Any:  # noqa: ANN401  # a function or None
    if isinstance(first, NoFit) or isinstance(second, NoFit):
        return None
    return lambda low, high: fitted_meeting(first, second, low, high)


def _all_x(curves: Mapping[str, Curve]) -> list[float]:
    """Every measured x; those of several families within `SAME_X` are one, where all of these are known."""
    groups: list[list[float]] = []
    for x in sorted({x for curve in curves.values() for x in curve.x.tolist()}):
        if groups and x <= groups[-1][0] * (1 + SAME_X):
            groups[-1].append(x)
        else:
            groups.append([x])
    places = []
    for group in groups:
        low = max([curve.x[0] for curve in curves.values() if curve.x[0] in group], default=group[0])
        high = min([curve.x[-1] for curve in curves.values() if curve.x[-1] in group], default=group[-1])
        middle = math.exp(sum(map(math.log, group)) / len(group))
        places.append(group[0] if len(group) == 1 else float(min(max(middle, low), high)))
    return places


def _round_errors(curves: Mapping[str, Curve], count: int = 3) -> list[float]:
    """A few round errors that at least one family passes through."""
    if not curves:
        return []
    low = min(float(curve.mean.min()) for curve in curves.values())
    high = max(float(curve.mean[0]) for curve in curves.values())
    scale = [digit * 10.0**power for power in range(-6, 3) for digit in (1, 2, 5)]
    inside = [error for error in scale if low < math.log(error) < high]
    if len(inside) <= count:
        return inside
    return [inside[place] for place in np.unique(np.linspace(0, len(inside) - 1, count).round().astype(int))]


def _interactions(
    curves: Mapping[str, Curve],
    permuted: Mapping[str, Curve],
    pairs: Sequence[tuple[str, str]],
    declared: tuple[str, str] | None,
    confidence: float,
    chance: float | None,
) -> tuple[DifferenceOfDifferences, ...]:
    """Of the declared pair by itself; the others are corrected over one another, as their crossovers are."""
    found = {
        (a, b): difference_of_differences(
            curves[a], curves[b], permuted[a], permuted[b], confidence=confidence, chance=chance
        )
        for a, b in pairs
        if a in permuted and b in permuted
    }
    own = [found.pop(declared)] if declared in found else []
    return (*own, *corrected_over_pairs(list(found.values())))
