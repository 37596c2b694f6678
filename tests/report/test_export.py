"""The exported table and the page that documents it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from report.synthetic import failed_record, study_records
from studies.export import columns_page, export_table
from studies.records import COLUMNS, records_frame


def test_formats_hold_the_same_rows_and_all_columns(tmp_path: Path) -> None:
    records = [*study_records(sizes=(128,), replicates=2), failed_record("lstm")]
    parquet, csv = export_table(records, tmp_path)
    typed = pd.read_parquet(parquet)
    assert list(typed.columns) == list(COLUMNS)
    assert len(typed) == 8 * 4 + 1
    text = pd.read_csv(csv, keep_default_na=False, dtype=str)
    assert list(text.columns) == list(COLUMNS)
    expected = records_frame(records)
    for table in (typed, text):
        assert table["cell_id"].tolist() == expected["cell_id"].tolist()
    errors = pd.to_numeric(text["test_error"])
    assert errors.dropna().tolist() == typed["test_error"].dropna().tolist() == expected["test_error"].dropna().tolist()
    assert text["augmentation"].tolist() == typed["augmentation"].tolist()
    assert typed["test_error"].isna().sum() == errors.isna().sum() == 1


def test_no_records_still_give_the_columns(tmp_path: Path) -> None:
    for path in export_table([], tmp_path):
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        assert list(table.columns) == list(COLUMNS)
        assert table.empty


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'xlsx' is unknown"):
        export_table([], tmp_path, ("xlsx",))  # type: ignore[arg-type]


def test_documented_columns_are_the_columns() -> None:
    page = Path(__file__).parents[2] / "docs" / "records.md"
    assert page.read_text() == columns_page(), "write studies.export.columns_page() to docs/records.md"
