"""The tables of the fits: coefficients of every arm, how its form was chosen, and its floor against lambda."""

from __future__ import annotations

import math
from collections.abc import Mapping

from studies.analysis.answers import Answers
from studies.analysis.fitted_curve import CurveFit, NoFit
from studies.analysis.floors import Floor
from studies.analysis.jackknife import Estimate
from studies.analysis.of_records import Rule

from .answer_tables import interval_text
from .tables import Table, percent


def fits_table(answers: Answers, rule: Rule, names: Mapping[str, str]) -> Table:
    """Form and coefficients of every arm."""
    rows = []
    for arm, fit in _in_order(answers, names):
        if isinstance(fit, NoFit):
            rows.append((names[arm], "none", "–", "–", "–", "–", "–", fit.reason))
            continue
        of = fit.coefficients
        rows.append(
            (
                names[arm],
                fit.form,
                _estimate(of["floor"], percents=True) if "floor" in of else "none, by its form",
                _estimate(of["amplitude"]),
                _estimate(of["exponent"]) + (f"; skew {_estimate(of['skew'])}" if "skew" in of else ""),
                f"{fit.correlation:.2f}" if math.isfinite(fit.correlation) else "–",
                _chosen(fit),
                "; ".join(map(str, fit.left_out)) or "nothing",
            )
        )
    return Table(
        name=f"fits_{rule}",
        title="Fitted forms",
        columns=(
            "Arm",
            "Form",
            "Floor %",
            "Amplitude",
            "Exponent",
            "Correlation of floor and exponent",
            "How the form was chosen",
            "Left out",
        ),
        rows=tuple(rows),
        note="In brackets 95% intervals that hold for all coefficients of a fit at once. M1: E = A N^−b; M2: E = "
        "floor + A N^−b; M3: E = A (1/N + g)^b with floor A g^b; M4: (E − floor) / (chance − E)^skew = A N^−b; E and A "
        "as fractions of 1. Cells are fitted one by one with Huber's loss on log errors.",
        prose=True,
    )


def floors_table(answers: Answers, names: Mapping[str, str], floor: float | None) -> Table:
    """The fitted floor of every arm with its interval over all forms, against lambda where it is known."""
    rows = []
    for arm in (arm for arm in names if arm in answers.floors):
        last = percent(float(math.exp(answers.table.curves[arm].mean[-1])))
        if not answers.floors[arm].by_form:
            rows.append((names[arm], last, "–", "–", "no fit"))
            continue
        estimate = hull(answers.floors[arm])
        rows.append((names[arm], last, percent(estimate.value), _span(estimate), floor_verdict(estimate, floor)))
    return Table(
        name="floors",
        title="Where the curves end",
        columns=("Arm", "Error % with the most images", "Fitted floor %", "95% interval", "Verdict"),
        rows=tuple(rows),
        note="An extrapolation to unlimited images. The interval is the hull of those under every form with a floor.",
    )


def hull(floor: Floor) -> Estimate:
    """The floor of an arm with its interval over all forms."""
    return Estimate(floor.value, floor.low, floor.high, floor.confidence, math.nan)


def floor_verdict(estimate: Estimate, floor: float | None) -> str:
    """What the interval of a floor says of lambda, or of there being a floor at all."""
    if not estimate.has_interval:
        return "no interval"
    if estimate.low == 0:
        text = "no floor resolved"
        return text if not floor or estimate.high >= floor else f"{text}, below λ"
    if not floor:
        return "above zero"
    if estimate.low <= floor <= estimate.high:
        return "contains λ"
    return "below λ" if estimate.high < floor else "above λ"


def _in_order(answers: Answers, names: Mapping[str, str]) -> list[tuple[str, CurveFit | NoFit]]:
    return [(arm, answers.fits[arm]) for arm in names if arm in answers.fits]


def _chosen(fit: CurveFit) -> str:
    if fit.choice is None:
        return "given"
    return f"{'by extrapolation' if fit.choice.by_extrapolation else 'by default'}: {fit.choice.why}"


def _estimate(estimate: Estimate, *, percents: bool = False) -> str:
    scale = 100 if percents else 1
    text = f"{scale * estimate.value:.3g}"
    if not estimate.has_interval:
        return text
    return f"{text} [{scale * estimate.low:.3g}, {scale * estimate.high:.3g}]"


def _span(estimate: Estimate) -> str:
    return interval_text(100 * estimate.low, 100 * estimate.high)
