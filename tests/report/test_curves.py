"""Data curves and crossings on curves whose truth is known (PROTOCOL 7)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from report.synthetic import failed_record, flexible_error, make_record, prior_error, study_records
from studies.curves import (
    block_counts,
    data_curves,
    decide,
    left_out_cells,
    log_error,
    observed_crossing,
    paired_differences,
    sign_changes,
)
from studies.records import records_frame

PAIR = {"resnet": prior_error, "vit": flexible_error}


def test_data_curves_are_mean_and_t_interval() -> None:
    errors = [0.2, 0.25, 0.24]
    frame = records_frame(make_record(replicate=index, error=error) for index, error in enumerate(errors))
    row = data_curves(frame).iloc[0]
    assert row["num_replicates"] == 3
    assert row["mean"] == pytest.approx(np.mean(errors))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(errors), scale=stats.sem(errors))
    assert row["half_width"] == pytest.approx((high - low) / 2)
    assert row["geometric_mean"] == pytest.approx(stats.gmean(errors))
    logs = np.log(errors)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(logs), scale=stats.sem(logs))
    assert (row["low"], row["high"]) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert (row["min"], row["max"]) == (0.2, 0.25)


def test_one_replicate_has_a_mean_and_no_interval() -> None:
    row = data_curves(records_frame([make_record(error=0.3)])).iloc[0]
    assert row["mean"] == pytest.approx(0.3)
    assert math.isnan(row["half_width"])
    assert math.isnan(row["low"])


def test_no_error_at_all_counts_as_half_an_error() -> None:
    assert np.exp(log_error(np.array([0.0, 0.1]), np.array([99, 99]))) == pytest.approx([0.005, 0.1])


def test_rules_read_different_branches() -> None:
    frame = records_frame([make_record(branch_errors=[0.4, 0.2, 0.25, 0.3])])
    assert data_curves(frame, "selected")["mean"].item() == pytest.approx(0.2)
    assert data_curves(frame, "full_budget")["mean"].item() == pytest.approx(0.3)


def test_every_cell_is_in_the_curves_or_in_the_list_of_left_out() -> None:
    good, half = make_record(replicate=0), make_record(replicate=1)
    half = half.model_copy(update={"branches": half.branches[:2]})
    invalid = make_record("resnet").model_copy(update={"status": "invalid", "reason": "FLOPs 2% off plan"})
    frame = records_frame([good, half, failed_record(replicate=2, reason="out of memory"), invalid])
    left_out = left_out_cells(frame, "full_budget").set_index("cell_id")["reason"]
    assert left_out[half.cell_id] == "no branch at the full budget"
    assert left_out[invalid.cell_id] == "invalid: FLOPs 2% off plan"
    assert "failed: out of memory" in set(left_out)
    assert data_curves(frame, "full_budget")["num_replicates"].sum() + len(left_out) == 4


def test_a_diverged_cell_counts_at_chance() -> None:
    diverged = make_record(replicate=1, branch_errors=[0.5] * 4, status="diverged")
    row = data_curves(records_frame([make_record(error=0.3), diverged])).iloc[0]
    assert row["mean"] == pytest.approx(0.4)
    assert row["num_diverged"] == 1


def test_closed_form_crossing_at_177() -> None:
    sizes = [round(100 * 1.01**index) for index in range(0, 160, 2)]
    frame = records_frame(study_records(PAIR, sizes=sizes, replicates=1, noise=0))
    (change,) = observed_crossing(frame, "vit", "resnet").sign_changes
    assert change.num_train == pytest.approx(177, rel=1e-3)
    assert change.error == pytest.approx(0.1 * 11 / 7, rel=1e-3)
    assert (change.better_below, change.better_above) == ("resnet", "vit")


def test_two_parameter_curves_cross_at_2849() -> None:
    curves = {
        "resnet": lambda n: 0.16 + 6 * n**-0.5,
        "vit": lambda n: 0.05 + 3.6 * n**-0.35,
    }
    sizes = [round(2 ** (7 + 8 * index / 200)) for index in range(201)]
    frame = records_frame(study_records(curves, sizes=sizes, replicates=1, noise=0))
    (change,) = observed_crossing(frame, "resnet", "vit").sign_changes
    assert change.num_train == pytest.approx(2849.39, rel=2e-3)
    assert change.error == pytest.approx(0.27240, rel=1e-3)


def test_decision_crosses_only_with_evidence_on_both_sides() -> None:
    frame = records_frame(study_records(PAIR, sizes=(100, 140, 250, 800), replicates=5, noise=0.01))
    crossing = observed_crossing(frame, "resnet", "vit")
    assert crossing.decision == "crosses"
    assert not crossing.shared_test
    assert crossing.differences["difference"].iloc[0] < 0 < crossing.differences["difference"].iloc[-1]
    above = records_frame(study_records(PAIR, sizes=(250, 400, 800), replicates=5, noise=0.01))
    assert observed_crossing(above, "resnet", "vit").decision == "none below N_max"
    noisy = records_frame(study_records(PAIR, sizes=(170, 185), replicates=2, noise=0.3))
    assert observed_crossing(noisy, "resnet", "vit").decision == "not resolved"


def test_one_replicate_decides_nothing() -> None:
    frame = records_frame(study_records(PAIR, sizes=(100, 800), replicates=1, noise=0))
    crossing = observed_crossing(frame, "resnet", "vit")
    assert crossing.decision == "not resolved"
    assert len(crossing.sign_changes) == 1


def test_identical_curves_are_rarely_called_crossing() -> None:
    generator = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        logs = generator.normal(0, 0.1, (2, 6, 5))
        difference = logs[0] - logs[1]
        center, error = difference.mean(1), stats.sem(difference, axis=1)
        half_width = stats.t.ppf(0.975, 4) * error
        table = pd.DataFrame(
            {
                "num_pairs": 5,
                "difference": center,
                "standard_error": error,
                "low": center - half_width,
                "high": center + half_width,
            }
        )
        called += decide(table) == "crosses"
    assert called <= 0.05 * 300


def test_pairs_are_by_replicate() -> None:
    """A replicate effect common to both arms cancels; unpaired arms would drown the difference in it."""
    effects = [0.5, 1.0, 1.9]
    records = [
        make_record(family, replicate=index, error=0.2 * effect * (1.1 if family == "vit" else 1.0))
        for family in ("vit", "resnet")
        for index, effect in enumerate(effects)
    ]
    difference = observed_crossing(records_frame(records), "vit", "resnet").differences.iloc[0]
    assert difference["difference"] == pytest.approx(math.log(1.1))
    assert difference["standard_error"] == pytest.approx(0, abs=1e-12)
    unpaired = observed_crossing(records_frame(records[1:]), "vit", "resnet").differences.iloc[0]
    assert unpaired["num_pairs"] == 2


def test_sign_changes_at_an_exact_tie_and_without_change() -> None:
    def table(differences: list[float]) -> pd.DataFrame:
        sizes = [100, 200, 400, 800][: len(differences)]
        zeros = np.zeros(len(differences))
        return pd.DataFrame({"num_train": sizes, "difference": differences, "log_error_a": zeros, "log_error_b": zeros})

    (tie,) = sign_changes(table([-1.0, 0.0, 1.0]), "a", "b")
    assert tie.num_train == pytest.approx(200)
    assert sign_changes(table([-1.0, 0.0, -1.0]), "a", "b") == ()
    assert [change.better_above for change in sign_changes(table([-1, 1, -1, 1]), "a", "b")] == ["b", "a", "b"]


def test_shared_test_set_adds_its_variance() -> None:
    generator = np.random.default_rng(1)
    records, blocks = [], {}
    for family, rate in (("vit", 0.30), ("resnet", 0.25)):
        for replicate in range(4):
            record = make_record(family, replicate=replicate, error=rate, shared_test=True, num_test=1000)
            label = np.zeros(1000, dtype=np.uint16)
            predictions = {
                "branch": np.array([0.5, 1.0]),
                "predicted_class": (generator.random((2, 1000)) < rate).astype(np.uint16),
                "label": label,
            }
            blocks[record.cell_id] = block_counts(predictions, 1.0)
            assert blocks[record.cell_id][:, 1].sum() == 1000
            records.append(record)
    frame = records_frame(records)
    without = observed_crossing(frame, "vit", "resnet")
    added = observed_crossing(frame, "vit", "resnet", blocks=blocks)
    assert without.shared_test
    assert not without.test_variance
    assert added.test_variance
    row = added.differences.iloc[0]
    # Errors independent over images and cells: var of a log rate is (1 - p) / (p n), over 4 replicates.
    expected = math.sqrt(sum((1 - rate) / (rate * 1000) / 4 for rate in (0.30, 0.25)))
    assert row["test_standard_error"] == pytest.approx(expected, rel=0.4)
    assert row["standard_error"] > without.differences["standard_error"].iloc[0]


def test_block_counts_reads_its_branch() -> None:
    predictions = {
        "branch": np.array([0.5, 1.0]),
        "predicted_class": np.array([[1] * 40, [0] * 40], dtype=np.uint16),
        "label": np.zeros(40, dtype=np.uint16),
    }
    assert block_counts(predictions, 0.5)[:, 0].sum() == 40
    assert block_counts(predictions, 1.0)[:, 0].sum() == 0
    with pytest.raises(ValueError, match=r"branch 0\.25 is not in the predictions"):
        block_counts(predictions, 0.25)


def test_unknown_arm_is_named() -> None:
    frame = records_frame([make_record()])
    with pytest.raises(ValueError, match="'lstm' is not in the table: expected one of"):
        observed_crossing(frame, "lstm", "vit")


def test_sizes_without_a_pair_are_not_compared() -> None:
    records = [make_record("vit", num_train=128), make_record("resnet", num_train=512)]
    points = records_frame(records).assign(log_error=-1.0)
    assert paired_differences(points[points["selected"]], "vit", "resnet").empty
    assert observed_crossing(records_frame(records), "vit", "resnet").decision == "not resolved"


def test_a_paired_difference_is_the_paired_t_test() -> None:
    ours, theirs = [0.2, 0.25, 0.24, 0.31], [0.26, 0.27, 0.30, 0.33]
    frame = records_frame(
        make_record(family, replicate=index, error=error)
        for family, errors in (("resnet", ours), ("vit", theirs))
        for index, error in enumerate(errors)
    )
    row = observed_crossing(frame, "resnet", "vit").differences.iloc[0]
    expected = stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


@pytest.mark.parametrize(("factor", "decision"), [(1.01, "none below N_max"), (0.99, "not resolved")])
def test_none_below_needs_one_sided_evidence_at_every_size(factor: float, decision: str) -> None:
    error, pairs = 0.1, 5
    bound = float(stats.t.ppf(0.95, pairs - 1)) * error
    two_sided = float(stats.t.ppf(0.975, pairs - 1)) * error
    table = pd.DataFrame(
        {
            "num_train": [100, 200],
            "num_pairs": pairs,
            "difference": [-9.0, -factor * bound],
            "standard_error": error,
            "low": [-9 - two_sided, -factor * bound - two_sided],
            "high": [-9 + two_sided, -factor * bound + two_sided],
        }
    )
    assert decide(table) == decision


def test_a_size_without_a_pair_may_hide_a_crossing() -> None:
    """PROTOCOL 7's curves meet at 177: without the sizes below, only the flexible arm's lead is seen."""
    records = study_records(PAIR, sizes=(80, 100, 250, 400, 800), replicates=5)
    kept = [one for one in records if one.cell["family"] == "resnet" or one.cell["num_train"] >= 250]
    assert observed_crossing(records_frame(records), "resnet", "vit").decision == "crosses"
    assert observed_crossing(records_frame(kept), "resnet", "vit").decision == "not resolved"
