"""Published numbers beside ours: the paper's layout, nothing invented where either has no number."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from report.cards import CARD
from report.synthetic import make_record
from studies.published import Published
from studies.records import Record, records_frame
from studies.report import write_report
from studies.report.published_table import published_table

SECTION: dict[str, Any] = {
    "source": "A paper, table 8: a network on a data set",
    "quantity": "accuracy",
    "values": {"vit-nopos": 0.61382, "vit": 0.64206, "vit-every": 0.63964},
    "columns": ["stem", "every layer"],
    "rows": {"none": ["vit-nopos"], "1-D": ["vit", "vit-every"], "other": [None, "resnet"]},
}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [
        make_record(family, variant, num_train=size, replicate=replicate, error=error + 0.01 * replicate)
        for family, variant, error in (("vit", "nano-nopos", 0.3), ("vit", "nano", 0.1), ("resnet", "nano", 0.2))
        for size in (128, 512)
        for replicate in range(3)
    ]


def test_ours_stand_under_the_published_numbers(records: list[Record]) -> None:
    table = published_table(records_frame(records), Published.model_validate(SECTION))
    assert table.columns == ("", "", "stem", "every layer")
    assert table.rows[0] == ("none", "published", "61.382", "–")
    assert table.rows[1] == ("", "ours, N = 128", "69.0 ± 2.5", "–")
    assert table.rows[3] == ("1-D", "published", "64.206", "63.964")
    assert table.rows[4] == ("", "ours, N = 128", "89.0 ± 2.5", "–")  # vit-every was not trained
    assert table.rows[6] == ("other", "published", "–", "–")
    assert table.rows[8] == ("", "ours, N = 512", "–", "79.0 ± 2.5")
    assert len(table.rows) == 9
    assert "A paper, table 8" in table.note
    assert "Ours: test accuracy in percent" in table.note


def test_ours_are_errors_where_the_published_numbers_are(records: list[Record]) -> None:
    """One measure in one table: whoever publishes errors sees ours beside them, in the same unit."""
    section = Published.model_validate(SECTION | {"measure": "error", "values": {"vit": 35.8}})
    table = published_table(records_frame(records), section)
    assert table.rows[3] == ("1-D", "published", "35.8", "–")
    assert table.rows[4] == ("", "ours, N = 128", "11.0 ± 2.5", "–")
    assert "Ours: test error in percent" in table.note


def test_over_pretraining_images_sizes_are_no_replicates(records: list[Record]) -> None:
    """Errors of starts on 64 and 256 images stand in two rows, and those of one size alone make its interval."""
    frame = records_frame(record for record in records if record.cell["num_train"] == 128)
    begun = frame[frame["arm"] == "vit"]
    frame = pd.concat([frame[frame["arm"] != "vit"], begun.assign(num_pretrain=64),
                       begun.assign(num_pretrain=256, test_error=begun["test_error"] / 2)])  # fmt: skip
    table = published_table(frame, Published.model_validate(SECTION), x="num_pretrain")
    assert table.rows[5:8] == (
        ("", "ours, from scratch", "–", "–"),
        ("", "ours, pretrained on 64", "89.0 ± 2.5", "–"),
        ("", "ours, pretrained on 256", "94.5 ± 1.2", "–"),
    )
    assert table.rows[1] == ("", "ours, from scratch", "69.0 ± 2.5", "–")


def test_the_report_passes_what_the_curves_run_over(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, published=Published.model_validate(SECTION), x="num_pretrain")
    start = {"name": "labels", "origin": "0" * 16, "num_pretrain": 64, "train_flops": 1e9}
    record = make_record()
    write_report([record.model_copy(update={"cell": record.cell | {"start": start}})], card, tmp_path)
    assert "ours, pretrained on 64" in (tmp_path / "tables" / "published.md").read_text()


def test_the_report_shows_them(tmp_path: Path) -> None:
    records = [make_record()]
    card = dataclasses.replace(CARD, published=Published.model_validate(SECTION))
    write_report(records, card, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<h2>Beside the published numbers</h2>" in page
    assert "61.382" in page
    write_report(records, CARD, tmp_path)
    assert "published numbers" not in (tmp_path / "index.html").read_text()
    assert not (tmp_path / "tables" / "published.md").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": {"1-D": ["vit", "vit-every", "vit-nopos"]}}, "rows.1-D has 3 entries for the 2 columns"),
        ({"rows": {"a": ["vit"], "b": ["vit"]}}, "rows names vit twice"),
        ({"rows": {"a": ["vit", "vit-every"]}}, "values names vit-nopos, which stands in no row"),
        ({"values": {"vit-cls@tiny": 1.0}}, "did you mean vit@tiny-cls?"),
        ({"values": {}}, "at least 1 item"),
        ({"colums": ["a"]}, "Extra inputs"),
    ],
)
def test_a_table_that_cannot_be_laid_out_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Published.model_validate(SECTION | changes)
    assert told in str(caught.value)
