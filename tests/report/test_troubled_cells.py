"""Failed and diverged cells in a report: named, with what they do to the answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report.cards import CARD
from report.synthetic import failed_record, make_record, study_records
from studies.records import Record, records_frame
from studies.report import write_report
from studies.report.troubled_cells import MOST_PLACES, troubled_remarks

NAMES = {"vit": "ViT", "resnet": "ResNet", "mixer": "MLP-Mixer", "mlp": "Fully connected"}


def told(records: list[Record]) -> list[str]:
    return troubled_remarks(records_frame(records, "nano"), CARD, NAMES)


def test_a_study_without_trouble_says_nothing() -> None:
    assert told(study_records(replicates=2)) == []


def test_a_failed_cell_is_told_with_what_is_left_of_its_point() -> None:
    records = study_records(replicates=4)
    for size, left in ((512, 3), (2048, 2)):
        failed = [failed_record("vit", num_train=size, replicate=r, reason="killed") for r in range(4 - left)]
        ids = {one.cell_id for one in failed}
        records = [*failed, *(one for one in records if one.cell_id not in ids)]
    remarks = told(records)
    assert (
        "ViT, N = 512: 1 of 4 runs failed (killed); its point there rests on 3 runs, with a wider interval." in remarks
    )
    useless = "its point there rests on two runs, which carry no useful interval."
    assert f"ViT, N = 2,048: 2 of 4 runs failed (killed); {useless}" in remarks
    assert "with --retry failed added" in remarks[-1]
    assert "leave out the whole row" in remarks[-1]


def test_a_point_without_any_run_is_told_of() -> None:
    records = [failed_record("mlp", num_train=128, replicate=r) for r in range(2)]
    assert "its curve has no point there" in told([*records, *study_records(replicates=1, sizes=(512,))])[0]


def test_a_diverged_cell_counts_at_chance_only_where_its_chosen_branch_diverged() -> None:
    lost = make_record("vit", num_train=128, branch_errors=[0.5] * 4, status="diverged", reason="nan")
    healthy = [branch.model_copy(update={"diverged": branch.fraction == 0.125}) for branch in lost.branches]
    saved = make_record("vit", num_train=128, replicate=1, status="diverged").model_copy(
        update={"branches": tuple(branch.model_copy(update={"selected": branch.fraction == 1.0}) for branch in healthy)}
    )
    first, last = told([lost, saved])
    assert first == (
        "ViT, N = 128: 2 of 2 runs diverged, 1 counted at chance (50%), which raises the mean and 1 read at a "
        "branch chosen on validation that did not diverge."
    )
    assert "trained again it diverges again" in last


def test_many_places_are_counted_and_permutations_told_apart() -> None:
    records = [failed_record(family, num_train=2**power) for family in NAMES for power in range(7, 12)]
    remarks = told(records)
    assert len([text for text in remarks if " failed (killed)" in text]) == MOST_PLACES
    assert "And 8 more places, in the table below." in remarks
    permuted = make_record("vit", permutation="pixels").model_copy(update={"status": "failed", "branches": ()})
    assert told([permuted])[0].startswith("ViT, N = 512, permuted (pixels): 1 of 1 run failed")


def test_the_page_opens_with_them_and_the_table_marks_their_points(tmp_path: Path) -> None:
    records = [one for one in study_records(replicates=2) if one.cell["family"] in ("resnet", "mlp")]
    failed = failed_record("mlp", num_train=8192, replicate=0, reason="out of memory")
    kept = [failed, *(one for one in records if one.cell_id != failed.cell_id)]
    paths = write_report(kept, dataclasses.replace(CARD, num_cells=len(kept)), tmp_path)
    assert paths.statements[0] == (
        "This study is incomplete: 15 of 16 planned cells are finished, 1 failed; what follows describes the finished "
        "cells only; the section on failed and diverged cells names them and what they do to the answers."
    )
    page = paths.page.read_text()
    assert "<h2>Cells failed, diverged or left out</h2>" in page
    assert "Fully connected, N = 8,192: 1 of 2 runs failed (out of memory)" in page
    assert " ‡ |" in (tmp_path / "tables" / "test_error_selected.md").read_text()


def test_a_complete_study_with_a_diverged_cell_says_so_first(tmp_path: Path) -> None:
    records = [one for one in study_records(replicates=2) if one.cell["family"] in ("vit", "resnet")]
    records[0] = make_record(num_train=128, branch_errors=[0.5] * 4, status="diverged", reason="nan")
    paths = write_report(records, dataclasses.replace(CARD, num_cells=len(records)), tmp_path)
    assert paths.statements[0].startswith("Of 16 planned cells 1 diverged and counts at chance; the section on failed")
