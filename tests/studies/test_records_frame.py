"""The long table: one row per branch, columns as documented, selection by validation alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planned import finish, planned, predictions_of, record_of

from studies.grid import Plan
from studies.records import (
    COLUMNS,
    DETERMINISTIC_COLUMNS,
    INCIDENTAL_COLUMNS,
    ONE_ORDER,
    Record,
    joined_rows,
    read_predictions,
    record_rows,
    records_frame,
    selected_rows,
)
from studies.store import Store


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def test_there_is_a_row_per_branch_and_every_documented_column(plan: Plan) -> None:
    frame = records_frame(record_of(plan, cell) for cell in plan.cells)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 4 * len(plan.cells)
    assert (
        frame.groupby("cell_id")["branch"]
        .apply(tuple)
        .map(lambda fractions: fractions == (0.125, 0.25, 0.5, 1.0))
        .all()
    )
    assert not frame.drop(columns=["reason"]).isna().any().any()


def test_rows_do_not_depend_on_the_order_of_the_records(plan: Plan) -> None:
    records = [record_of(plan, cell) for cell in plan.cells]
    shuffled = random.Random(1).sample(records, len(records))
    assert shuffled != records
    pd.testing.assert_frame_equal(records_frame(records), records_frame(shuffled))


def test_cells_that_are_alike_but_for_their_id_have_one_order(plan: Plan) -> None:
    """As those of a ladder of permutations: of two processes either may have read them."""
    records = [record_of(plan, cell) for cell in plan.cells]
    records += [record.model_copy(update={"cell_id": f"twin-{record.cell_id}"}) for record in records]
    shuffled = random.Random(1).sample(records, len(records))
    first, second = (joined_rows(list(record_rows(each, None)), ONE_ORDER) for each in (records, shuffled))
    pd.testing.assert_frame_equal(first, second)


def test_costs_are_three_forwards_per_image(plan: Plan) -> None:
    frame = records_frame(record_of(plan, cell) for cell in plan.cells)
    assert (frame["train_flops"] == 3 * frame["forward_flops"] * frame["examples"]).all()
    assert (frame["budget_flops"] == 3 * frame["forward_flops"] * frame["batch_size"] * 80).all()
    full = frame[frame["branch"] == 1.0]
    assert (full["train_flops"] == full["budget_flops"]).all()
    assert (frame["steps"] == 80 * frame["branch"]).all()
    assert (frame["examples"] == 32 * frame["steps"]).all()
    assert (frame["train_flops"] - frame["train_flops_exact"] == 30_000 * frame["examples"]).all()


def test_fewer_than_thirty_passes_are_labelled() -> None:
    plan = planned(num_train=(64, 85, 86), replicates=1)  # 80 x 32 = 2560 images: 40, 30.1 and 29.8 passes
    frame = records_frame(record_of(plan, cell) for cell in plan.cells)
    assert frame.groupby("num_train")["compute_limited"].unique().map(list).to_dict() == {
        64: [False],
        85: [False],
        86: [True],
    }


def test_seeds_are_told_apart() -> None:
    plan = planned(vary=("order",), replicates=2, seed=3)
    frame = records_frame(record_of(plan, cell) for cell in plan.cells)
    kinds = ("subset_seed", "order_seed", "initialization_seed", "augmentation_seed")
    assert {tuple(row) for row in frame[["replicate", *kinds]].to_numpy()} == {(0, 3, 3, 3, 3), (1, 3, 4, 3, 3)}


def test_the_primary_number_is_that_of_the_branch_chosen_on_validation(plan: Plan) -> None:
    record = record_of(plan, plan.cells[0], errors=(0.4, 0.1, 0.2, 0.3))
    # The test split would choose the last branch; nobody asks it.
    tempting = tuple(
        branch.model_copy(update={"test_error": 0.5 - 0.1 * i}) for i, branch in enumerate(record.branches)
    )
    frame = records_frame([record.model_copy(update={"branches": tempting})])
    (primary,) = selected_rows(frame).itertuples()
    assert (primary.branch, primary.validation_error, primary.test_error) == (0.25, 0.1, 0.4)
    (secondary,) = selected_rows(frame, "full_budget").itertuples()
    assert (secondary.branch, secondary.test_error) == (1.0, pytest.approx(0.2))


def test_a_failed_cell_has_one_row_and_is_in_no_curve(plan: Plan) -> None:
    failed = record_of(plan, plan.cells[0], status="failed", reason="out of memory")
    invalid = record_of(plan, plan.cells[1], status="invalid", reason="FLOPs")
    diverged = record_of(plan, plan.cells[2], status="diverged", reason="chance")
    good = record_of(plan, plan.cells[3])
    frame = records_frame([failed, invalid, diverged, good])
    (row,) = frame[frame["status"] == "failed"].itertuples()
    assert (row.cell_id, row.reason, row.num_train) == (failed.cell_id, "out of memory", 64)
    assert np.isnan(row.branch)
    for rule in ("selected", "full_budget"):
        assert set(selected_rows(frame, rule)["cell_id"]) == {diverged.cell_id, good.cell_id}  # type: ignore[arg-type]


def test_a_study_without_records_has_an_empty_table_of_the_same_columns() -> None:
    frame = records_frame([])
    assert (list(frame.columns), len(frame)) == (list(COLUMNS), 0)
    assert len(selected_rows(frame)) == 0


@pytest.mark.parametrize("order", range(4))
def test_a_table_made_in_parts_is_the_table_made_at_once(
    order: int, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and types, whatever happens to come together in a part."""
    kinds = [
        record_of(plan, plan.cells[0]),
        record_of(plan, plan.cells[1], status="failed", reason="out of memory"),
        _without_lanes(record_of(plan, plan.cells[2])),
        _without_test(record_of(plan, plan.cells[3])),
        _of_unknown_start(record_of(plan, plan.cells[4])),
        record_of(plan, plan.cells[5], status="diverged", reason="chance"),
        record_of(plan, plan.cells[0], seconds=7.0),  # of the same cell: of equal rows the earlier is first
    ]
    records = random.Random(order).sample(kinds, len(kinds))
    at_once = records_frame(records, "nano")
    assert at_once["pretrain_flops"].isna().sum() == 4
    for count in (1, 2, 3):
        monkeypatch.setattr("studies.records.RECORDS_AT_ONCE", count)
        pd.testing.assert_frame_equal(records_frame(records, "nano"), at_once)
    alike = _without_lanes(kinds[0]), _without_lanes(kinds[5])
    pd.testing.assert_frame_equal(records_frame(alike, "nano"), _at_once(alike, monkeypatch))


def _at_once(records: Iterable[Record], monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr("studies.records.RECORDS_AT_ONCE", 1_000)
    return records_frame(records, "nano")


def _without_lanes(record: Record) -> Record:
    assert record.environment is not None
    return record.model_copy(update={"environment": record.environment.model_copy(update={"lanes": None})})


def _without_test(record: Record) -> Record:
    """As in a trial of a tuning."""
    untested = {"test_error": None, "test_loss": None, "test_calibration_error": None}
    return record.model_copy(update={"branches": tuple(one.model_copy(update=untested) for one in record.branches)})


def _of_unknown_start(record: Record) -> Record:
    start = {"name": "file", "origin": "ab" * 32, "num_pretrain": None, "train_flops": None}
    return record.model_copy(update={"cell": record.cell | {"start": start}})


def test_only_where_and_when_may_differ_between_two_runs_of_a_cell(plan: Plan) -> None:
    record = record_of(plan, plan.cells[0], seconds=1.0)
    other = record_of(plan, plan.cells[0], seconds=9.0)
    assert other.environment is not None
    elsewhere = {"host": "other", "device": "cuda:0", "lanes": 40, "torch": "9", "code_version": "9"}
    other = other.model_copy(
        update={
            "environment": other.environment.model_copy(update=elsewhere),
            "study": "other.00000000",
            "plan_hash": "0" * 64,
            "resumes": 2,
            "started_at": "2026-01-01",
            "finished_at": "2026-01-02",
            "wandb_url": "https://example.org/run",
        }
    )
    first, second = records_frame([record]), records_frame([other])
    pd.testing.assert_frame_equal(first[list(DETERMINISTIC_COLUMNS)], second[list(DETERMINISTIC_COLUMNS)])
    assert {name for name in COLUMNS if not first[name].equals(second[name])} == set(INCIDENTAL_COLUMNS)


def test_records_of_before_lanes_were_noted_stay_readable(plan: Plan) -> None:
    content = record_of(plan, plan.cells[0]).model_dump(mode="json")
    del content["environment"]["lanes"]
    assert records_frame([Record.model_validate(content)])["lanes"].isna().all()


def test_predictions_keep_types_and_shapes(tmp_path: Path, plan: Plan) -> None:
    store = Store(tmp_path)
    (record,) = finish(store, plan, plan.cells[:1])
    found = read_predictions(store.predictions_path(record.cell_id))
    expected = predictions_of(record)
    assert {k: (v.dtype, v.shape) for k, v in found.items()} == {k: (v.dtype, v.shape) for k, v in expected.items()}
    wrong = (found["predicted_class"] != found["label"]).mean(axis=1)
    assert wrong == pytest.approx([branch.test_error for branch in record.branches], abs=0.07)


def test_arms_of_several_tiers_are_told_apart(plan: Plan) -> None:
    record = record_of(plan, plan.cells[0])
    large = record.model_copy(update={"cell_id": "large", "cell": record.cell | {"variant": "tiny"}})
    family = record.cell["family"]
    assert set(records_frame([record])["arm"]) == set(records_frame([large])["arm"]) == {family}
    assert set(records_frame([record, large])["arm"]) == {f"{family}@nano", f"{family}@tiny"}
    assert set(records_frame([record, large], "nano")["arm"]) == {family, f"{family}@tiny"}
    assert set(records_frame([large], "nano")["arm"]) == {f"{family}@tiny"}
