"""The file of a record: quick to verify, and never wrong."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import planned, record_of

from studies import record_file
from studies.cell import Cell
from studies.digest import digest
from studies.record_file import read_record, record_text
from studies.records import COLUMNS, Record, records_frame

PLAN = planned()
RECORD = record_of(PLAN, PLAN.cells[0])
TEXT = record_text(RECORD)


def test_a_record_is_read_without_writing_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def written_anew(*_: object, **__: object) -> str:
        raise AssertionError("the content was written anew although the bytes are as they were written")

    monkeypatch.setattr(record_file, "digest", written_anew)
    assert read_record(TEXT) == RECORD


def test_numbers_that_are_none_come_back_as_they_were() -> None:
    branch = RECORD.branches[0].model_copy(update={"validation_loss": float("inf"), "test_loss": float("nan")})
    odd = RECORD.model_copy(update={"branches": (branch,), "planned_train_flops": 10**24, "train_seconds": 0.1 + 0.2})
    text = record_text(odd)
    found = read_record(text)
    assert found.branches[0].validation_loss == float("inf")
    assert str(found.branches[0].test_loss) == "nan"
    assert (found.planned_train_flops, found.train_seconds) == (10**24, 0.1 + 0.2)
    by_content = read_record(text.replace(b"bytes_sha256", b"bytes_sha257"))
    assert record_text(by_content) == record_text(found) == text


def test_files_without_the_second_checksum_and_reformatted_ones_are_read() -> None:
    payload = RECORD.model_dump(mode="json")
    old = json.dumps({"record": payload, "sha256": digest(payload, allow_nan=True)}, indent=1).encode()
    assert read_record(old) == RECORD
    assert read_record(json.dumps(json.loads(TEXT)).encode()) == RECORD
    with pytest.raises(ValueError, match="checksum does not match"):
        read_record(old.replace(b'"status": "finished"', b'"status": "diverged"'))


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(TEXT) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_a_record(position: int, bit: int) -> None:
    flipped = bytearray(TEXT)
    flipped[position] ^= 1 << bit
    try:
        found = read_record(bytes(flipped))
    except (ValueError, KeyError, TypeError):
        return
    assert found == RECORD


def test_a_record_whose_bytes_are_sealed_but_that_is_none_is_refused() -> None:
    unknown = {"record": RECORD.model_dump(mode="json") | {"mine": 1}}
    text = json.dumps(unknown | {"sha256": digest(unknown["record"], allow_nan=True)}, indent=1).encode()
    import hashlib

    sealed = text[:-2] + b',\n "bytes_sha256": "' + hashlib.sha256(text).hexdigest().encode() + b'"\n}'
    with pytest.raises(ValueError, match="mine"):
        read_record(sealed)


def test_the_long_table_is_that_of_rows_put_together_one_by_one() -> None:
    records = [record_of(PLAN, cell) for cell in PLAN.cells[:5]]
    records.append(record_of(PLAN, PLAN.cells[5], status="failed", reason="why"))
    frame = records_frame(iter(records), "nano")
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 4 * 5 + 1
    for record in records:
        rows = frame[frame["cell_id"] == record.cell_id].sort_values("branch").to_dict("records")
        for row, branch in zip(rows, record.branches or (None,), strict=True):
            if branch is None:
                assert pd.isna(row["branch"])
                assert pd.isna(row["test_error"])
                assert row["planned_train_flops"] == record.planned_train_flops
            else:
                told = branch.model_dump()
                told["branch"] = told.pop("fraction")
                assert {name: row[name] for name in told} == told
            assert (row["reason"], row["status"]) == (record.reason, record.status)


def test_a_changed_copy_of_a_cell_has_an_id_of_its_own() -> None:
    cell = PLAN.cells[0]
    known = cell.id
    other = cell.model_copy(update={"num_train": cell.num_train + 1})
    assert other.id != known == cell.id
    assert other.id == Cell.model_validate(other.model_dump()).id
    assert cell == Cell.model_validate(cell.model_dump())
    assert "id" not in cell.model_dump()
    assert Record.model_validate(RECORD.model_dump()) == RECORD
