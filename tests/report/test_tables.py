"""The tables: the numbers of the answers in one unit, ties not called winners."""

from __future__ import annotations

import dataclasses
import math

import pytest

from report.cards import CARD
from report.synthetic import make_record, power_error, study_records
from studies.analysis.jackknife import Estimate
from studies.analysis.study import StudyAnswers, analyse_study
from studies.records import Record, records_frame
from studies.report.answer_tables import (
    choice_table,
    cost_table_of,
    difference_table,
    interval_text,
    multiplier_table,
    needed_table,
    p_text,
    paired_table,
    variance_table,
)
from studies.report.contents import report_tables
from studies.report.drawings import drawings, material
from studies.report.fit_tables import fits_table, floor_verdict, floors_table, hull
from studies.report.tables import Table, cost_table, error_table, percent, settings_table

NAMES = {"vit": "ViT", "resnet": "ResNet", "mixer": "MLP-Mixer", "mlp": "Fully connected"}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=3)


@pytest.fixture(scope="module")
def answers(records: list[Record]) -> StudyAnswers:
    return analyse_study(records_frame(records), pair=("resnet", "vit"), chance=0.5)


def test_error_table_rows() -> None:
    table = error_table(records_frame(make_record(replicate=i, error=e) for i, e in enumerate([0.2, 0.22])))
    assert table.columns == ("Arm", "N = 512", "Replicates")
    assert table.rows == (("ViT", "21.0", "2"),)
    assert "| ViT | 21.0 | 2 |" in table.markdown()
    assert "Two replicates carry no useful interval" in table.note


def test_a_single_branch_is_shown_once_with_its_cost() -> None:
    only = [
        record.model_copy(update={"branches": (record.branches[-1].model_copy(update={"selected": True}),)})
        for record in study_records(replicates=3)
    ]
    frame = records_frame(only)
    of = material(frame, CARD, analyse_study(frame, pair=("resnet", "vit"), chance=0.5))
    tables, figures = report_tables(of), drawings(of)
    assert not [name for name in (*tables, *figures) if name.endswith("full_budget")]
    assert {"test_error_selected", "cost"} <= set(tables)
    assert {"data_curves", "cost"} <= set(figures)


def test_cost_table_flags_exact_flops_beyond_five_percent(records: list[Record]) -> None:
    rows = {row[0]: row for row in cost_table(records_frame(records)).rows}
    assert rows["ViT"][4] == "1.0000 – 1.0000"
    assert "differs" not in rows["ResNet"][5]
    assert rows["Fully connected"][5].endswith("(differs)")
    assert rows["Fully connected"][6] == "12 – 14 on cpu"
    off = records[0].branches[0].model_copy(update={"train_flops": int(records[0].branches[0].train_flops * 1.004)})
    moved = records[0].model_copy(update={"branches": (off, *records[0].branches[1:])})
    rows = {row[0]: row for row in cost_table(records_frame([moved, *records[1:]])).rows}
    assert rows["ViT"][4] == "1.0000 – 1.0040"


def test_a_run_that_diverged_early_does_not_lower_the_cost_of_its_arm(records: list[Record]) -> None:
    """Its branches end where the loss was no number: what they cost is not what a run costs."""

    def ended_early(record: Record) -> Record:
        cut = {"diverged": True, "train_flops": 9, "train_flops_exact": 8}
        branches = tuple(branch.model_copy(update=cut) for branch in record.branches)
        return record.model_copy(update={"status": "diverged", "branches": branches, "train_seconds": 0.1})

    whole = {row[0]: row for row in cost_table(records_frame(records)).rows}
    mixer = [record for record in records if record.cell["family"] == "mixer"]
    some = [ended_early(record) if record == mixer[0] else record for record in records]
    table = cost_table(records_frame(some))
    assert {row[0]: row for row in table.rows} == whole
    assert table.note.endswith("Diverged runs, which ended early, are left out.")
    none = [ended_early(record) if record in mixer else record for record in records]
    rows = {row[0]: row for row in cost_table(records_frame(none)).rows}
    assert rows["MLP-Mixer"] == (*whole["MLP-Mixer"][:3], "–", "–", "–", "–")
    assert rows["ResNet"] == whole["ResNet"]
    every = cost_table(records_frame([ended_early(record) for record in records]))
    assert {row[3:] for row in every.rows} == {("–",) * 4}


def test_settings_table(records: list[Record]) -> None:
    assert settings_table(records_frame(records)).rows[1][:4] == ("ResNet", "0.002", "0.05", "128")


def test_percent() -> None:
    assert percent(0.212, 0.013) == "21.2 ± 1.3"
    assert percent(0.0054) == "0.54"


def test_the_declared_pair_is_tested_at_every_size(answers: StudyAnswers) -> None:
    of = answers.by_rule["selected"]
    table = difference_table(of.crossovers[0], "selected", NAMES)
    assert [row[0] for row in table.rows] == ["128", "512", "2,048", "8,192"]
    ratio = math.exp(of.crossovers[0].tests.tests["difference"].iloc[0])
    assert table.rows[0][2] == f"{ratio:.2f}"
    for row, (_, better) in zip(table.rows, of.crossovers[0].tests.better(), strict=True):
        assert row[1] == (f"{NAMES[better]} better" if better else "not separated")
    assert len(paired_table(of, "selected", NAMES).rows) == 6 * 4


def test_the_multiplier_table_is_the_multiplier(answers: StudyAnswers) -> None:
    of = answers.by_rule["selected"].multipliers[0]
    table = multiplier_table(of, NAMES)
    for row, known in zip(table.rows, of.by_x.to_dict("records"), strict=True):
        assert row[3] == ("–" if math.isnan(known["multiplier"]) else f"{known['multiplier']:.2f}")
    assert any(row[3] != "–" for row in table.rows)


def test_ties_are_not_called_winners() -> None:
    same = {"vit": power_error(3, 0.4), "resnet": power_error(3, 0.4)}
    of = analyse_study(records_frame(study_records(same, replicates=3, noise=0.1)), chance=0.5).by_rule["selected"]
    verdicts = {row[0]: row[3] for row in choice_table(of.choices, NAMES, name="choices", title="").rows}
    for choice in of.choices:
        size = f"{choice.x:,.0f}"
        sure = choice.probability >= 0.9
        significant = "significant" if choice.corrected_p <= 0.05 else "not significant"
        assert verdicts[size] == (f"choose {NAMES[choice.family]}, {significant}" if sure else "not separated")
    assert "not separated" in verdicts.values()


def test_without_replicates_nothing_is_chosen() -> None:
    of = analyse_study(records_frame(study_records(replicates=1)), chance=0.5).by_rule["selected"]
    rows = choice_table(of.choices, NAMES, name="choices", title="").rows
    assert {row[3] for row in rows} == {"no replicates"}
    alone = analyse_study(records_frame([make_record()]), chance=0.5).by_rule["selected"]
    assert choice_table(alone.choices, NAMES, name="choices", title="").rows[0][3] == "alone"


def test_images_needed_are_bounded_where_they_are_not_measured(answers: StudyAnswers) -> None:
    of = answers.by_rule["selected"]
    table = needed_table(of, NAMES)
    assert [row[0] for row in table.rows] == list(NAMES.values())
    cells = {(row[0], column): cell for row in table.rows for column, cell in zip(table.columns, row, strict=True)}
    for one in of.needed:
        cell = cells[NAMES[one.family], f"{100 * one.error:g}%"]
        if math.isnan(one.x.value):
            assert cell == ("> 8,192" if one.error < one.lowest else "< 128")
        else:
            assert 128 <= one.x.value <= 8192
            assert not cell.startswith((">", "<"))


def test_cost_tables_have_a_row_per_size_and_branch(answers: StudyAnswers) -> None:
    table = cost_table_of(answers.compute, NAMES, name="equal_compute", title="")
    assert [row[0] for row in table.rows] == ["8,192"] * 4 + ["512"] * 4
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_floors_stand_against_lambda(answers: StudyAnswers) -> None:
    of = answers.by_rule["selected"]
    rows = {row[0]: row for row in floors_table(of, NAMES, 0.06).rows}
    floor = hull(of.floors["resnet"])
    assert rows["ResNet"][2] == percent(floor.value)
    assert rows["ResNet"][4] == floor_verdict(floor, 0.06)


@pytest.mark.parametrize(
    ("low", "high", "floor", "verdict"),
    [
        (0.05, 0.07, 0.06, "contains λ"),
        (0.01, 0.05, 0.06, "below λ"),
        (0.07, 0.09, 0.06, "above λ"),
        (0.0, 0.07, 0.06, "no floor resolved"),
        (0.0, 0.05, 0.06, "no floor resolved, below λ"),
        (0.0, 0.05, None, "no floor resolved"),
        (0.01, 0.05, None, "above zero"),
        (math.nan, math.nan, 0.06, "no interval"),
    ],
)
def test_floor_verdicts(low: float, high: float, floor: float | None, verdict: str) -> None:
    assert floor_verdict(Estimate((low + high) / 2, low, high, 0.95, 4), floor) == verdict


def test_fits_say_their_form_and_why(answers: StudyAnswers) -> None:
    of = answers.by_rule["selected"]
    rows = {row[0]: row for row in fits_table(of, "selected", NAMES).rows}
    fit = of.fits["vit"]
    assert rows["ViT"][1] == fit.form
    assert f"[{fit.coefficients['exponent'].low:.3g}, {fit.coefficients['exponent'].high:.3g}]" in rows["ViT"][4]
    assert fit.choice.why in rows["ViT"][6]


def test_a_curve_that_cannot_be_fitted_says_why() -> None:
    frame = records_frame(study_records(sizes=(128, 512), replicates=2))
    of = analyse_study(frame, chance=0.5).by_rule["selected"]
    rows = fits_table(of, "selected", NAMES).rows
    assert all(row[1] == "none" and "parameters" in row[-1] for row in rows)
    assert all(row[-1] == "no fit" for row in floors_table(of, NAMES, CARD.floor).rows)


def test_the_spread_over_seeds_is_a_table(answers: StudyAnswers) -> None:
    table = variance_table(answers.variance, NAMES)
    assert len(table.rows) == len(answers.variance.parts) == 4 * 4
    assert {row[1] for row in table.rows} == {"subset, order, initialization, augmentation"}
    first = answers.variance.parts.sort_values("arm", kind="stable").iloc[0]
    assert table.rows[0][3] == f"{100 * first['log_std']:.1f}"


def test_intervals_and_p_values_in_words() -> None:
    assert interval_text(0.5, 2.0) == "0.50 to 2.00"
    assert interval_text(math.nan, math.nan) == "no interval"
    assert interval_text(0.5, math.inf) == "0.50 to unlimited"
    assert [p_text(p) for p in (0.0004, 0.0123, 1.0, math.nan)] == ["< .001", ".012", "1", "–"]


def test_prose_is_wrapped_and_escaped() -> None:
    table = Table("one", "One", ("A",), (("<b>|</b>",),), prose=True)
    assert 'class="prose"' in table.html()
    assert "&lt;b&gt;" in table.html()
    assert "\\|" in table.markdown()
    assert 'class="prose"' not in dataclasses.replace(table, prose=False).html()
