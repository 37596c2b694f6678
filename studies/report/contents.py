"""What is on the page of a report: its tables, and the order in which everything comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from studies.analysis.finding import Finding
from studies.analysis.of_records import RULES, curve_points
from studies.analysis.study import StudyAnswers

from . import (
    answer_tables,
    few_shot_section,
    fit_tables,
    hyperparameters,
    ladder_section,
    probe_section,
    starts_table,
    statements,
    tables,
)
from .card import StudyCard
from .drawings import Material
from .methods import METHODS
from .page import Picture, Section
from .published_table import published_table
from .reservations import reservation_statements
from .tables import Table, has_starts
from .troubled_cells import troubled_remarks


def report_tables(of: Material) -> dict[str, Table]:
    """The tables by name."""
    frame, card, names, answers = of.frame, of.card, of.names, of.answers
    made = [tables.missing_table(of.every_row, card)]
    if len(frame):
        made += [tables.settings_table(of.every_row), tables.seeds_table(of.every_row)]
    if len(frame) and card.tuning is not None:
        made.append(hyperparameters.tuned_table(frame, card.tuning, card.executed_flops))
    for rule in RULES:
        if rule not in answers.by_rule:
            continue
        one = answers.by_rule[rule]
        made.append(tables.error_table(frame, rule, card.x))
        if one.pair is not None:
            made.append(answer_tables.difference_table(one.crossovers[0], rule, names))
        if len(one.crossovers) > 1:
            made.append(answer_tables.paired_table(one, rule, names))
        made.append(fit_tables.fits_table(one, rule, names))
    if (primary := answers.primary) is not None:
        made += _primary_tables(of)
        if (frame["start"] != "").any():
            made.append(starts_table.starts_table(frame))
        if answers.against_scratch:
            made.append(starts_table.gain_table(answers.against_scratch, names))
        if card.published is not None:
            made.append(published_table(frame, card.published, x=card.x))
        made += [answer_tables.statements_table(statements.every_statement(answers, card, names))]
        made += [tables.cells_table(of.every_row)]
        if rows := _left_out_of(primary.findings, names):
            made.append(tables.partial_table(rows))
    if (ladder := answers.ladder) is not None:
        made.append(ladder_section.ladder_table(ladder, names))
        if any(not one.tests.empty for one in ladder.differences):
            made.append(ladder_section.ladder_difference_table(ladder, names))
    if of.probes is not None:
        made += probe_section.probe_tables(of.probes, of.looks)
    if of.few_shot is not None and len(of.few_shot.frame):
        made.append(few_shot_section.few_shot_table(of.few_shot))
    if not curve_points(frame, "full_budget").empty:
        made.append(tables.cost_table(frame))
    return {table.name: table for table in made}


def _primary_tables(of: Material) -> list[Table]:
    names, answers, primary = of.names, of.answers, of.answers.primary
    assert primary is not None
    made = []
    if primary.pair is not None:
        made.append(answer_tables.multiplier_table(primary.multipliers[0], names))
    if len(primary.table.curves) > 1:
        title = "Which arm has the lowest error, and how sure that is"
        made.append(answer_tables.choice_table(primary.choices, names, name="choices", title=title))
    if primary.needed:
        made.append(answer_tables.needed_table(primary, names))
    made.append(fit_tables.floors_table(primary, names, of.card.floor))
    for views, name, title in (
        (answers.compute, "equal_compute", "Lowest error at equal compute"),
        (answers.seconds, "equal_seconds", "Lowest error at equal seconds of packed runs"),
    ):
        if any(one.runner_up is not None for view in views for one in view.choices):
            made.append(answer_tables.cost_table_of(views, names, name=name, title=title))
    if not answers.variance.parts.empty:
        made.append(answer_tables.variance_table(answers.variance, names))
    return made


def why_no_equal_compute(frame: pd.DataFrame, card: StudyCard) -> tuple[str, ...]:
    """Why nothing is said of other budgets than the full one."""
    if (frame.groupby("cell_id")["branch"].nunique() <= 1).all():
        text = "Every run has one branch, at the full budget, so that no error is known at a smaller one."
    elif card.x != "num_train":
        text = "Curves run over pretraining images here; errors are compared over budgets for training images N alone."
    else:
        return ()
    if has_starts(frame):
        text += " FLOPs of pretraining are no part of a budget: they stand in the table of what arms begin from."
    return (text,)


def _differing(answers: StudyAnswers) -> str:
    """What the declared pair differs in."""
    pair = answers.primary.multipliers[:1] if answers.primary is not None else ()
    return pair[0].differs_in if pair else "prior"


def _left_out_of(findings: Sequence[Finding], names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(answer, what, why) for everything that single answers do not rest on."""
    rows = []
    for finding in findings:
        kind = {"CurveFit": "Fit", "NoFit": "Fit", "Multiplier": "Data multiplier"}.get(
            type(finding).__name__, type(finding).__name__
        )
        arms = [str(getattr(finding, field)) for field in ("first", "second", "prior", "flexible", "family")
                if hasattr(finding, field)]  # fmt: skip
        title = f"{kind} of {' and '.join(names.get(arm, arm) for arm in arms)}"
        rows += [(title, item.what, item.reason) for item in finding.left_out]
    return list(dict.fromkeys(rows))


def sections(of: Material, pictures: Mapping[str, Picture], shown: Mapping[str, Table]) -> list[Section]:
    """The page below its answers: evidence first, then what is behind it."""
    answers, names = of.answers, of.names

    def section(
        heading: str,
        names: str = "",
        folded: str = "",
        *,
        closed: bool = False,
        remarks: Sequence[str] = (),
        paragraphs: Sequence[str] = (),
        facts: Sequence[tuple[str, str]] = (),
    ) -> Section:
        keys = names.split()
        return Section(
            heading,
            paragraphs=paragraphs,
            remarks=remarks,
            pictures=[pictures[key] for key in keys if key in pictures],
            tables=[shown[key] for key in keys if key in shown],
            folded=[shown[key] for key in folded.split() if key in shown],
            facts=facts,
            closed=closed,
        )

    compute = [text for view in answers.compute for text in statements.cost_statements(view, names)]
    seconds = [text for view in answers.seconds for text in statements.cost_statements(view, names)]
    ladder = [] if answers.ladder is None else ladder_section.ladder_remarks(answers.ladder, names)
    probed = [] if of.probes is None else probe_section.probe_remarks(of.probes)
    made = [
        section("What permutations of the images cost", "ladder ladder_difference", remarks=ladder),
        section("Data curves", "data_curves test_error_selected", "difference_selected paired_tests_selected"),
        section("What the arms begin from", "gain starts stages"),
        section("Few-shot on frozen features", "few_shot"),
        section("Beside the published numbers", "published"),
        section("What to choose", "choices", "images_needed"),
        section(f"What the {_differing(answers)} is worth", "data_multiplier"),
        section(
            "Why: what the networks assume",
            " ".join((*probe_section.FIGURES, *probe_section.TABLES)),
            remarks=probed,
        ),
        section("Where the curves end", "fitted_curves floors", "fits_selected"),
        section(
            "At equal compute",
            "error_against_flops equal_compute",
            remarks=compute,
            paragraphs=why_no_equal_compute(of.frame, of.card) if answers.primary and not answers.compute else (),
        ),
        section("Read with this in mind", remarks=reservation_statements(of.frame, of.card, answers)),
        section(
            "At the full budget",
            "data_curves_full_budget test_error_full_budget difference_full_budget",
            "paired_tests_full_budget fits_full_budget",
            closed=True,
        ),
        section("At equal seconds", "error_against_seconds equal_seconds", remarks=seconds, closed=True),
        section("Along the way", "validation_against_test training_loss variance", closed=True),
        section("What it cost", "cost", closed=True),
        section("Tuned hyper-parameters", "tuned", closed=True),
        section(
            "Cells failed, diverged or left out",
            "left_out",
            "left_out_of_answers",
            remarks=troubled_remarks(of.every_row, of.card, names),
        ),
        section("Every finding", "statements", closed=True),
        section("Methods", paragraphs=METHODS, closed=True),
        section("Provenance", folded="settings seeds cells", facts=_facts(of.frame, of.card), closed=True),
    ]
    return [
        one for one in made if one.pictures or one.tables or one.paragraphs or one.remarks or one.facts or one.folded
    ]


def _facts(frame: pd.DataFrame, card: StudyCard) -> list[tuple[str, str]]:
    facts = [
        ("Study", card.study_id),
        ("Plan hash", card.plan_hash),
        ("Protocol", card.protocol_version),
        ("Cells planned", f"{card.num_cells:,}"),
        ("Validation images", f"{card.num_validation:,}"),
        ("Chance error", f"{100 * card.chance_error:.4g}%"),
    ]
    if card.tuning is not None:
        facts.append(("Tuning", f"{card.tuning.name}, sha256 {card.tuning.sha256}"))
    if card.bayes_error is not None:
        facts.append(("Bayes error", f"{100 * card.bayes_error:.4g}%"))
    columns = {
        "data_fingerprint": "Data fingerprint",
        "num_test": "Test images",
        "code_version": "Code",
        "torch": "torch",
        "device": "Device",
        "host": "Host",
    }
    for column, term in columns.items():
        values = sorted({str(value) for value in frame[column].dropna().unique()})
        if values:
            facts.append((term, ", ".join(values)))
    return facts
