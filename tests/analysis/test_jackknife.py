"""Variances: the textbook's for a mean, both parts where test images are shared, none where nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from closed_form import curve_of
from scipy import stats

from studies.analysis.crossover import crossover
from studies.analysis.interaction import difference_of_differences
from studies.analysis.jackknife import spread, t_quantile, t_two_sided
from studies.analysis.paired import holm, paired_tests

X = [100.0, 1000.0]
LEFT = np.array([[0.30, 0.20], [0.36, 0.21], [0.33, 0.17], [0.31, 0.22]])
RIGHT = np.array([[0.35, 0.15], [0.38, 0.16], [0.39, 0.12], [0.34, 0.19]])


def test_the_jackknife_of_a_mean_is_the_variance_of_the_mean() -> None:
    curve = curve_of(LEFT, X)
    result = spread([curve], lambda means: means[0])
    np.testing.assert_allclose(result.value, np.log(LEFT).mean(axis=0))
    np.testing.assert_allclose(result.standard_error, np.log(LEFT).std(axis=0, ddof=1) / 2)
    assert result.degrees == 3
    assert np.isnan(result.test_standard_error).all()


def test_a_paired_test_is_the_textbook_paired_t_test() -> None:
    tests = paired_tests(curve_of(LEFT, X, "a"), curve_of(RIGHT, X, "b"), confidence=0.9).tests
    for place in range(2):
        known = stats.ttest_rel(np.log(LEFT[:, place]), np.log(RIGHT[:, place]))
        row = tests.iloc[place]
        assert row["p_value"] == pytest.approx(known.pvalue, rel=1e-9)
        low, high = known.confidence_interval(0.9)
        assert (row["low"], row["high"]) == pytest.approx((low, high), rel=1e-9)
        assert row["difference"] == pytest.approx(np.log(LEFT[:, place] / RIGHT[:, place]).mean())
        assert row["degrees"] == 3
        assert row["num_pairs"] == 4


def test_blocks_of_test_images_add_the_variance_of_a_proportion() -> None:
    """Images are equally hard: the block jackknife is close to the binomial variance of the mean error."""
    generator, num, blocks = np.random.default_rng(0), 20_000, 20
    wrong = generator.random(num) < 0.3  # every replicate makes the same errors
    per_block = np.bincount(np.arange(num) % blocks, wrong, blocks)
    images = num / blocks
    error = wrong.mean()
    left = np.log((per_block.sum() - per_block) / (num - images))  # [B]
    curve = curve_of(np.full((3, 1), error), [100.0])
    curve = replace(curve, block_log_error=np.tile(left[:, None, None], (1, 3, 1)))
    result = spread([curve], lambda means: means[0][:, 0])
    binomial = math.sqrt((1 - error) / error / num)
    assert float(result.test_standard_error) == pytest.approx(binomial, rel=0.4)
    assert float(result.standard_error) == pytest.approx(float(result.test_standard_error))  # replicates are equal
    assert float(result.test_standard_error) == pytest.approx(math.sqrt((blocks - 1) * left.var()), rel=1e-9)


def test_both_parts_of_the_variance_are_added() -> None:
    generator = np.random.default_rng(1)
    blocks = np.log(0.3) + 0.01 * generator.standard_normal((20, 1, 1)) + np.zeros((20, 4, 1))
    curve = replace(curve_of(LEFT[:, :1], X[:1]), block_log_error=blocks)
    result = spread([curve], lambda means: means[0][:, 0])
    rows = np.log(LEFT[:, 0]).var(ddof=1) / 4
    images = 19 * blocks[:, 0, 0].var()
    assert float(result.standard_error) ** 2 == pytest.approx(rows + images, rel=1e-9)
    assert float(result.test_standard_error) ** 2 == pytest.approx(images, rel=1e-9)
    assert result.deleted.shape == (24,)


def test_errors_stated_per_point_are_propagated() -> None:
    first = curve_of([0.3, 0.2], X, "a", standard_error=np.array([0.05, 0.02]))
    second = curve_of([0.4, 0.1], X, "b", standard_error=np.array([0.12, 0.03]))
    tests = paired_tests(first, second).tests
    np.testing.assert_allclose(tests["standard_error"], [0.13, math.sqrt(0.0013)], rtol=1e-9)
    half = 1.959964 * 0.13
    assert tests["low"].iloc[0] == pytest.approx(math.log(0.75) - half, rel=1e-6)
    assert tests["p_value"].iloc[0] == pytest.approx(2 * stats.norm.sf(abs(math.log(0.75)) / 0.13), rel=1e-9)


def test_nothing_known_of_the_uncertainty_gives_no_interval() -> None:
    result = spread([curve_of([0.3, 0.2], X)], lambda means: means[0][:, 0])
    assert math.isnan(float(result.standard_error))
    assert result.degrees == 0
    assert not result.estimate(0.95).has_interval


def test_quantiles_are_student_s() -> None:
    assert t_quantile(0.975, 4) == pytest.approx(2.776445, abs=1e-6)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959964, abs=1e-6)
    assert math.isnan(t_quantile(0.975, 0))
    assert float(t_two_sided(np.array(0.0), np.array(0.0), 4)) == 1
    assert float(t_two_sided(np.array(-0.1), np.array(0.0), 4)) == 0
    assert float(t_two_sided(np.array(-2.776445), np.array(1.0), 4)) == pytest.approx(0.05, abs=1e-6)


def test_holm_against_an_example_worked_by_hand() -> None:
    corrected = holm(np.array([0.01, 0.04, 0.03, np.nan, 0.005]))
    # sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1; the last is raised to the one before it
    np.testing.assert_allclose(corrected, [0.03, 0.06, 0.06, np.nan, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])
    assert holm(np.array([])).shape == (0,)


def crossing(differences: list[list[float]], **how: float) -> tuple[str, float, float]:
    """The decision on curves with given differences of log errors, a row per replicate, and its p-values."""
    d = np.array(differences)
    x = [100.0 * 2**i for i in range(d.shape[1])]
    result = crossover(curve_of(np.exp(d) * 0.2, x, "a"), curve_of(np.full(d.shape, 0.2), x, "b"), **how)  # type: ignore[arg-type]
    return result.decision, result.p_crosses, result.p_none


JITTER = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def test_crossing_needs_evidence_on_both_sides() -> None:
    def rows(*means: float) -> list[list[float]]:
        return (JITTER[:, None] + np.array(means)).tolist()

    assert crossing(rows(-0.2, 0.0, 0.2))[0] == "crosses"
    assert crossing(rows(-0.2, 0.0, 0.005))[0] == "not resolved"  # one significant size is not enough
    assert crossing(rows(0.005, 0.0, 0.2))[0] == "not resolved"
    assert crossing(rows(-0.2, -0.1, -0.1))[0] == "none below x_max"
    assert crossing(rows(0.2, 0.1, 0.1))[0] == "none below x_max"
    assert crossing(rows(-0.2, -0.1, -0.005))[0] == "not resolved"  # every size needs evidence
    decision, p_crosses, p_none = crossing(rows(-0.2, 0.005, 0.1))
    weaker = stats.ttest_1samp(JITTER + 0.1, 0).pvalue
    assert decision == "crosses"
    assert p_crosses == pytest.approx(weaker, rel=1e-9)
    assert p_none == 1


def test_none_is_decided_by_one_sided_evidence_and_crossing_by_two_sided() -> None:
    """At t = 2.4 with four degrees, one-sided p = .037 and two-sided p = .074."""
    mean = 2.4 * JITTER.std(ddof=1) / math.sqrt(5)
    rows = JITTER[:, None] + np.array([mean, mean])
    decision, _, p_none = crossing(rows.tolist())
    assert decision == "none below x_max"
    assert p_none == pytest.approx(stats.t.sf(2.4, 4), rel=1e-6)
    assert crossing((JITTER[:, None] + np.array([-mean, mean])).tolist())[0] == "not resolved"


def test_the_confidence_set_ends_where_the_test_begins_to_reject() -> None:
    """d rises linearly in ln x with a constant standard error: the set is symmetric about the root."""
    x, slope = np.array([100.0, 1000.0, 10000.0]), 0.2
    d = JITTER[:, None] + slope * np.log(x / 1000)
    result = crossover(curve_of(np.exp(d) * 0.2, x, "a"), curve_of(np.full(d.shape, 0.2), x, "b"))
    (part,) = result.confidence_set or ()
    half = 2.776445 * JITTER.std(ddof=1) / math.sqrt(5) / slope
    assert math.log(part.high / 1000) == pytest.approx(half, rel=1e-3)
    assert math.log(1000 / part.low) == pytest.approx(half, rel=1e-3)
    assert not part.open_below
    assert not part.open_above


def test_a_difference_of_differences_against_the_textbook() -> None:
    generator = np.random.default_rng(2)
    values = np.exp(-1 + 0.1 * generator.standard_normal((4, 5, 1)))
    curves = [curve_of(rows, [100.0], family) for rows, family in zip(values, "abab", strict=True)]
    result = difference_of_differences(*curves)
    contrast = np.log(values[0] / values[1] * values[3] / values[2])[:, 0]
    row = result.tests.iloc[0]
    known = stats.ttest_1samp(contrast, 0)
    assert row["difference"] == pytest.approx(contrast.mean())
    assert row["p_value"] == pytest.approx(known.pvalue, rel=1e-9)
    assert row["unpermuted"] - row["permuted"] == pytest.approx(row["difference"])
    assert (row["low"], row["high"]) == pytest.approx(tuple(known.confidence_interval(0.95)), rel=1e-9)
