"""The ladder in a report: its bars, its tables, its place, and that everything else is of images as they are."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from report.cards import CARD
from report.synthetic import LADDER, ladder_records, study_records
from studies.analysis.ladder import Ladder, permutation_ladder
from studies.records import records_frame
from studies.report.ladder_section import ladder_difference_table, ladder_remarks, ladder_table, plot_ladder
from studies.report.palette import looks_of
from studies.report.write import ReportPaths, write_report

RECORDS = ladder_records(noise=0.05)
FRAME = records_frame(RECORDS, "nano")
NAMES = {arm: look.label for arm, look in looks_of(FRAME).items()}


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    found = permutation_ladder(FRAME, pair=("resnet", "vit"), chance=0.5)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    card = dataclasses.replace(CARD, num_cells=len(RECORDS), tier="nano")
    return write_report(RECORDS, card, tmp_path_factory.mktemp("report"))


def test_bars_are_the_errors_and_the_factors(ladder: Ladder) -> None:
    left, right = plot_ladder(ladder, looks_of(FRAME), CARD).axes
    assert len(left.patches) == len(LADDER) * 4
    assert len(right.patches) == len(LADDER) * 3
    heights = sorted(bar.get_height() for bar in left.patches)
    assert heights == pytest.approx(sorted(100 * ladder.errors["mean"]))
    tops = sorted(bar.get_y() + bar.get_height() for bar in right.patches)
    assert tops == pytest.approx(sorted(math.exp(c) for one in ladder.changes for c in one.tests["change"]))
    assert [label.get_text() for label in left.get_xticklabels()] == ["ViT", "ResNet", "Fully\nconnected"]


def test_the_table_has_a_row_per_arm_and_rung(ladder: Ladder) -> None:
    table = ladder_table(ladder, NAMES)
    assert [row[:2] for row in table.rows[:4]] == [
        ("ViT", "as they are"), ("ViT", "within patches"), ("ViT", "patches"), ("ViT", "all pixels")
    ]  # fmt: skip
    assert table.rows[0][4] == "–"
    assert [row[3].endswith("‡") for row in table.rows] == [rung == ("ViT", "all pixels") for rung in
                                                            (row[:2] for row in table.rows)]  # fmt: skip
    difference = ladder_difference_table(ladder, NAMES)
    assert [row[0] for row in difference.rows] == ["within patches", "patches", "all pixels"]
    row = ladder.differences[0].tests.iloc[0]
    assert difference.rows[0][2] == f"{math.exp(row['unpermuted']):.2f}"
    assert row["difference"] < 0
    assert difference.rows[0][4] == "ResNet"
    assert difference.rows[0][5] == (
        f"{math.exp(-row['difference']):.2f} ({math.exp(-row['high']):.2f} to {math.exp(-row['low']):.2f})"
    )
    assert f"{difference.rows[0][5]} at " in ladder.differences[0].sentence(NAMES), "as the sentence has it"
    assert table.columns[2] == difference.columns[1] == "Training images N"


def test_the_larger_factor_is_named_whichever_arm_comes_first(ladder: Ladder) -> None:
    turned = permutation_ladder(FRAME, pair=("vit", "resnet"), chance=0.5)
    assert turned is not None
    rows, again = (ladder_difference_table(one, NAMES).rows for one in (ladder, turned))
    assert [row[4:] for row in again] == [row[4:] for row in rows]


def test_a_difference_at_chance_is_marked_and_has_no_p(ladder: Ladder) -> None:
    table = ladder_difference_table(ladder, NAMES)
    assert [row[5].endswith(" ‡") for row in table.rows] == [False, False, True], "ViT is near chance at the last rung"
    assert [row[6] == "not told: at chance" for row in table.rows] == [False, False, True]
    assert "‡ An arm is above 0.8 of chance" in table.note
    room = permutation_ladder(FRAME, pair=("resnet", "vit"), chance=0.9)
    assert room is not None
    assert "‡" not in ladder_difference_table(room, NAMES).markdown()


def test_a_report_of_a_pair_without_unpermuted_cells_says_why(tmp_path: Path) -> None:
    records = [one for one in RECORDS if (one.cell["family"], one.cell["permutation"]) != ("vit", "none")]
    paths = write_report(records, dataclasses.replace(CARD, num_cells=len(RECORDS), tier="nano"), tmp_path)
    assert any("cannot be compared: no finished cell of ViT on images as they are" in one for one in paths.statements)
    assert "vit on images as they are: no finished cell." in paths.page.read_text()
    assert "ladder_difference" not in {path.stem for path in paths.tables}


def test_it_is_said_who_cannot_lose_more(ladder: Ladder) -> None:
    assert ladder_remarks(ladder, NAMES) == [
        "With all pixels permuted, ViT is above 0.8 of chance: an error that cannot rise further says how much is lost "
        "at least, not how much."
    ]


def test_a_report_begins_with_the_ladder_and_its_curves_are_unpermuted(report: ReportPaths) -> None:
    assert report.statements[0].startswith("With pixels permuted within patches, the errors of ResNet")
    page = report.page.read_text()
    assert page.index("What permutations of the images cost") < page.index("Data curves")
    assert {path.stem for path in report.figures} >= {"ladder", "data_curves"}
    answers = json.loads(report.answers.read_text())
    curves = answers["by_rule"]["selected"]["curves"]
    assert curves["vit"]["num_replicates"] == [5]
    assert curves["vit"]["error"][0] == pytest.approx(LADDER["vit"]["none"], rel=0.1)
    assert len(answers["ladder"]["findings"]) == 6
    tables = {path.stem: path.read_text() for path in report.tables}
    assert tables["cells"].count("\n| ") == 1 + 1 + len(RECORDS), "the cells of all rungs are listed"


def test_a_study_without_a_ladder_has_no_such_section(tmp_path: Path) -> None:
    records = study_records({"vit": lambda _: 0.2, "resnet": lambda _: 0.1}, sizes=(128, 512))
    paths = write_report(records, dataclasses.replace(CARD, num_cells=len(records)), tmp_path)
    assert "permutations of the images" not in paths.page.read_text()
    assert "ladder" not in json.loads(paths.answers.read_text())
    assert not {path.stem for path in (*paths.figures, *paths.tables)} & {"ladder", "ladder_difference"}
