"""From records to curves: which cells enter, how replicates pair, what the test images add (PROTOCOL 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from report.synthetic import BRANCHES, failed_record, flexible_error, make_record, prior_error, study_records
from scipy import stats

from studies.analysis.crossover import Crossover, crossover
from studies.analysis.of_records import block_counts, curve_points, left_out_cells, records_table, rules_that_differ
from studies.analysis.table import log_error
from studies.records import Record, records_frame

PAIR = {"resnet": prior_error, "vit": flexible_error}


def compared(records: Sequence[Record], first: str = "resnet", second: str = "vit", **options: object) -> Crossover:
    curves = records_table(records_frame(records), **options).curves  # type: ignore[arg-type]
    return crossover(curves[first], curves[second])


def test_no_error_at_all_counts_as_half_an_error() -> None:
    assert np.exp(log_error(np.array([0.0, 0.1]), np.array([99, 99]))) == pytest.approx([0.005, 0.1])


def test_every_cell_is_in_the_curves_or_in_the_list_of_left_out() -> None:
    good, half = make_record(replicate=0), make_record(replicate=1)
    half = half.model_copy(update={"branches": half.branches[:2]})
    invalid = make_record("resnet").model_copy(update={"status": "invalid", "reason": "FLOPs 2% off plan"})
    frame = records_frame([good, half, failed_record(replicate=2, reason="out of memory"), invalid])
    left_out = left_out_cells(frame, "full_budget").set_index("cell_id")["reason"]
    assert left_out[half.cell_id] == "no branch at the full budget"
    assert left_out[invalid.cell_id] == "invalid: FLOPs 2% off plan"
    assert "failed: out of memory" in set(left_out)
    assert len(curve_points(frame, "full_budget")) + len(left_out) == 4
    table = records_table(frame, rule="full_budget")
    assert {item.reason for item in table.left_out} == set(left_out)


def test_rules_differ_as_soon_as_one_cell_has_several_branches() -> None:
    several, one = make_record(replicate=0), make_record(replicate=1)
    one = one.model_copy(update={"branches": one.branches[-1:]})
    assert rules_that_differ(records_frame([several, one])) == ("selected", "full_budget")
    assert rules_that_differ(records_frame([one])) == ("selected",)


def test_diverged_cells_enter_and_are_mentioned() -> None:
    diverged = make_record(replicate=1, branch_errors=[0.5] * 4, status="diverged")
    table = records_table(records_frame([make_record(error=0.3), diverged]))
    assert np.exp(table.curves["vit"].log_error.ravel()) == pytest.approx([0.3, 0.5])
    assert any("Diverged cells enter at chance: 1" in note for note in table.notes)


def test_closed_form_crossover_at_177() -> None:
    sizes = [round(100 * 1.01**index) for index in range(0, 160, 2)]
    (root,) = compared(study_records(PAIR, sizes=sizes, replicates=1, noise=0)).roots
    assert root.x == pytest.approx(177, rel=1e-3)
    assert root.error == pytest.approx(0.1 * 11 / 7, rel=1e-3)
    assert (root.better_below, root.better_above) == ("resnet", "vit")


def test_two_curves_with_floors_cross_at_2849() -> None:
    curves = {
        "resnet": lambda n: 0.16 + 6 * n**-0.5,
        "vit": lambda n: 0.05 + 3.6 * n**-0.35,
    }
    sizes = [round(2 ** (7 + 8 * index / 200)) for index in range(201)]
    (root,) = compared(study_records(curves, sizes=sizes, replicates=1, noise=0)).roots
    assert root.x == pytest.approx(2849.39, rel=2e-3)
    assert root.error == pytest.approx(0.27240, rel=1e-3)


def test_decision_crosses_only_with_evidence_on_both_sides() -> None:
    crossing = compared(study_records(PAIR, sizes=(100, 140, 250, 800), replicates=5, noise=0.01))
    assert crossing.decision == "crosses"
    differences = crossing.tests.tests["difference"]
    assert differences.iloc[0] < 0 < differences.iloc[-1]
    above = compared(study_records(PAIR, sizes=(250, 400, 800), replicates=5, noise=0.01))
    assert above.decision == "none below x_max"
    noisy = compared(study_records(PAIR, sizes=(170, 185), replicates=2, noise=0.3))
    assert noisy.decision == "not resolved"


def test_one_replicate_decides_nothing() -> None:
    crossing = compared(study_records(PAIR, sizes=(100, 800), replicates=1, noise=0))
    assert crossing.decision == "not resolved"
    assert len(crossing.roots) == 1
    assert crossing.confidence_set is None


def test_identical_curves_are_rarely_called_crossing() -> None:
    generator = np.random.default_rng(0)
    called = 0
    for _ in range(100):
        same = study_records(
            {"vit": prior_error, "resnet": prior_error}, replicates=5, noise=0.1, seed=int(generator.integers(2**31))
        )
        called += compared(same).decision == "crosses"
    assert called <= 8  # nominal 5%; 1 in 100 studies of 100 would exceed this


def test_pairs_are_by_replicate() -> None:
    """A replicate effect common to both arms cancels; unpaired arms would drown the difference in it."""
    effects = [0.5, 1.0, 1.9]
    records = [
        make_record(family, replicate=index, error=0.2 * effect * (1.1 if family == "vit" else 1.0))
        for family in ("vit", "resnet")
        for index, effect in enumerate(effects)
    ]
    difference = compared(records, "vit", "resnet").tests.tests.iloc[0]
    assert difference["difference"] == pytest.approx(math.log(1.1))
    assert difference["standard_error"] == pytest.approx(0, abs=1e-12)
    assert compared(records[1:], "vit", "resnet").tests.tests["num_pairs"].item() == 2


def test_a_paired_difference_is_the_paired_t_test() -> None:
    ours, theirs = [0.2, 0.25, 0.24, 0.31], [0.26, 0.27, 0.30, 0.33]
    row = compared(
        [
            make_record(family, replicate=index, error=error)
            for family, errors in (("resnet", ours), ("vit", theirs))
            for index, error in enumerate(errors)
        ]
    ).tests.tests.iloc[0]
    expected = stats.ttest_rel(np.log(ours), np.log(theirs))
    interval = expected.confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row["p_value"] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("factor", "decision"), [(1.01, "none below x_max"), (0.99, "not resolved")])
def test_none_below_needs_one_sided_evidence_at_every_size(factor: float, decision: str) -> None:
    """At the larger size the difference is just above or below the one-sided 95% bound t(.95, 4) se."""
    offsets = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * 0.01
    bound = float(stats.t.ppf(0.95, 4)) * float(stats.sem(offsets))
    records = []
    for num_train, gap in ((100, 0.5), (200, factor * bound)):
        for replicate, offset in enumerate(offsets):
            records.append(make_record("vit", num_train=num_train, replicate=replicate, error=0.2))
            own = 0.2 * math.exp(-gap + offset)
            records.append(make_record("resnet", num_train=num_train, replicate=replicate, error=own))
    assert compared(records).decision == decision


def test_a_size_without_a_pair_may_hide_a_crossover() -> None:
    """PROTOCOL 7's curves meet at 177: without the sizes below, only the flexible arm's lead is seen."""
    records = study_records(PAIR, sizes=(80, 100, 250, 400, 800), replicates=5)
    kept = [one for one in records if one.cell["family"] == "resnet" or one.cell["num_train"] >= 250]
    assert compared(records).decision == "crosses"
    hidden = compared(kept)
    assert hidden.decision == "not resolved"
    assert "vit is better wherever both were measured, from 250 to 800 images" in hidden.sentence()


def test_sizes_without_a_pair_are_not_compared() -> None:
    crossing = compared([make_record("vit", num_train=128), make_record("resnet", num_train=512)])
    assert crossing.tests.tests.empty
    assert crossing.decision == "not resolved"
    assert "cannot be compared" in crossing.sentence()


def _shared_test_study() -> tuple[list[Record], dict[tuple[str, float], np.ndarray]]:
    generator = np.random.default_rng(1)
    records, blocks = [], {}
    for family, rate in (("vit", 0.30), ("resnet", 0.25)):
        for replicate in range(4):
            record = make_record(family, replicate=replicate, error=rate, shared_test=True, num_test=1000)
            predictions = {
                "branch": np.array(BRANCHES),
                "predicted_class": (generator.random((4, 1000)) < rate).astype(np.uint16),
                "label": np.zeros(1000, dtype=np.uint16),
            }
            for branch in BRANCHES:
                blocks[record.cell_id, branch] = block_counts(predictions, branch)
                assert blocks[record.cell_id, branch][:, 1].sum() == 1000
            records.append(record)
    return records, blocks


def test_shared_test_set_adds_its_variance() -> None:
    records, blocks = _shared_test_study()
    without = compared(records, "vit", "resnet").tests.tests.iloc[0]
    added = compared(records, "vit", "resnet", blocks=blocks).tests.tests.iloc[0]
    assert math.isnan(without["test_standard_error"])
    # Errors independent over images and cells: var of a log rate is (1 - p) / (p n), over 4 replicates.
    expected = math.sqrt(sum((1 - rate) / (rate * 1000) / 4 for rate in (0.30, 0.25)))
    assert added["test_standard_error"] == pytest.approx(expected, rel=0.4)
    assert added["standard_error"] > without["standard_error"]


def test_a_shared_test_set_without_predictions_is_mentioned() -> None:
    records, blocks = _shared_test_study()
    frame = records_frame(records)
    assert any("is not counted" in note for note in records_table(frame).notes)
    assert not any("is not counted" in note for note in records_table(frame, blocks=blocks).notes)
    own = records_frame(study_records(PAIR, replicates=2))  # test images of their own: their spread contains the choice
    assert not any("is not counted" in note for note in records_table(own).notes)


def test_blocks_add_nothing_where_every_replicate_has_test_images_of_its_own() -> None:
    """The spread over replicates holds the choice of test images already; adding it twice would be wrong."""
    records, blocks = _shared_test_study()
    fresh = [one.model_copy(update={"test_checksum": f"images-{place}"}) for place, one in enumerate(records)]
    curves = records_table(records_frame(fresh), blocks=blocks).curves
    assert all(curve.block_log_error is None for curve in curves.values())
    shared = records_table(records_frame(records), blocks=blocks).curves
    assert all(curve.block_log_error is not None for curve in shared.values())


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


def test_every_branch_is_a_point_of_a_curve_over_compute() -> None:
    records = study_records(PAIR, sizes=(128, 512), replicates=2)
    table = records_table(records_frame(records), x="train_flops", num_train=512)
    for arm in ("resnet", "vit"):
        flops = [branch.train_flops for branch in make_record(arm).branches]
        assert table.curves[arm].x == pytest.approx(flops)
        assert table.curves[arm].log_error.shape == (2, 4)


def test_seconds_of_a_branch_are_its_share_of_the_cell() -> None:
    record = make_record()
    curve = records_table(records_frame([record]), x="train_seconds", num_train=512).curves["vit"]
    shares = [branch.train_flops / record.executed_train_flops for branch in record.branches]
    assert curve.x == pytest.approx([record.train_seconds * share for share in shares])
