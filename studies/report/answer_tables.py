"""The tables of the answers: tests, multipliers, choices, images needed, equal cost, variance, every statement.

Names are the labels of arms. Errors are in percent, ratios and multipliers are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from studies.analysis.answers import Answers
from studies.analysis.choice import SEPARATED, Choice, at_least, probability_text
from studies.analysis.crossover import Crossover
from studies.analysis.fit_points import NEAR_CHANCE
from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.multiplier import Multiplier
from studies.analysis.of_records import Rule
from studies.analysis.quantity import quantity
from studies.analysis.study import CostView
from studies.analysis.variance import VarianceSplit

from .tables import Table, percent, pretrained_text

Names = Mapping[str, str]


CHOICE_COLUMNS = (
    "Lowest mean error",
    "Next",
    "Verdict",
    "Error %",
    "Probability of being best",
    "Probability against the next",
    "Largest p, Holm",
)


def difference_table(crossover: Crossover, rule: Rule, names: Names) -> Table:
    """The paired tests behind the crossover of the declared pair."""
    first, second = names[crossover.first], names[crossover.second]
    rows = [row[1:] for row in _tests(crossover, names)]
    counted = crossover.tests.tests["test_standard_error"].notna().any()
    return Table(
        name=f"difference_{rule}",
        title=f"{first} against {second}",
        columns=_TEST_COLUMNS[1:],
        rows=tuple(rows),
        note=f"Error of {first} / error of {second}, geometric mean of paired replicates; below 1 {first} is better. "
        + ("Intervals include the choice of test images. " if counted else "")
        + "Intervals hold for each size by itself; evidence is after Holm's correction over all sizes.",
        num_label_columns=2,
    )


def paired_table(answers: Answers, rule: Rule, names: Names) -> Table:
    """The paired tests of every pair at every size."""
    rows = [row for crossover in answers.crossovers for row in _tests(crossover, names)]
    return Table(
        name=f"paired_tests_{rule}",
        title="Paired t-tests of all pairs",
        columns=_TEST_COLUMNS,
        rows=tuple(rows),
        note="Error of the first / error of the second arm. Holm's correction is over the sizes of a pair.",
        num_label_columns=3,
    )


NO_USEFUL_INTERVAL = "none of 2 replicates"
"""In place of an interval of two replicates, which carries no information."""

_TEST_COLUMNS = ("Pair", "N", "Evidence", "Error ratio", "95% interval", "p", "p, Holm", "Replicates")


def _tests(crossover: Crossover, names: Names) -> list[tuple[str, ...]]:
    first, second = names[crossover.first], names[crossover.second]
    of = quantity(crossover.column)
    rows: list[tuple[str, ...]] = []
    for row in crossover.tests.tests.to_dict("records"):
        sure = row["p_holm"] <= 1 - crossover.confidence
        better = (first if row["difference"] < 0 else second) if sure else ""
        rows.append(
            (
                f"{first} / {second}",
                of.number(row["x"]),
                f"{better} better" if better else "not separated",
                f"{math.exp(row['difference']):.2f}",
                NO_USEFUL_INTERVAL
                if row["num_pairs"] == FEWEST_FOR_INTERVAL - 1
                else interval_text(math.exp(row["low"]), math.exp(row["high"])),
                p_text(row["p_value"]),
                p_text(row["p_holm"]),
                str(row["num_pairs"]),
            )
        )
    return rows


def multiplier_table(answer: Multiplier, names: Names) -> Table:
    """k at every size of the prior family."""
    prior, flexible = names[answer.prior], names[answer.flexible]
    of = quantity(answer.column)
    rows = []
    for row in answer.by_x.to_dict("records"):
        flat = answer.is_near_chance(row["error"])
        known = not (math.isnan(row["multiplier"]) or flat)
        interval = interval_text(row["low"], row["high"])
        if not answer.has_telling_intervals and answer.num_replicates:
            interval = NO_USEFUL_INTERVAL if answer.num_replicates == FEWEST_FOR_INTERVAL - 1 else "no interval"
        rows.append(
            (
                of.number(row["x_prior"]),
                percent(row["error"]),
                of.number(row["x_flexible"]) if known else "–",
                f"{row['multiplier']:.2f}" if known else "–",
                interval if known else "near chance" if flat else "–",
            )
        )
    return Table(
        name="data_multiplier",
        title=f"How many images {flexible} needs for the error of {prior}",
        columns=(f"N of {prior}", "Its error %", f"N of {flexible}", "Multiplier k", "95% interval"),
        rows=tuple(rows),
        note=f"A dash: {flexible} does not reach this error at any size measured, or is below it from the first on. "
        f"Near chance, above {NEAR_CHANCE:g} × the error of guessing, curves are flat and no multiplier is told.",
    )


def choice_table(choices: Sequence[Choice], names: Names, *, name: str, title: str) -> Table:
    """The best arm at every size, and how sure that is."""
    rows = [(quantity(one.column).number(one.x), *choice_cells(one, names)) for one in choices]
    axis = "N" if choices and choices[0].column == "num_train" else quantity(choices[0].column).heading
    return Table(
        name=name,
        title=title,
        columns=(axis, *CHOICE_COLUMNS),
        num_label_columns=4,
        rows=tuple(rows),
        note="Geometric mean errors. Probabilities are one-sided, of Student's t on paired log errors; that of being "
        f"best is a lower bound with more than two arms. Below {SEPARATED:.2g} the data do not separate the best; from "
        "there on an arm is the one to choose, which is no significant difference yet. That is the last column: the "
        "largest p-value of the paired t-tests against each other arm there, corrected by Holm over the rows; at most "
        ".05 is significant.",
    )


def choice_cells(one: Choice, names: Names) -> tuple[str, ...]:
    """The cells of `CHOICE_COLUMNS`."""
    next_one = one.runner_up
    if next_one is None:
        return names[one.family], "–", "alone", percent(one.error), "–", "–", "–"
    if math.isnan(one.probability):
        return names[one.family], names[next_one], "no replicates", percent(one.error), "–", "–", "–"
    verdict = f"choose {names[one.family]}" if one.probability >= SEPARATED else "not separated"
    if one.probability >= SEPARATED and one.significance:
        verdict += ", significant" if one.corrected_p <= one.level else ", not significant"
    return (
        names[one.family],
        names[next_one],
        verdict,
        percent(one.error),
        at_least(one.probability, "≥ " if len(one.against) > 1 else ""),
        probability_text(one.against[next_one]),
        p_text(one.corrected_p),
    )


def needed_table(answers: Answers, names: Names) -> Table:
    """Images needed per error and arm."""
    errors = sorted({one.error for one in answers.needed}, reverse=True)
    of = {(one.family, one.error): one for one in answers.needed}
    rows = []
    for arm in (arm for arm in names if arm in answers.table.curves):
        cells = []
        for error in errors:
            one = of[arm, error]
            x = quantity(one.column)
            if math.isnan(one.x.value):
                beyond = error < one.lowest
                cells.append(f"> {x.number(one.measured[1])}" if beyond else f"< {x.number(one.measured[0])}")
                continue
            span = f" ({x.number(one.x.low)} – {x.number(one.x.high)})" if one.x.is_telling else ""
            cells.append(x.number(one.x.value) + span)
        rows.append((names[arm], *cells))
    return Table(
        name="images_needed",
        title="Images needed for a test error of",
        columns=("Arm", *(f"{100 * error:g}%" for error in errors)),
        rows=tuple(rows),
        note="First size at which the interpolated mean curve reaches the error, with its 95% interval where every "
        "deletion of a replicate reaches it too; > and <: beyond the sizes measured.",
    )


def cost_table_of(views: Sequence[CostView], names: Names, *, name: str, title: str) -> Table:
    """The best arm at equal cost, a row per size and cost."""
    rows = []
    for view in views:
        of = quantity(view.column)
        rows += [(f"{view.num_train:,}", of.number(one.x), *choice_cells(one, names)) for one in view.choices]
    return Table(
        name=name,
        title=title,
        columns=("N", quantity(views[0].column).heading, *CHOICE_COLUMNS),
        rows=tuple(rows),
        num_label_columns=5,
    )


def variance_table(split: VarianceSplit, names: Names) -> Table:
    """Relative standard deviation of errors per arm, sizes and the seeds that differ."""
    by = ["arm", "varied", "num_pretrain", "num_train"]
    pretrained = not (split.parts["num_pretrain"] == 0).all()
    rows = [
        (
            names[row["arm"]],
            row["varied"].replace("+", ", "),
            *((pretrained_text(row["num_pretrain"]),) if pretrained else ()),
            f"{row['num_train']:,}",
            f"{100 * row['log_std']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
            if row["degrees"] >= FEWEST_FOR_INTERVAL - 1
            else "none of 1 degree of freedom",
            str(row["degrees"]),
        )
        for row in split.parts.sort_values(by, kind="stable").to_dict("records")
    ]
    return Table(
        name="variance",
        title="Spread over seeds",
        columns=(
            "Arm",
            "Seeds that differ",
            *(("Pretrained on",) if pretrained else ()),
            "N",
            "Relative standard deviation %",
            "95% interval",
            "Degrees of freedom",
        ),
        rows=tuple(rows),
        note="Standard deviation of log errors between cells that share all other seeds, with its chi-square interval.",
        num_label_columns=3 if pretrained else 2,
    )


def statements_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Every finding as a sentence."""
    return Table(
        name="statements",
        title="Every finding",
        columns=("Question", "Answer"),
        rows=tuple(rows),
        num_label_columns=2,
        prose=True,
    )


def interval_text(low: float, high: float, form: str = "{:.2f}") -> str:
    """`0.91 to 1.20`, or that there is none."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    return f"{form.format(low)} to {form.format(high) if np.isfinite(high) else 'unlimited'}"


def p_text(p: float) -> str:
    """A p-value: `.012`, `< .001`."""
    if math.isnan(p):
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"
