"""How often the answers are right: simulated studies of known truth, analysed as any study is (PROTOCOL 6 and 7).

A 95% interval that covers the truth in 70 of 100 studies is not one. The simulated studies differ in what is true (two
curves that cross; the same curve twice; curves that become one; curves that never meet), in whether all replicates
share their test images, and in whether the noise of a replicate is common to its sizes. One scenario leaves out the
part of the variance that comes from shared test images, to show what that does.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .crossover import Crossover, crossover
from .curve import Array, Curve, Interpolation
from .fitted_curve import CurveFit
from .fitting import fit_curve
from .multiplier import multiplier_at
from .roots import meeting_points
from .simulation import CONVOLUTION, TRANSFORMER, Noise, PowerLaw, simulate

SIZES: Mapping[str, Array] = {
    "x2": np.asarray(2.0 ** np.arange(7, 16), float),
    "x4": np.asarray(2.0 ** np.arange(7, 16, 2), float),
}
"""Training images from 2^7 to 2^15, in steps of two and of four."""

MULTIPLIER_ERRORS = (0.5, 0.3)

Truth = Callable[[float], float]


@dataclass(frozen=True)
class Scenario:
    """A kind of simulated study.

    Attributes:
        title: in words.
        prior: true curve of one family.
        flexible: true curve of the other.
        noise: what is measured on top.
        count_blocks: whether the analysis counts the variance from shared test images.
    """

    title: str
    prior: Truth
    flexible: Truth
    noise: Noise
    count_blocks: bool = True


@dataclass(frozen=True)
class Joining:
    """A curve that exceeds another at small N and becomes one with it: E(N) = other(N) + excess (N / 128)^-4."""

    other: PowerLaw
    excess: float = 0.2

    def __call__(self, num_train: float) -> float:
        """The error at N."""
        return self.other(num_train) + self.excess * (num_train / 128) ** -4


SHARED = Noise()
FRESH = Noise(same_images=False)
INDEPENDENT = Noise(common_row=0.0, family_row=0.0, cell=0.05, same_images=False)
SCENARIOS: Mapping[str, Scenario] = {
    "crossing": Scenario("crossing, one test set", CONVOLUTION, TRANSFORMER, SHARED),
    "crossing-no-blocks": Scenario(
        "crossing, one test set, its variance not counted", CONVOLUTION, TRANSFORMER, SHARED, count_blocks=False
    ),
    "crossing-fresh": Scenario("crossing, fresh test images", CONVOLUTION, TRANSFORMER, FRESH),
    "identical": Scenario("identical, one test set", CONVOLUTION, CONVOLUTION, SHARED),
    "identical-fresh": Scenario("identical, fresh test images", CONVOLUTION, CONVOLUTION, FRESH),
    "identical-independent": Scenario("identical, independent sizes", CONVOLUTION, CONVOLUTION, INDEPENDENT),
    "joining": Scenario("becoming one, one test set", CONVOLUTION, Joining(CONVOLUTION), SHARED),
    "joining-independent": Scenario(
        "becoming one, independent sizes", CONVOLUTION, Joining(CONVOLUTION), INDEPENDENT
    ),
    "apart": Scenario("never meeting, one test set", CONVOLUTION, PowerLaw(0.22, 9.0, 0.5), SHARED),
}  # fmt: skip

QUESTIONS: Mapping[str, str] = (
    {
        "set_covers": "confidence set contains N*",
        "interval_exists": "jackknife-t interval of N* exists",
        "interval_covers": "jackknife-t interval contains N*",
        "crosses": "called crossing",
        "none": "called without crossover",
        "unresolved": "called not resolved",
        "tests_cover": "paired intervals contain d(N)",
        "any_significant": "any size significant after Holm",
    }
    | {
        f"k_{error}_{what}": f"k({error:g}) interval {verb}"
        for error in MULTIPLIER_ERRORS
        for what, verb in (("exists", "exists"), ("covers", "contains k"))
    }
    | {
        "floor_prior": "interval of the fitted floor .16 contains it",
        "floor_flexible": "interval of the fitted floor .05 contains it",
    }
)


def calibrate(
    *,
    num_studies: int = 1000,
    replicates: Sequence[int] = (3, 5, 10),
    interpolation: Interpolation = "linear",
    sizes: str = "x2",
    seed: int = 0,
    scenarios: Sequence[str] = tuple(SCENARIOS),
    confidence: float = 0.95,
    num_fitted: int = 0,
    num_processes: int = 1,
) -> pd.DataFrame:
    """Simulates studies, analyses them and counts how often each answer is right.

    Args:
        num_studies: per scenario.
        replicates: numbers R; fewer replicates are the first ones of the same simulated studies.
        interpolation: of the analysis.
        sizes: a name of `SIZES`.
        seed: study s of a scenario is drawn from (seed, scenario, s), whatever else is asked for.
        scenarios: names of `SCENARIOS`.
        confidence: nominal coverage.
        num_fitted: studies of the scenario `crossing` whose curves are fitted too, the form chosen as always; seconds
            each.
        num_processes: processes to share the work.

    Returns:
        A row per scenario, R and question of `QUESTIONS`: `rate`, its Monte Carlo `standard_error`, and `num_studies`
        that the rate is over (fewer where an answer need not exist).
    """
    work = functools.partial(
        _study,
        most=max(replicates),
        replicates=tuple(replicates),
        interpolation=interpolation,
        sizes=sizes,
        seed=seed,
        confidence=confidence,
        num_fitted=num_fitted,
    )
    jobs = [(name, study) for name in scenarios for study in range(num_studies)]
    if num_processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
            found = list(pool.map(work, jobs, chunksize=max(1, len(jobs) // (20 * num_processes))))
    else:
        found = [work(job) for job in jobs]
    answers = pd.DataFrame([row for rows in found for row in rows])
    rows = []
    for key, group in answers.groupby(["scenario", "num_replicates"], sort=False):
        for question in QUESTIONS:
            known = group[question].dropna().to_numpy(float) if question in group else np.zeros(0)
            if len(known):
                error = float(known.std() / math.sqrt(len(known)))
                rows.append((*key, question, float(known.mean()), error, len(known)))
    return pd.DataFrame(
        rows, columns=["scenario", "num_replicates", "question", "rate", "standard_error", "num_studies"]
    )


def requirements(rates: pd.DataFrame, num_replicates: int = 5) -> list[tuple[str, bool]]:
    """What PROTOCOL 7 demands at five replicates, in words, and whether the rates meet it.

    Intervals contain the truth in 93% to 99.5% of studies, and identical curves are called crossing in at most 5%. The
    jackknife-t interval of N* is not among them: where it exists the study was a lucky one, so that its coverage is
    that of a selection, and no statement rests on it. Fitted floors are not either: their form is chosen from the data.
    """
    checks = []
    for row in rates[rates["num_replicates"] == num_replicates].to_dict("records"):
        scenario, question, rate = SCENARIOS[row["scenario"]], row["question"], row["rate"]
        told = f"{scenario.title}: {QUESTIONS[question]} in {100 * rate:.1f}% (± {100 * row['standard_error']:.1f})"
        graded = question.endswith(("_covers", "_cover")) and question != "interval_covers"
        if graded and scenario.count_blocks:
            checks.append((f"{told}, required 93% to 99.5%", 0.93 <= rate <= 0.995))
        elif question == "crosses" and scenario.prior is scenario.flexible:
            checks.append((f"{told}, required at most 5%", rate <= 0.05))
    return checks


def _study(
    job: tuple[str, int],
    *,
    most: int,
    replicates: tuple[int, ...],
    interpolation: Interpolation,
    sizes: str,
    seed: int,
    confidence: float,
    num_fitted: int,
) -> list[dict[str, object]]:
    """The answers of one simulated study, for each number of replicates."""
    name, study = job
    scenario = SCENARIOS[name]
    generator = np.random.default_rng([seed, list(SCENARIOS).index(name), study])
    truths = {"prior": scenario.prior, "flexible": scenario.flexible}
    simulated = simulate(truths, SIZES[sizes], most, scenario.noise, generator)
    rows = []
    for count in replicates:
        curves = simulated.curves(count)
        if not scenario.count_blocks:
            curves = {family: replace(curve, block_log_error=None) for family, curve in curves.items()}
        told = _graded(scenario, curves["prior"], curves["flexible"], interpolation, confidence)
        if name == "crossing" and study < num_fitted:
            told |= _graded_floors(curves, confidence)
        rows.append({"scenario": name, "num_replicates": count, **told})
    return rows


def _graded(
    scenario: Scenario, prior: Curve, flexible: Curve, interpolation: Interpolation, confidence: float
) -> dict[str, float]:
    """1 where an answer is right or of the kind asked for, 0 where not, NaN where there is none."""
    result = crossover(prior, flexible, confidence=confidence, interpolation=interpolation)
    table = result.tests.tests
    d = np.array([math.log(scenario.prior(x) / scenario.flexible(x)) for x in table["x"]])
    graded = {
        "crosses": float(result.decision == "crosses"),
        "none": float(result.decision == "none below x_max"),
        "unresolved": float(result.decision == "not resolved"),
        "tests_cover": float(((table["low"] <= d) & (d <= table["high"])).mean()),
        "any_significant": float((table["p_holm"] <= 1 - confidence).any()),
    }
    if scenario.prior is CONVOLUTION and scenario.flexible is TRANSFORMER:
        graded |= _graded_crossover(result) | _graded_multiplier(prior, flexible, interpolation, confidence)
    return graded


def _graded_crossover(result: Crossover) -> dict[str, float]:
    (truth,) = _meeting()
    stretches, interval = result.confidence_set or (), result.interval
    return {
        "set_covers": float(any(part.low <= truth <= part.high for part in stretches)),
        "interval_exists": float(interval is not None),
        "interval_covers": math.nan if interval is None else float(interval.low <= truth <= interval.high),
    }


def _graded_floors(curves: Mapping[str, Curve], confidence: float) -> dict[str, float]:
    graded = {}
    for family, truth in (("prior", CONVOLUTION), ("flexible", TRANSFORMER)):
        fit = fit_curve(curves[family], confidence=confidence)
        if isinstance(fit, CurveFit) and fit.floor.has_interval:
            graded[f"floor_{family}"] = float(fit.floor.low <= truth.floor <= fit.floor.high)
    return graded


@functools.cache
def _meeting() -> tuple[float, ...]:
    return tuple(meeting_points(CONVOLUTION, TRANSFORMER, 2**7, 2**15))


def _graded_multiplier(
    prior: Curve, flexible: Curve, interpolation: Interpolation, confidence: float
) -> dict[str, float]:
    graded = {}
    table = multiplier_at(prior, flexible, MULTIPLIER_ERRORS, confidence=confidence, interpolation=interpolation)
    for error, low, high in zip(MULTIPLIER_ERRORS, table["low"], table["high"], strict=True):
        truth = TRANSFORMER.inverse(error) / CONVOLUTION.inverse(error)
        exists = not (math.isnan(low) or math.isnan(high))
        graded[f"k_{error}_exists"] = float(exists)
        graded[f"k_{error}_covers"] = float(low <= truth <= high) if exists else math.nan
    return graded
