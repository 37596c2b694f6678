"""What starts are worth is told at the size in question, and wherever else it is significant."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from report.cards import CARD
from report.synthetic import make_record
from studies.analysis.curve import Curve
from studies.analysis.paired import PairedTests, paired_tests
from studies.analysis.variance import variance_split
from studies.records import Record, records_frame
from studies.report.answer_tables import variance_table
from studies.report.contents import why_no_equal_compute
from studies.report.starts_table import gain_statements, gain_table, stages_table
from studies.report.tables import cells_table, missing_table

NAMES = {"vit": "ViT", "vit+start": "ViT (from start)"}
START = {"name": "start", "origin": "0" * 16, "num_pretrain": 4096, "train_flops": 1e9}


def gains(ratios: tuple[float, ...], column: str = "num_train", replicates: int = 3) -> PairedTests:
    x = np.array([64.0, 256.0, 1024.0])[: len(ratios)]
    names = tuple(map(str, range(replicates)))
    offsets = np.linspace(-0.1, 0.1, replicates)[:, None]
    scratch = np.log([0.2, 0.1, 0.05][: len(ratios)])[None] + 0 * offsets
    begun = scratch + np.log(ratios)[None] + offsets
    return paired_tests(
        Curve("vit+start", column, x, begun, names),
        Curve("vit", column, x, np.repeat(scratch[:1], replicates, 0), names),
    )


def test_a_significant_gap_at_another_size_is_told() -> None:
    (text,) = gain_statements([gains((1.05, 1.0, 5.0))], NAMES)
    assert text.startswith("With 64 images ViT (from start) makes 1.05 (")
    assert "not significant, p = " in text
    assert "; with 1,024 images significantly more, 5.00 (" in text
    assert "fewer" not in text


def test_over_pretraining_images_the_most_come_first() -> None:
    (text,) = gain_statements([gains((1.0, 0.1, 0.05), "num_pretrain")], NAMES)
    assert text.startswith("With 1,024 pretraining images ViT (from start) makes 0.05 (")
    assert "; significant, p = " in text
    assert "; with 256 pretraining images significantly fewer, 0.10 (" in text


def test_two_replicates_have_no_interval() -> None:
    tests = gains((0.1,), replicates=2)
    assert "makes 0.10 times" in gain_statements([tests], NAMES)[0]
    assert gain_table([tests], NAMES).rows[0][5] == "0.10"


def test_the_sizes_are_headed_as_everywhere() -> None:
    assert gain_table([gains((0.1,))], NAMES).columns[2] == "Training images N"
    assert gain_table([gains((0.1,), "num_pretrain")], NAMES).columns[2] == "Pretraining images"


def of_two_sizes() -> list[Record]:
    records = []
    for replicate in range(3):
        record = make_record("vit", num_train=64, replicate=replicate, error=0.2 + 0.01 * replicate)
        for size in (1024, 4096):
            cell = record.cell | {"start": START | {"num_pretrain": size}}
            records.append(record.model_copy(update={"cell": cell, "cell_id": f"{size}-{replicate}"}))
    return records


def test_tables_of_cells_tell_pretraining_sizes_apart() -> None:
    frame = records_frame(of_two_sizes())
    table = cells_table(frame)
    assert table.columns[1] == "Pretrained on"
    assert {row[1] for row in table.rows} == {"1,024", "4,096"}
    spread = variance_table(variance_split(frame), {"vit+start": "ViT (from start)"})
    assert "Pretrained on" in spread.columns
    assert {row[2] for row in spread.rows} == {"1,024", "4,096"}
    lacking = frame[~(frame["cell_id"] == "4096-2")]
    missing = missing_table(lacking, dataclasses.replace(CARD, x="num_pretrain", num_cells=6))
    assert missing.columns[1:3] == ("Pretrained on", "N")
    assert missing.rows[0][1:3] == ("4,096", "64")
    plain = cells_table(records_frame([make_record()]))
    assert "Pretrained on" not in plain.columns


def test_earlier_stages_are_told_with_their_settings_and_errors() -> None:
    records = [make_record("vit", num_train=4096, replicate=index, error=0.1 + 0.01 * index) for index in range(3)]
    (row,) = stages_table({"study-pretraining": records_frame(records)}).rows
    assert row == ("study-pretraining", "ViT", "4,096", "0.001", "0.05", "200", "128", "11.0 ± 2.5", "3")


def test_why_there_is_no_equal_compute_is_said() -> None:
    several = records_frame(of_two_sizes())
    assert (
        "Curves run over pretraining images"
        in why_no_equal_compute(several, dataclasses.replace(CARD, x="num_pretrain"))[0]
    )
    single = several[several["branch"] == 1.0]
    (text,) = why_no_equal_compute(single, dataclasses.replace(CARD, x="num_pretrain"))
    assert text.startswith("Every run has one branch")
    assert "FLOPs of pretraining" in text
    assert why_no_equal_compute(pd.DataFrame(several), CARD) == ()
    assert math.isfinite(float(single["train_flops"].iloc[0]))
