"""What a study answers, in sentences: what its starts are worth or where its pair differs, then what to choose.

Errors are in percent, arms are called by their labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from studies.analysis.answers import Answers
from studies.analysis.choice import SEPARATED, Choice, Needed, at_least, probability_text
from studies.analysis.crossover import Crossover
from studies.analysis.fitted_curve import CurveFit
from studies.analysis.floors import Floor
from studies.analysis.of_records import RULES, Rule
from studies.analysis.paired import PairedTests
from studies.analysis.quantity import quantity
from studies.analysis.study import CostView, StudyAnswers
from studies.counts import counted, listed

from .card import StudyCard
from .fit_tables import floor_verdict, hull
from .starts_table import gain_statements
from .tables import percent

Names = Mapping[str, str]

READ_AT: dict[Rule, str] = {"selected": "at the branch chosen on validation", "full_budget": "at the full budget"}


def progress_statement(frame: pd.DataFrame, card: StudyCard) -> str:
    """How much of the study there is, and what of it is in trouble; empty when every planned cell is finished."""
    status = frame.drop_duplicates("cell_id")["status"]
    usable = int(status.isin(["finished", "diverged"]).sum())
    waiting = max(card.num_cells - len(status) - card.num_damaged, 0)
    counts = {name: int((status == name).sum()) for name in ("failed", "invalid", "diverged")}
    planned, verb = counted(card.num_cells, "planned cell"), "is" if card.num_cells == 1 else "are"
    named = "; the section on failed and diverged cells names them and what they do to the answers."
    if usable >= card.num_cells:
        if not (diverged := counts["diverged"]):
            return ""
        return f"Of {planned} {diverged:,} diverged and {'counts' if diverged == 1 else 'count'} at chance{named}"
    parts = [f"{usable:,} of {planned} {verb} finished"]
    if counts["diverged"]:
        parts[0] += f" ({counts['diverged']:,} of them diverged, at chance)"
    parts += [f"{counts[name]:,} {name}" for name in ("failed", "invalid") if counts[name]]
    if card.num_damaged:
        parts.append(f"{card.num_damaged:,} with a damaged record, which the next run trains again")
    if waiting:
        parts.append(f"{waiting:,} not trained yet")
    if not usable:
        tail = "; there is nothing to show yet."
    else:
        tail = "; what follows describes the finished cells only"
        tail += named if any(counts.values()) else "."
    return "This study is incomplete: " + ", ".join(parts) + tail


def main_statements(answers: StudyAnswers, card: StudyCard, families: Mapping[str, str], names: Names) -> list[str]:
    """The answers that open a report.

    Args:
        answers: of the study.
        card: the study as declared.
        families: of every arm.
        names: labels of the arms.
    """
    primary = answers.primary
    if primary is None:
        return []
    gains = gain_statements(answers.against_scratch, names, card.primary_pair)
    over_budgets = compute_statements(answers, names)
    compared = over_budgets or crossover_statements(answers, names) or alone_statements(primary, names)
    told = gains + compared
    if primary.pair is not None and not over_budgets:
        told += [one.sentence(names) for one in primary.multipliers[:1]]
    told += choice_statements(primary.choices, names)
    told += floor_statements(primary, card, families, names)
    return told


def crossover_statements(answers: StudyAnswers, names: Names) -> list[str]:
    """The crossover of the declared pair under both rules; without such a pair, which of all pairs cross."""
    told: list[str] = []
    for rule in RULES:
        if rule not in answers.by_rule:
            continue
        one = answers.by_rule[rule]
        if one.pair is None:
            text = _pairs_that_cross(one, names)
        elif any({gain.first, gain.second} == set(one.pair) for gain in answers.against_scratch):
            text = one.crossovers[0].sentence(names)  # at which sizes its arms differ is said of the start
        else:
            text = pair_statement(one.crossovers[0], names)
        if rule == "selected" or not told:
            told += [text] if text else []
        elif text:
            start = "Read at the full budget, instead of at the branch chosen on validation,"
            told.append(
                f"{start} the answer is the same." if text == told[0] else f"{start} the answer is this. {text}"
            )
    return told


def pair_statement(one: Crossover, names: Names) -> str:
    """The crossover; where it is not resolved, first at which sizes one of the two is significantly better."""
    told, tests = one.sentence(names), one.tests.tests
    winners = {x: winner for x, winner in one.tests.better() if winner is not None}
    if one.decision != "not resolved" or not winners:
        return told
    of, parts = quantity(one.column), []
    at = "with" if of.counts_images else "at"
    for arm in dict.fromkeys(winners.values()):
        rows = tests[[winners.get(float(x)) == arm for x in tests["x"]]]
        other, own = ("second", "first") if arm == one.first else ("first", "second")
        errors = [
            f"{percent(math.exp(row[f'log_error_{own}']))}% against {percent(math.exp(row[f'log_error_{other}']))}%"
            for row in rows.to_dict("records")
        ]
        sizes = listed([of.number(x) for x in rows["x"]])
        rival = names[one.second if arm == one.first else one.first]
        parts.append(
            f"{at} {sizes} {of.unit} {names[arm]} is significantly better than {rival} (errors {listed(errors)})"
        )
    text = "; ".join(parts)
    tested = tests["p_value"].notna()
    for rows, what in ((tests[tested], "is not significant"), (tests[~tested], "cannot be tested")):
        if open_ones := [of.number(x) for x in rows["x"] if float(x) not in winners]:
            text += f"; {at} {listed(open_ones)} {of.unit} the difference {what}"
    corrected = f"paired t-tests, corrected by Holm over {of.places(one.tests.num_tests)}"
    return f"{text[:1].upper()}{text[1:]} ({corrected}). {told}"


def alone_statements(answers: Answers, names: Names) -> list[str]:
    """Where a single arm began and ended."""
    told = []
    for arm, curve in answers.table.curves.items():
        of = curve.quantity
        ends = [f"{percent(math.exp(curve.mean[i]))}% with {of.value(curve.x[i])}" for i in (0, -1)]
        told.append(f"Only {names[arm]} was measured; its mean error is {' and '.join(dict.fromkeys(ends))}.")
    return told


def _pairs_that_cross(answers: Answers, names: Names) -> str:
    """Of all pairs, corrected over one another; empty with a single arm."""
    if not answers.crossovers:
        return ""
    of = [one for one in answers.crossovers if one.decision == "crosses"]
    none = sum(one.decision == "none below x_max" for one in answers.crossovers)
    pairs = len(answers.crossovers)
    tested = sum(not math.isnan(one.p_crosses) for one in answers.crossovers)
    if not tested:
        return _pairs_without_a_test(answers.crossovers)
    family = "corrected by Holm over them"
    if tested < pairs:
        family = f"corrected by Holm over the {tested} that can be tested"
    start = (
        f"No pair was declared. Of all {counted(pairs, 'pair')}, {family}, {len(of)} "
        f"{'crosses' if len(of) == 1 else 'cross'}; in {none} one arm is better at every size; "
        f"{pairs - len(of) - none} {'is' if pairs - len(of) - none == 1 else 'are'} not resolved."
    )
    return " ".join([start, *(one.sentence(names) for one in of)])


def _pairs_without_a_test(crossovers: Sequence[Crossover]) -> str:
    """That nothing can be said of any pair, and why."""
    pairs = counted(len(crossovers), "pair")
    compared = any(not one.tests.tests.empty for one in crossovers)
    why = "no two arms share two replicates at any size" if compared else "no two arms were measured at a common size"
    return f"No pair was declared, and whether any of {pairs} crosses is not known: a test needs replicates, and {why}."


def choice_statements(choices: Sequence[Choice], names: Names) -> list[str]:
    """Which arm to choose at which sizes, and at which sizes the data do not say."""
    compared = [one for one in choices if one.runner_up is not None]
    of_data = all(quantity(one.column).counts_images for one in choices)
    place, budget = ("with", "this budget") if of_data else ("at", "each budget")
    told = []
    if known := [one for one in compared if not math.isnan(one.probability)]:
        parts = []
        sure = [one for one in known if one.probability >= SEPARATED]
        for family in dict.fromkeys(one.family for one in sure):
            of = [one for one in sure if one.family == family]
            bound = len(of) > 1 or any(len(one.against) > 1 for one in of)
            least = at_least(min(one.probability for one in of), "at least " if bound else "")
            significant = _significance(of, choices)
            parts.append(f"{place} {_sizes(of, choices)} {names[family]} (probability {least}{significant})")
        if parts:
            told.append(f"What to choose at {budget}: {'; '.join(parts)}.")
        if any(one.significance for one in sure):
            sizes = "sizes" if of_data else "budgets"
            told.append(f"Significance is that of paired t-tests, corrected by Holm over the {sizes}.")
        if unsure := [one for one in known if one not in sure]:
            told.append(_not_separated(unsure, names, choices))
    if blind := [one for one in compared if math.isnan(one.probability)]:
        parts = [f"{names[one.family]} {place} {quantity(one.column).value(one.x)}" for one in blind]
        told.append(f"Lowest errors, without replicates and therefore without a probability: {', '.join(parts)}.")
    return [" ".join(told)] if told else []


def _significance(of: Sequence[Choice], among: Sequence[Choice]) -> str:
    """At which of its sizes an arm is significantly better as well; a probability alone does not say so."""
    known = [one for one in of if one.significance]
    better = [one for one in known if one.corrected_p <= one.level]
    if not known:
        return ""
    than = " than every other arm" if any(len(one.against) > 1 for one in known) else ""
    if better and len(better) < len(known):
        return f"; significantly better{than} only {_at(better)} {_sizes(better, among)}"
    return f"; {'' if better else 'not '}significantly better{than}"


def _at(choices: Sequence[Choice]) -> str:
    return "with" if quantity(choices[0].column).counts_images else "at"


def _not_separated(choices: Sequence[Choice], names: Names, among: Sequence[Choice] = ()) -> str:
    """Choices whose family has too small a probability of being the best, among all that were asked for."""
    by_family = {one.family: [own for own in choices if own.family == one.family] for one in choices}
    lowest = [
        f"{names[family]} {', '.join(f'{percent(one.error)}%' for one in of)}{_chance_of_best(of)}"
        for family, of in by_family.items()
    ]
    start = "With" if quantity(choices[0].column).counts_images else "At"
    means = "the lowest mean error is that of" if len(choices) == 1 else "the lowest mean errors are those of"
    return f"{start} {_sizes(choices, among)} the data do not separate the best; {means} {listed(lowest)}."


def _chance_of_best(of: Sequence[Choice]) -> str:
    """Of one family; with several others only a bound is known, and a bound that says nothing is not told."""
    if all(len(one.against) == 1 for one in of):
        return f" (probability of being best {', '.join(probability_text(one.probability) for one in of)})"
    bounds = ["0" if text.startswith("<") else text for text in (probability_text(one.probability) for one in of)]
    return f" (probability of being best at least {', '.join(bounds)})" if set(bounds) != {"0"} else ""


def _sizes(choices: Sequence[Choice], among: Sequence[Choice] = ()) -> str:
    """`64 and 1,024 to 16,384 images`: three neighbours or more among all that were asked for become a range."""
    of, every = quantity(choices[0].column), [one.x for one in among]
    runs: list[list[float]] = []
    for one in choices:
        follows = runs and one.x in every and every.index(one.x) == every.index(runs[-1][-1]) + 1
        runs = [*runs[:-1], [*runs[-1], one.x]] if follows else [*runs, [one.x]]
    numbers = [
        word
        for run in runs
        for word in ([f"{of.number(run[0])} to {of.number(run[-1])}"] if len(run) > 2 else [of.number(x) for x in run])
    ]
    return f"{listed(numbers)} {of.unit}"


def choice_statement(one: Choice, names: Names) -> str:
    """A choice, unless the data do not separate the best."""
    if one.runner_up is None or math.isnan(one.probability) or one.probability >= SEPARATED:
        return one.sentence(names)
    return _not_separated([one], names)


def needed_statement(one: Needed, names: Names) -> str:
    """How much of x an arm needs for an error, in percent."""
    of, name, error = quantity(one.column), names[one.family], f"a test error of {100 * one.error:g}%"
    if math.isnan(one.x.value):
        if one.error < one.lowest:
            top = of.value(one.measured[1])
            return f"{name} does not reach {error} up to {top} (lowest mean error {percent(one.lowest)}%)."
        return f"{name} is below {error} already with {of.value(one.measured[0])} ({percent(one.highest)}%)."
    interval = ""
    if one.x.is_telling:
        interval = f", {100 * one.x.confidence:g}% interval {of.number(one.x.low)} to {of.number(one.x.high)}"
    return f"For {error} {name} needs about {of.value(one.x.value)}{interval}."


def floor_statements(answers: Answers, card: StudyCard, families: Mapping[str, str], names: Names) -> list[str]:
    """Whether the fitted floors of convolutional arms hold lambda; nothing without such arms or lambda."""
    if not card.floor:
        return []
    parts = []
    for arm, floor in answers.floors.items():
        if families[arm] == "resnet":
            last = f"{names[arm]} is at {percent(math.exp(answers.table.curves[arm].mean[-1]))}% with the most images"
            parts.append(f"{last}; {_floor_text(floor, card.floor)}" if floor.by_form else last)
    if not parts:
        return []
    text = f"An exactly translation-invariant model cannot get below λ = {100 * card.floor:.3g}%"
    return [f"{text}. {'. '.join(parts)}."]


def _floor_text(fitted: Floor, floor: float | None) -> str:
    text, estimate = f"its fitted floor is {percent(fitted.value)}%", hull(fitted)
    if not estimate.has_interval:
        return text
    span = f"{percent(estimate.low)}% to {percent(estimate.high)}%"
    forms = f" over forms {' and '.join(fitted.by_form)}" if len(fitted.by_form) > 1 else ""
    return f"{text}, {100 * estimate.confidence:g}% interval {span}{forms} ({floor_verdict(estimate, floor)})"


def compute_statements(answers: StudyAnswers, names: Names) -> list[str]:
    """What holds at equal compute, for a study of one training set, whose curves run over its budgets alone."""
    curves = answers.primary.table.curves.values() if answers.primary else ()
    if len({x for curve in curves for x in curve.x}) != 1:
        return []
    told = [(*cost_statements(view, names), *choice_statements(view.choices, names)) for view in answers.compute]
    return [text for of_view in told for text in of_view]


def cost_statements(view: CostView, names: Names) -> list[str]:
    """What holds at equal cost, for one number of training images."""
    told = [one.sentence(names) for one in (view.crossover, view.multiplier) if one is not None]
    return [f"With {view.num_train:,} training images: {text}" for text in told]


def every_statement(answers: StudyAnswers, card: StudyCard, names: Names) -> list[tuple[str, str]]:
    """(question, answer) of every finding, the main ones first."""
    rows: list[tuple[str, str]] = []
    for rule, of in answers.by_rule.items():
        where = READ_AT[rule]
        rows += [(f"Crossover, {where}", one.sentence(names)) for one in of.crossovers]
        rows += [(f"Paired tests, {where}", _tests_of(one.tests, names)) for one in of.crossovers]
        rows += [(f"Data multiplier, {where}", one.sentence(names)) for one in of.multipliers]
        rows += [(f"Choice, {where}", choice_statement(one, names)) for one in of.choices]
        rows += [(f"Images needed, {where}", needed_statement(one, names)) for one in of.needed]
        for arm, fit in of.fits.items():
            text = fit.sentence(names)
            if isinstance(fit, CurveFit):
                text = f"{names[arm]}: form {fit.form}"
                text += f"; {_floor_text(of.floors[arm], card.floor)}." if of.floors[arm].by_form else "."
            rows.append((f"Fit, {where}", text))
    for what, views in (("Equal compute", answers.compute), ("Equal seconds, packed runs", answers.seconds)):
        for view in views:
            start = f"With {view.num_train:,} training images: "
            rows += [(what, text) for text in cost_statements(view, names)]
            rows += [(what, start + choice_statement(one, names)) for one in view.choices]
    if not answers.variance.parts.empty:
        rows.append(("Spread over seeds", answers.variance.sentence(names)))
    return rows


def _tests_of(tests: PairedTests, names: Names) -> str:
    if tests.tests.empty:
        return f"{names[tests.first]} and {names[tests.second]} have no size and replicate in common."
    return tests.sentence(names)


def statement_families(frame: pd.DataFrame) -> dict[str, str]:
    """The family of every arm."""
    arms = frame.drop_duplicates("arm")
    return dict(zip(arms["arm"], arms["family"], strict=True))
