"""Holm's correction is over the tests that were made, and sentences count these."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report.synthetic import CURVES, study_records

from studies.analysis.answers import analyse
from studies.analysis.crossover import corrected, crossover
from studies.analysis.curve import Curve
from studies.analysis.interaction import difference_of_differences
from studies.analysis.paired import holm, paired_tests
from studies.analysis.study import analyse_study
from studies.analysis.table import Columns, CurveTable
from studies.records import records_frame
from studies.report.statements import crossover_statements, pair_statement

X = np.array([64.0, 256.0, 1024.0])
JITTER = np.array([-0.1, 0.0, 0.1])
NAMES = {"a": "A", "b": "B"}


def curve(family: str, log_errors: list[float], *, lacking: bool = False) -> Curve:
    """Three replicates at three x; where `lacking`, two of them were not trained at the last x."""
    rows = np.array(log_errors)[None] + JITTER[:, None] * (family == "b")
    if lacking:
        rows[1:, -1] = np.nan
    return Curve(family, "num_train", X, rows, ("0", "1", "2"))


def test_a_size_without_a_test_is_not_counted_between_two_families() -> None:
    tests = paired_tests(curve("a", [-2.0, -3.0, -4.0]), curve("b", [-2.0, -1.0, -2.0], lacking=True))
    p = tests.tests["p_value"].to_numpy(float)
    assert np.isnan(p).tolist() == [False, False, True]
    assert tests.tests["p_holm"].iloc[1] == pytest.approx(2 * p[1])
    assert tests.num_tests == 2
    assert "A is significantly better than B" in tests.sentence(NAMES)
    assert "corrected by Holm over 2 sizes" in tests.sentence(NAMES)


def test_a_size_that_no_replicate_has_of_both_is_no_place_to_compare_at() -> None:
    first, second = (np.tile(np.log([0.3, 0.2, 0.1]), (4, 1)) + np.arange(4)[:, None] / 100 for _ in range(2))
    first[2:, -1] = second[:2, -1] = np.nan
    names = ("0", "1", "2", "3")
    tests = paired_tests(Curve("a", "num_train", X, first, names), Curve("b", "num_train", X, second, names)).tests
    assert tests["x"].to_numpy() == pytest.approx(X[:2])


def test_replicates_are_paired_by_name_at_a_size_that_few_of_them_have() -> None:
    """In another order in either family, and not all in both."""
    first, second = (np.tile(np.log([0.3, 0.2, 0.1]), (5, 1)) + np.arange(5)[:, None] / 100 for _ in range(2))
    first[:3, -1] = second[2:, -1] = np.nan
    a = Curve("a", "num_train", X, first, ("0", "1", "2", "3", "4"))
    b = Curve("b", "num_train", X, second, ("4", "3", "1", "0", "7"))
    tests = paired_tests(a, b).tests
    assert tests["x"].to_numpy() == pytest.approx(X)
    assert tests["num_pairs"].tolist() == [4, 4, 2]


def test_a_size_without_a_test_is_not_counted_between_two_differences() -> None:
    first, second = curve("a", [-2.0, -3.0, -4.0]), curve("b", [-2.0, -1.0, -2.0], lacking=True)
    permuted = curve("a", [-1.0, -1.0, -1.0]), curve("c", [-1.0, -1.0, -1.0])
    found = difference_of_differences(first, second, *permuted)
    p = found.tests["p_value"].to_numpy(float)
    assert np.isnan(p).tolist() == [False, False, True]
    assert found.tests["p_holm"].iloc[1] == pytest.approx(2 * p[1])
    assert found.num_tests == 2
    assert "corrected by Holm over 2 sizes" in found.sentence(NAMES)


def test_nothing_is_claimed_of_a_difference_of_differences_at_chance() -> None:
    """Ten classes: errors of .9 cannot rise, whatever the structure was worth."""
    first, second = curve("a", [-1.0, -2.0, -3.0]), curve("b", [-0.5, -1.0, -1.0])
    permuted = curve("a", [-0.11, -0.11, -0.9]), curve("c", [-0.11, -0.9, -0.9])
    everywhere = difference_of_differences(first, second, *permuted).sentence(NAMES)
    assert all(f"{x:,.0f} (error ratio" in everywhere for x in X)
    found = difference_of_differences(first, second, *permuted, chance=0.9)
    assert found.tests["near_chance"].tolist() == [True, True, False]
    told = found.sentence(NAMES)
    assert "1,024 (error ratio" in told
    assert told.count("(error ratio") == 1
    assert told.endswith("Not told at training images N = 64, 256: at chance.")
    nowhere = difference_of_differences(first, second, *permuted, chance=0.45).sentence(NAMES)
    assert "cannot be told: at chance" in nowhere
    table, control = (
        CurveTable(Columns(), {one.family: one for one in curves}, (), ())
        for curves in ((first, second), (permuted[0], curve("b", [-0.11, -0.9, -0.9])))
    )
    (through,) = analyse(table, control=control, chance=0.9).interactions
    assert through.tests["near_chance"].tolist() == [True, True, False]


def test_one_size_is_not_a_range() -> None:
    one = [
        Curve(name, "num_train", X[:1], np.array([[-2.0], [-2.1], [-1.9]])[list(order)], ("0", "1", "2"))
        for name, order in (("a", (0, 1, 2)), ("b", (1, 2, 0)))
    ]
    assert "cannot be told apart for training images N = 64." in crossover(*one).sentence(NAMES)


def test_differences_of_undeclared_pairs_are_one_family() -> None:
    """As their crossovers are; the declared pair is corrected over its own sizes alone."""
    spread = {"a": 0.0, "b": 1.0, "c": -1.0}
    plain = {name: Curve(name, "num_train", X, -3.0 + JITTER[:, None] * k + np.zeros(3), ("0", "1", "2"))
             for name, k in spread.items()}  # fmt: skip
    rise = {"a": 0.9, "b": 0.2, "c": 0.4}
    permuted = {name: Curve(name, "num_train", X, -2.9 + rise[name] * np.array([0.3, 1, 2]) + JITTER[:, None] * 0.2,
                            ("0", "1", "2")) for name in spread}  # fmt: skip
    table, control = CurveTable(Columns(), plain, (), ()), CurveTable(Columns(), permuted, (), ())
    free = analyse(table, control=control).interactions
    p = np.concatenate([one.tests["p_value"].to_numpy(float) for one in free])
    assert np.concatenate([one.tests["p_holm"].to_numpy(float) for one in free]) == pytest.approx(holm(p))
    assert {(one.num_tests, one.num_pairs) for one in free} == {(9, 3)}
    first, *others = analyse(table, control=control, pair=("a", "b")).interactions
    assert (first.first, first.second, first.num_tests, first.num_pairs) == ("a", "b", 3, 1)
    assert {(one.num_tests, one.num_pairs) for one in others} == {(6, 2)}
    told = " ".join(one.sentence() for one in free)
    assert "corrected by Holm over 9 tests of 3 pairs" in told


def test_a_report_counts_the_tests_and_says_what_has_none() -> None:
    one = crossover(curve("a", [-2.0, -3.0, -4.0]), curve("b", [-2.0, -1.0, -2.0], lacking=True))
    told = pair_statement(one, NAMES)
    assert "with 64 images the difference is not significant; with 1,024 images the difference cannot be tested" in told
    assert "corrected by Holm over 2 sizes" in told


def test_a_pair_without_a_test_is_not_counted_among_pairs() -> None:
    apart = crossover(curve("a", [-2.0, -3.0, -4.0]), curve("b", [-1.0, -2.0, -3.0]))
    alone = Curve("c", "num_train", X, np.array([[-1.0, -2.0, -3.0]]), ("0",))
    found = corrected([apart, crossover(curve("a", [-2.0, -3.0, -4.0]), alone)])
    assert math.isnan(found[1].p_crosses)
    assert [one.num_pairs for one in found] == [1, 1]
    assert "over both claims of 1 pair," in found[0].method
    assert found[0].p_none == pytest.approx(2 * apart.p_none), "two claims of one pair"


def test_pairs_that_cannot_be_tested_are_told_apart() -> None:
    frame = records_frame(study_records({name: CURVES[name] for name in ("resnet", "vit", "mlp")}), "nano")
    names = {name: name for name in CURVES}
    lacking = frame[(frame["arm"] != "mlp") | (frame["replicate"] == 0)]
    (said, *_) = crossover_statements(analyse_study(lacking, pair=None, chance=0.5), names)
    assert said.startswith("No pair was declared. Of all 3 pairs, corrected by Holm over the 1 that can be tested, ")
    (said, *_) = crossover_statements(analyse_study(frame[frame["replicate"] == 0], pair=None, chance=0.5), names)
    unknown = "No pair was declared, and whether any of 3 pairs crosses is not known: "
    unknown += "a test needs replicates, and no two arms"
    assert said == f"{unknown} share two replicates at any size."
    apart = frame[frame["arm"] == frame["num_train"].map({128: "resnet", 512: "vit", 2048: "mlp"})]
    (said, *_) = crossover_statements(analyse_study(apart, pair=None, chance=0.5), names)
    assert said == f"{unknown} were measured at a common size."
