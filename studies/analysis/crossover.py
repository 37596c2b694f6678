"""Where two curves cross, and whether that can be said.

An in-range question: it is answered on mean log errors interpolated in ln x, never on fitted forms (PROTOCOL 6). Fits
come in as a second opinion, and a disagreement is flagged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from studies.counts import counted, listed

from .curve import Array, Curve, Interpolation, pair_up
from .finding import Finding, Names, name_of
from .inversion import (
    Stretch,
    confidence_set,
    neighbours_around,
    places_text,
    stretches_text,
    without_unmeasured_gaps,
)
from .jackknife import Estimate
from .paired import SAME_X, PairedTests, describe, holm, paired_tests
from .quantity import quantity
from .roots import Root, mean_roots, root_interval

Decision = Literal["crosses", "none below x_max", "not resolved"]


@dataclass(frozen=True, kw_only=True)
class Crossover(Finding):
    """Two curves compared over the whole range.

    Attributes:
        first: a family; d(x) = ln E_first - ln E_second.
        second: the other.
        column: name of x.
        confidence: nominal coverage.
        decision: `crosses`: d significantly below 0 at one x and above 0 at another; `none below x_max`: one-sided
            evidence of one sign at every planned x; else `not resolved` (PROTOCOL 6).
        tests: d at every x.
        roots: sign changes of the interpolated mean d, in order of x; a description where the decision is not
            `crosses`.
        confidence_set: every x at which d = 0 is not rejected, {x : |d(x)| <= t se(x)}, as connected stretches; None
            without any variance. The interval of the crossover, by inversion of the test.
        interval: jackknife-t on ln x* beside it, where the curves and every delete-one curve have exactly one root. It
            exists in the luckier studies only and covers less than it says (`study bench calibration`): the sentence
            states the set.
        fitted: places within the range where fitted curves meet; None where no fits were given.
        p_crosses: p-value of the claim that the curves cross: the larger of the smallest p of either sign.
        p_corrected: p-value of the same claim with each sign corrected over all x (Simes 1986). The rule of PROTOCOL 6
            asks for each sign at one x without such a correction: curves that differ at small x and become one are
            then called crossing more often than in one study of twenty (`study bench calibration`, "becoming one").
        p_none: p-value of the claim that one is better at every x: the largest one-sided p.
        threshold: p up to which a claim is made.
        covered: both families were measured, within `paired.SAME_X`, at every x at which either was.
        num_pairs: pairs that have a test, over which the claims were corrected; the confidence set never is.
    """

    first: str
    second: str
    column: str
    confidence: float
    decision: Decision
    tests: PairedTests
    roots: tuple[Root, ...]
    confidence_set: tuple[Stretch, ...] | None
    interval: Estimate | None
    fitted: tuple[float, ...] | None
    p_crosses: float
    p_corrected: float
    p_none: float
    threshold: float
    covered: bool
    num_pairs: int = 1

    @property
    def resolved_roots(self) -> tuple[Root, ...]:
        """The roots between neighbouring significant x of opposite sign; another may be noise around no difference."""
        tests = self.tests.tests
        surely = tests[tests["p_value"] <= 1 - self.confidence]
        places = list(zip(surely["x"], np.sign(surely["difference"]), strict=True))
        gaps = [(low, high) for (low, below), (high, above) in itertools.pairwise(places) if below != above]
        return tuple(root for root in self.roots if any(low < root.x < high for low, high in gaps))

    @property
    def told_set(self) -> tuple[Stretch, ...]:
        """The confidence set without gaps that lie between two neighbouring measured sizes."""
        return without_unmeasured_gaps(self.confidence_set or (), self._measured)

    @property
    def _measured(self) -> list[float]:
        tests = self.tests.tests
        return [float(x) for x in tests.loc[tests["measured"].astype(bool), "x"]]

    @property
    def fits_disagree(self) -> bool:
        """Fitted curves meet another number of times than is claimed, or outside the confidence set."""
        if self.fitted is None or self.decision == "not resolved":
            return False
        if len(self.fitted) != len(self.resolved_roots if self.decision == "crosses" else ()):
            return True
        return any(not any(part.low <= x <= part.high for part in self.confidence_set or ()) for x in self.fitted)

    def sentence(self, names: Names | None = None) -> str:
        """The answer, with its interval where it has one."""
        first, second, of = name_of(self.first, names), name_of(self.second, names), quantity(self.column)
        if self.tests.tests.empty:
            return f"{first} and {second} cannot be compared: {self.used}."
        text = {
            "crosses": self._crosses,
            "none below x_max": self._none,
            "not resolved": self._not_resolved,
        }[self.decision](names)
        if self.fits_disagree:
            met = ", ".join(of.number(x) for x in self.fitted or ()) or "nowhere in this range"
            text += f" Fitted curves disagree: they meet at {met}."
        return text

    def _crosses(self, names: Names | None) -> str:
        of, percent = quantity(self.column), f"{100 * self.confidence:g}%"
        told = [
            f"{name_of(root.better_above, names)} overtakes {name_of(root.better_below, names)} at {of.value(root.x)}"
            for root in self.resolved_roots
        ]
        text = ", ".join(told)
        if self.confidence_set is not None:
            bounded = len(self.told_set) == 1 and not any(part.open_below or part.open_above for part in self.told_set)
            interval = "interval" if bounded else "confidence set"
            text += f", {percent} {interval} {stretches_text(self.told_set, self.column)} ({self._inversion()})"
        if self.p_corrected > self.threshold:
            text += (
                f". After correction over the {of.places(len(self.tests.tests))}{self._and_pairs} this crossing is not "
                f"significant (p = {self.p_corrected:.2f})"
            )
        return f"{text}."

    @property
    def _and_pairs(self) -> str:
        return f" and both claims of {self.num_pairs} pairs" if self.num_pairs > 1 else ""

    def _inversion(self) -> str:
        """How the set was found, and between which measured sizes an end of it is interpolated alone."""
        of = quantity(self.column)
        around = [places for part in self.told_set if (places := neighbours_around(part, self._measured)) is not None]
        if not around:
            return "by test inversion"
        listed = " and ".join(f"{of.number(low)} and {of.number(high)}" for low, high in around)
        return f"by test inversion, interpolated between {listed}, where nothing was measured"

    def _none(self, names: Names | None) -> str:
        tests, of = self.tests.tests, quantity(self.column)
        better, worse = (self.first, self.second) if (tests["difference"] < 0).all() else (self.second, self.first)
        if len(tests) == 1:
            return (
                f"{name_of(better, names)} is better than {name_of(worse, names)} at {of.value(tests['x'].item())}, "
                "the only place where both were measured; whether the two curves cross elsewhere is not known."
            )
        return (
            f"No crossover from {of.number(tests['x'].min())} to {of.value(tests['x'].max())}: "
            f"{name_of(better, names)} is better than {name_of(worse, names)} at every one of {of.places(len(tests))} "
            f"(a one-sided test at each{self._two_sided()})."
        )

    def _two_sided(self) -> str:
        """At which x the same difference is significant where each has to hold alone; empty where it is at all."""
        tests, of = self.tests.tests, quantity(self.column)
        surely = tests.loc[tests["p_holm"] <= 1 - self.confidence, "x"]
        if len(surely) == len(tests):
            return ""
        where = f"{listed([of.number(x) for x in surely])} {of.unit} only" if len(surely) else "none of them"
        over = f"corrected by Holm over {of.places(len(tests))}"
        return f", all of which have to hold; two-sided and {over} the difference is significant at {where}"

    def _not_resolved(self, names: Names | None) -> str:
        first, second, of = name_of(self.first, names), name_of(self.second, names), quantity(self.column)
        met = " and ".join(of.number(root.x) for root in self.roots)
        mean = f"the mean curves meet at {met}" if met else "the mean curves do not meet"
        if self.confidence_set is None:
            return f"{first} and {second}: {mean}; without replicates nothing more can be said."
        text = f"Whether the curves of {first} and {second} cross is not resolved: {mean}, and "
        if not self.confidence_set:
            known = self.tests.tests
            better = first if known["difference"].iloc[0] < 0 else second
            where = f"from {of.number(known['x'].min())} to {of.value(known['x'].max())}"
            if self.covered:
                return (
                    f"{text}{better} is better at every size {where} in a test of that size alone, but not after "
                    f"correction over {self.num_pairs} pairs (p = {self.p_none:.2f})."
                )
            return (
                f"{text}{better} is better wherever both were measured, {where}; elsewhere one of the two is missing."
            )
        places = places_text(self.told_set, self.column)
        return f"{text}tested at each size alone, the two cannot be told apart for {of.axis} {places}."


def crossover(
    first: Curve,
    second: Curve,
    *,
    confidence: float = 0.95,
    interpolation: Interpolation = "linear",
    fitted: Callable[[float, float], list[float]] | None = None,
) -> Crossover:
    """Compares two curves.

    Args:
        first: a curve.
        second: another over the same quantity.
        confidence: nominal coverage of intervals and confidence set; claims are made at 1 - confidence.
        interpolation: of the mean log errors in ln x.
        fitted: from a range of x to the places where the fitted curves of the two meet in it.
    """
    tests = paired_tests(first, second, confidence=confidence, interpolation=interpolation)
    pair = pair_up(first, second)
    shared = pair if pair is not None and len(pair.nodes) else None
    covered = _covered(tests, np.union1d(first.x, second.x))
    p_crosses, p_corrected, p_none = _p_values(tests, covered)
    result = Crossover(
        method=f"mean log errors interpolated in ln {first.column} ({interpolation}); {tests.method}; "
        f"confidence set by inversion of the test",
        used=describe(first, second, pair),
        left_out=() if pair is None else pair.left_out,
        first=first.family,
        second=second.family,
        column=first.column,
        confidence=confidence,
        decision="not resolved",
        tests=tests,
        roots=mean_roots(shared, interpolation) if shared else (),
        confidence_set=confidence_set(shared, confidence, interpolation) if shared else None,
        interval=root_interval(shared, confidence, interpolation) if shared else None,
        fitted=tuple(fitted(*np.exp(shared.log_range))) if fitted and shared and len(shared.nodes) > 1 else None,
        p_crosses=p_crosses,
        p_corrected=p_corrected,
        p_none=p_none,
        threshold=1 - confidence,
        covered=covered,
    )
    return replace(result, decision=_decide(result))


def corrected(crossovers: list[Crossover]) -> list[Crossover]:
    """The same comparisons with their claims corrected by Holm, for pairs that were not declared.

    A pair can be claimed to cross and claimed not to: both claims of all pairs that have a test are one family of
    hypotheses, also where the claim to cross is corrected over all x besides. A claim that its tests cannot support has
    p = 1 and counts, such as that one family is better at every x where one of the two was not measured.
    """
    num_pairs = sum(not math.isnan(one.p_crosses) for one in crossovers)
    claims = holm(np.array([one.p_crosses for one in crossovers] + [one.p_none for one in crossovers]))
    over_sizes = holm(np.array([one.p_corrected for one in crossovers] + [one.p_none for one in crossovers]))
    changed = []
    for place, one in enumerate(crossovers):
        one = replace(
            one,
            p_crosses=float(claims[place]),
            p_corrected=float(over_sizes[place]),
            p_none=float(claims[len(crossovers) + place]),
            num_pairs=num_pairs,
            method=f"{one.method}; claims corrected by Holm over both claims of {counted(num_pairs, 'pair')}, "
            "confidence sets not",
        )
        changed.append(replace(one, decision=_decide(one)))
    return changed


def _covered(tests: PairedTests, planned: Array) -> bool:
    """Whether both families were measured near every planned x."""
    measured = np.log(tests.tests.loc[tests.tests["measured"], "x"].to_numpy(float))
    return len(measured) > 0 and all(np.min(np.abs(measured - np.log(x))) <= np.log1p(SAME_X) for x in planned)


def _p_values(tests: PairedTests, covered: bool) -> tuple[float, float, float]:
    """Of the claims that the curves cross, the same corrected over x, and that one is better at every planned x."""
    table = tests.tests
    p, d = table["p_value"].to_numpy(float), table["difference"].to_numpy(float)
    if len(p) == 0 or np.isnan(p).all():
        return math.nan, math.nan, math.nan
    smallest = [float(np.nanmin(p[side], initial=1.0)) if side.any() else 1.0 for side in (d < 0, d > 0)]
    one_sided = [np.where(d < 0, p / 2, 1 - p / 2), np.where(d > 0, p / 2, 1 - p / 2)]
    one_sign = (d < 0).all() or (d > 0).all()
    p_none = float(p.max() / 2) if covered and one_sign and not np.isnan(p).any() else 1.0
    return max(smallest), max(_simes(side) for side in one_sided), p_none


def _simes(p_values: Array) -> float:
    """p-value of the hypothesis that all null hypotheses are true (Simes 1986); NaN are left out."""
    known = np.sort(p_values[~np.isnan(p_values)])
    return float(min(1.0, (len(known) * known / np.arange(1, len(known) + 1)).min()))


def _decide(one: Crossover) -> Decision:
    if one.p_crosses <= one.threshold:
        return "crosses"
    return "none below x_max" if one.p_none <= one.threshold else "not resolved"
