"""Crossovers and multipliers of curves in closed form, from the functions and from dense tables (PROTOCOL 7)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_form import SIZES, curve_of, dense, flexible, flexible_inverse, prior, prior_inverse

from studies.analysis.choice import choose, needed
from studies.analysis.crossover import crossover
from studies.analysis.curve import Interpolation, pair_up
from studies.analysis.multiplier import first_reach, multiplier, multiplier_at, multiplier_of
from studies.analysis.roots import mean_roots, meeting_points, root_interval
from studies.analysis.simulation import CONVOLUTION, TRANSFORMER, PowerLaw

KINDS: list[Interpolation] = ["linear", "monotone"]


def test_the_crossing_in_closed_form() -> None:
    (meeting,) = meeting_points(prior, flexible, 70, 5000)
    assert meeting == pytest.approx(177, abs=1e-9)
    assert prior(meeting) == pytest.approx(11 / 7, abs=1e-12)
    k = multiplier_of(prior_inverse, flexible_inverse)
    assert k(2) == pytest.approx(129 / 33, abs=1e-12)
    assert k(1.6) == pytest.approx(1.3307, abs=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_crossing_from_a_dense_table(kind: Interpolation) -> None:
    first, second = dense(prior, 20, 5000, 500, "prior"), dense(flexible, 70, 5000, 400, "flexible")
    result = crossover(first, second, interpolation=kind)
    (root,) = result.roots
    assert root.x == pytest.approx(177, rel=1e-4)
    assert root.error == pytest.approx(11 / 7, rel=1e-4)
    assert (root.better_below, root.better_above) == ("prior", "flexible")
    k = multiplier_at(first, second, [2.0, 1.6], interpolation=kind)["multiplier"]
    np.testing.assert_allclose(k, [3.909, 1.3307], rtol=2e-3)


def test_two_power_laws() -> None:
    (meeting,) = meeting_points(CONVOLUTION, TRANSFORMER, 128, 32768)
    assert meeting == pytest.approx(2849.39, abs=0.005)
    assert CONVOLUTION(meeting) == pytest.approx(0.27240, abs=5e-6)
    k = multiplier_of(CONVOLUTION.inverse, TRANSFORMER.inverse)
    known = {0.5: 1.22155, 0.3: 1.11061, 0.25: 0.86831, 0.2: 0.39019}
    assert {error: round(k(error), 5) for error in known} == known


@pytest.mark.parametrize("kind", KINDS)
def test_two_power_laws_from_a_dense_table(kind: Interpolation) -> None:
    first, second = dense(CONVOLUTION, 128, 32768, 600, "c"), dense(TRANSFORMER, 128, 32768, 600, "v")
    (root,) = crossover(first, second, interpolation=kind).roots
    assert root.x == pytest.approx(2849.39, rel=1e-3)
    assert root.error == pytest.approx(0.27240, rel=1e-4)
    k = multiplier_at(first, second, [0.5, 0.3, 0.25, 0.2], interpolation=kind)["multiplier"]
    np.testing.assert_allclose(k, [1.22155, 1.11061, 0.86831, 0.39019], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_exponents_and_floors_give_a_constant_multiplier(kind: Interpolation) -> None:
    truth = (3.0 / 2.0) ** (1 / 0.4)
    first, second = (
        dense(PowerLaw(0.1, 2.0, 0.4), 64, 65536, 500, "p"),
        dense(PowerLaw(0.1, 3.0, 0.4), 64, 65536, 500, "f"),
    )
    result = multiplier(first, second, interpolation=kind)
    np.testing.assert_allclose(result.by_error["multiplier"], truth, rtol=1e-3)
    reached = result.by_x["multiplier"].dropna()
    assert len(reached) > 300
    np.testing.assert_allclose(reached, truth, rtol=1e-3)
    assert result.by_x["x_flexible"].iloc[200] == pytest.approx(truth * result.by_x["x_prior"].iloc[200], rel=1e-3)


def test_the_multiplier_of_a_swapped_pair_is_the_inverse() -> None:
    first, second = dense(CONVOLUTION, 128, 32768, 600, "c"), dense(TRANSFORMER, 128, 32768, 600, "v")
    errors = [0.5, 0.3, 0.2]
    k, inverse = multiplier_at(first, second, errors), multiplier_at(second, first, errors)
    np.testing.assert_allclose(k["multiplier"] * inverse["multiplier"], 1.0, rtol=1e-12)
    np.testing.assert_allclose(k["x_prior"], inverse["x_flexible"], rtol=1e-12)


def test_monotone_interpolation_keeps_the_measured_points_and_makes_no_extremum() -> None:
    curve = curve_of([0.6, 0.5, 0.2, 0.19, 0.05])
    for kind in KINDS:
        at = first_reach(curve.log_x[:5], curve.mean, curve.mean[1:], kind)
        np.testing.assert_allclose(np.exp(at), SIZES[1:5], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_is_reached_where_the_curve_first_comes_down_to_it(kind: Interpolation) -> None:
    log_x, log_error = np.log([1.0, 2.0, 4.0, 8.0]), np.log([0.8, 0.4, 0.6, 0.1])
    reached = first_reach(log_x, log_error, np.log([0.9, 0.8, 0.4, 0.05]), kind)
    assert math.isnan(reached[0])  # it begins below this level
    assert np.exp(reached[1]) == pytest.approx(1)
    assert np.exp(reached[2]) == pytest.approx(2)  # and not between 4 and 8, where it comes down again
    assert math.isnan(reached[3])
    between = first_reach(log_x, log_error, np.log([0.5]), kind)[0]
    assert 1 < np.exp(between) < 2
    if kind == "linear":
        assert between == pytest.approx(math.log(2) * math.log(0.8 / 0.5) / math.log(2))
    several = first_reach(log_x, np.stack([log_error, log_error + math.log(0.5)]), np.log([0.3]), kind)
    assert several[1, 0] < several[0, 0]


def test_needed_and_chosen_on_a_dense_table() -> None:
    curves = {"c": dense(CONVOLUTION, 128, 32768, 600, "c"), "v": dense(TRANSFORMER, 128, 32768, 600, "v")}
    for family, truth in (("c", CONVOLUTION), ("v", TRANSFORMER)):
        assert needed(curves[family], 0.3).x.value == pytest.approx(truth.inverse(0.3), rel=1e-3)
    below, above = choose(curves, 1000.0), choose(curves, 10000.0)
    assert below is not None
    assert above is not None
    assert (below.family, above.family, above.runner_up) == ("c", "v", "c")
    assert above.error == pytest.approx(TRANSFORMER(10000.0), rel=1e-4)
    assert choose(curves, 10.0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_a_crossover_is_the_jackknife_of_its_logarithm(kind: Interpolation) -> None:
    """Two straight lines in logarithms: the crossing of means is linear in the offsets, so the jackknife is exact."""
    x, offsets = np.array([100.0, 1000.0, 10000.0]), np.array([-0.04, 0.0, 0.02, 0.05])
    first = curve_of(np.exp(-0.2 * np.log(x / 1000) + offsets[:, None]) * 0.2, x, "a")
    second = curve_of(np.exp(-0.5 * np.log(x / 1000) * np.ones((4, 1))) * 0.2, x, "b")
    pair = pair_up(first, second)
    assert pair is not None
    (root,) = mean_roots(pair, kind)
    assert math.log(root.x / 1000) == pytest.approx(-offsets.mean() / 0.3, rel=1e-6)
    interval = root_interval(pair, 0.95, kind)
    assert interval is not None
    half = 3.182446 * offsets.std(ddof=1) / 2 / 0.3
    assert math.log(interval.high / interval.value) == pytest.approx(half, rel=1e-3)
    assert math.log(interval.value / interval.low) == pytest.approx(half, rel=1e-3)
    assert interval.degrees == 3
