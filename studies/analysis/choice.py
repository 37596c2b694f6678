"""What an engineer asks: which family for this many images, and how many images for this error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .curve import Array, Curve, Interpolation, interpolate, pair_up
from .finding import Finding, LeftOut, Names, name_of
from .jackknife import Estimate, spread
from .multiplier import first_reach
from .paired import SAME_X, PairedTests, difference, local_pair
from .quantity import quantity
from .student import t_below

SEPARATED = 0.9
"""Probability from which a family is called the one to choose; below, the data do not separate the best."""


@dataclass(frozen=True, kw_only=True)
class Choice(Finding):
    """The family to choose at one x.

    Attributes:
        x: where.
        column: name of x.
        family: the one with the lowest mean log error there.
        error: its geometric mean error there.
        runner_up: the next one of those that can be tested against it; None if there is no other.
        probability: that the chosen family is the best: 1 minus the sum of the probabilities that any other is better,
            which is exact for two families and a lower bound for more; NaN without any variance.
        against: per other family that shares replicates with it there, the probability that the chosen one has the
            lower expected log error: Student's t of the paired difference (the posterior under a flat prior).
        untested: families measured there that share fewer than two replicates with it, while others share more.
        corrected_p: the largest p-value of the paired tests against the families of `against` there, each corrected by
            Holm over all x; NaN where one of them was not tested there.
        level: p up to which it is significantly better than they are.
    """

    x: float
    column: str
    family: str
    error: float
    runner_up: str | None
    probability: float
    against: Mapping[str, float]
    untested: tuple[str, ...]
    corrected_p: float = math.nan
    level: float = 0.05

    @property
    def significance(self) -> str:
        """Whether it is significantly better than all others there, in words; empty where that was not tested.

        A probability of .9 is reason enough to choose, and no significant difference.
        """
        if math.isnan(self.corrected_p):
            return ""
        than = " than every other" if len(self.against) > 1 else ""
        return f"{'' if self.corrected_p <= self.level else 'not '}significantly better{than}"

    def sentence(self, names: Names | None = None) -> str:
        """The choice and how sure it is."""
        of = quantity(self.column)
        start = f"With {of.value(self.x)} and this budget choose {name_of(self.family, names)}"
        if not of.counts_images:
            start = f"At {of.value(self.x)} choose {name_of(self.family, names)}"
        if self.runner_up is None:
            return f"{start}: no other family was measured there."
        if math.isnan(self.probability):
            return f"{start}; without replicates its probability is not known."
        runner_up, rest = name_of(self.runner_up, names), ""
        if self.untested:
            listed = ", ".join(name_of(family, names) for family in self.untested)
            rest = f", for want of common replicates not counting {listed}"
        if self.significance and self.probability >= SEPARATED:
            rest += f"; {self.significance} by Holm's correction, p = {self.corrected_p:.2g}"
        if self.probability < SEPARATED:
            where = start.partition(" choose ")[0]
            best, lowest = name_of(self.family, names), f"{self.error:.3g}"
            being_best = at_least(self.probability) if len(self.against) > 1 else probability_text(self.probability)
            return (
                f"{where} the data do not separate the best: {best} has the lowest mean error, {lowest}, probability "
                f"of being best {being_best} (against {runner_up}, the next, "
                f"{probability_text(self.against[self.runner_up])}{rest})."
            )
        if len(self.against) == 1:
            return f"{start}, probability {probability_text(self.probability)} (against {runner_up}{rest})."
        return (
            f"{start}, probability {at_least(self.probability)} (against {runner_up}, the runner-up, "
            f"{probability_text(self.against[self.runner_up])}{rest})."
        )


@dataclass(frozen=True, kw_only=True)
class Needed(Finding):
    """How much of x a family needs for an error.

    Attributes:
        family: which.
        column: name of x.
        error: the error asked for.
        x: where its interpolated mean curve first reaches it, with a jackknife-t interval on ln x; NaN if it does not.
        measured: the range of x measured.
        lowest: smallest mean error measured.
        highest: mean error at the smallest x.
    """

    family: str
    column: str
    error: float
    x: Estimate
    measured: tuple[float, float]
    lowest: float
    highest: float

    def sentence(self, names: Names | None = None) -> str:
        """The number, or why there is none."""
        of, name = quantity(self.column), name_of(self.family, names)
        error = f"an error of {self.error:.3g}"
        if math.isnan(self.x.value):
            if self.error < self.lowest:
                return (
                    f"{name} does not reach {error} up to {of.value(self.measured[1])} (it reaches {self.lowest:.3g})."
                )
            return f"{name} is below {error} already at {of.value(self.measured[0])} (it has {self.highest:.3g})."
        interval = ""
        if self.x.is_telling:
            low, high = of.number(self.x.low), of.number(self.x.high)
            interval = f", {100 * self.x.confidence:g}% interval {low} to {high}"
        return f"For {error} {name} needs about {of.value(self.x.value)}{interval}."


def choose(
    curves: Mapping[str, Curve], x: float, *, interpolation: Interpolation = "linear", names: Sequence[str] = ()
) -> Choice | None:
    """The best family at x among those measured around it; None if there is none.

    Args:
        curves: by family.
        x: where.
        interpolation: of the mean log errors in ln x.
        names: families to choose among; all if empty.
    """
    at = np.array([math.log(x)])
    among = {family: curve for family, curve in curves.items() if not names or family in names}
    known = {family: curve for family, curve in among.items() if _covers(curve, float(at[0]))}
    left_out = [LeftOut(f, f"not measured around {c.column}={x:g}") for f, c in among.items() if f not in known]
    if not known:
        return None
    mean = {f: float(interpolate(c.log_x, c.mean, at, interpolation)[0]) for f, c in known.items()}
    ranked = sorted(known, key=lambda family: mean[family])
    best, others = ranked[0], ranked[1:]
    against = {other: _better(known[best], known[other], at, interpolation) for other in others}
    column = known[best].column
    tested = {other: p for other, p in against.items() if not math.isnan(p)} or against
    untested = tuple(other for other in others if other not in tested)
    left_out += [LeftOut(other, f"no two replicates have it and {best} there: no probability") for other in untested]
    return Choice(
        method="Student's t of the paired log-error differences under a flat prior, jackknife variance; several "
        "rivals are added up (Bonferroni)",
        used=f"{', '.join(sorted(known))} around {column}={x:g}",
        left_out=tuple(left_out),
        x=x,
        column=column,
        family=best,
        error=math.exp(mean[best]),
        runner_up=next(iter(tested), None),
        probability=float(np.clip(1 - sum(1 - p for p in tested.values()), 0, 1)),  # NaN stays NaN
        against=tested,
        untested=untested,
    )


def with_significance(choices: Sequence[Choice], tests: Sequence[PairedTests]) -> tuple[Choice, ...]:
    """The choices with what paired tests at the same x say of them.

    That a family is better than all others is claimed only if it is against each of them, so that no correction over
    families is needed; the tests are corrected over x.

    Args:
        choices: at several x.
        tests: of pairs of families, over the same quantity.
    """
    of_pair = {frozenset((one.first, one.second)): one for one in tests}
    told = []
    for choice in choices:
        p = [_corrected_p(choice, of_pair.get(frozenset((choice.family, other)))) for other in choice.against]
        level = 1 - tests[0].confidence if tests else choice.level
        told.append(replace(choice, corrected_p=float(np.max(p)) if p else math.nan, level=level))
    return tuple(told)


def _corrected_p(choice: Choice, tests: PairedTests | None) -> float:
    """Of the test at the x of a choice; 1 where the other family has the lower mean error, NaN without a test."""
    if tests is None or tests.tests.empty:
        return math.nan
    distance = np.abs(np.log(tests.tests["x"].to_numpy(float)) - math.log(choice.x))
    row = tests.tests.iloc[int(distance.argmin())]
    if distance.min() > np.log1p(SAME_X):
        return math.nan
    better = tests.first if row["difference"] < 0 else tests.second
    return float(row["p_holm"]) if better == choice.family else 1.0


def needed(curve: Curve, error: float, *, confidence: float = 0.95, interpolation: Interpolation = "linear") -> Needed:
    """How much x a family needs for `error`, read off its interpolated mean curve."""
    level = np.array([math.log(error)])

    def statistic(means: Sequence[Array]) -> Array:
        return first_reach(curve.log_x, means[0], level, interpolation)[:, 0]

    return Needed(
        method=f"first x at which the mean curve, interpolated in ln x ({interpolation}), reaches the error; "
        "jackknife-t on ln x",
        used=f"{curve.family}, {len(curve.x)} values of {curve.column}, {curve.num_replicates} replicates",
        family=curve.family,
        column=curve.column,
        error=error,
        x=spread([curve], statistic).estimate(confidence).exponentiated(),
        measured=(float(curve.x[0]), float(curve.x[-1])),
        lowest=float(np.exp(curve.mean.min())),
        highest=float(np.exp(curve.mean[0])),
    )


def _covers(curve: Curve, log_x: float) -> bool:
    return bool(curve.log_x[0] - 1e-9 <= log_x <= curve.log_x[-1] + 1e-9)


def _better(first: Curve, second: Curve, at: Array, interpolation: Interpolation) -> float:
    """Probability that the first has the lower expected log error at ln x = `at`."""
    pair = local_pair(first, second, float(at[0])) or pair_up(first, second)
    if pair is None or not (_covers(pair.first, float(at[0])) and _covers(pair.second, float(at[0]))):
        return math.nan
    here = difference(pair, at, interpolation)
    d, se = float(here.value[0]), float(here.standard_error[0])
    if here.degrees <= 0 or math.isnan(se):
        return math.nan
    if se == 0:
        return 0.5 if d == 0 else float(d < 0)
    return float(t_below(-d / se, here.degrees))


def at_least(p: float, words: str = "at least ") -> str:
    """A lower bound of a probability: `at least .97`, `> .999`."""
    text = probability_text(p)
    return text if not words or text.startswith(">") else f"{words}{0 if text.startswith('<') else text}"


def probability_text(p: float) -> str:
    """`.97`; never 1 or 0, which no finite data show."""
    return "> .999" if p > 0.999 else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p > 0.99 else f"{p:.2f}"[1:]
