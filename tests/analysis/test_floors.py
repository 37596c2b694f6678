"""Floors over several forms, on curves whose floor is known."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis.curve import Curve
from studies.analysis.fitting import fit_curve
from studies.analysis.floors import floor_of

SIZES = 64.0 * 4 ** np.arange(5)


def curve(error: np.ndarray, noise: float, replicates: int, seed: int = 0) -> Curve:
    noise_of_cells = noise * np.random.default_rng(seed).standard_normal((replicates, len(error)))
    names = tuple(str(index) for index in range(replicates))
    return Curve("resnet", "num_train", SIZES[: len(error)], np.log(error) + noise_of_cells, names)


def test_the_hull_covers_every_form() -> None:
    floor = floor_of(curve(0.0625 + 1.9 * SIZES**-0.6, 0.03, 5))
    assert set(floor.by_form) == {"M2", "M3"}
    assert floor.low == min(one.low for one in floor.by_form.values()) < floor.value
    assert floor.high == max(one.high for one in floor.by_form.values()) > floor.value
    assert floor.contains(0.0625)
    assert not floor.contains(floor.high * 1.01)
    assert "over forms M2 and M3" in floor.sentence()


def test_the_floor_does_not_hang_on_the_form_the_curve_was_made_with() -> None:
    """A curve of form M3 is a good M2 with another floor: the hull holds the true one."""
    gamma, exponent = 0.002, 0.8
    truth = 8 * gamma**exponent
    floor = floor_of(curve(8 * (1 / SIZES + gamma) ** exponent, 0.01, 5))
    assert floor.by_form["M3"].low <= truth <= floor.by_form["M3"].high
    assert floor.contains(truth)
    assert not floor.by_form["M2"].low <= truth <= floor.by_form["M2"].high


def test_without_replicates_there_is_no_interval() -> None:
    floor = floor_of(curve(0.0625 + 1.9 * SIZES**-0.6, 0.0, 1))
    assert floor.value == pytest.approx(0.0625, rel=1e-4)
    assert np.isnan(floor.low)
    assert "without an interval" in floor.sentence()


def test_two_sizes_have_no_floor() -> None:
    floor = floor_of(curve(np.array([0.4, 0.3]), 0.01, 3))
    assert not floor.by_form
    assert floor.sentence().startswith("resnet: no floor can be fitted: ")
    assert not floor.contains(0.1)


def test_three_sizes_have_no_floor_either() -> None:
    """A form of three parameters goes through any three falling points, and its floor is an accident."""
    floor = floor_of(curve(np.array([0.163, 0.114, 0.1139]), 0.02, 3))
    assert not floor.by_form
    assert "cannot tell a floor from a slope" in floor.sentence()


def test_a_skew_of_zero_absorbs_nothing_of_the_floor() -> None:
    """M4 with its skew at the end of its range is M2, and so is the interval of its floor."""
    measured = curve(np.array([0.1676, 0.1065, 0.0931, 0.0696, 0.0645]), 0.05, 5)
    m2, m4 = (fit_curve(measured, form=form, chance=0.5) for form in ("M2", "M4"))
    assert m4.coefficients["skew"].value < 1e-3  # type: ignore[union-attr]
    assert m4.floor.low == pytest.approx(m2.floor.low, rel=0.02)  # type: ignore[union-attr]
    # Above its estimate the profile may take some skew again, so that the upper ends agree roughly only.
    assert m4.floor.high == pytest.approx(m2.floor.high, rel=0.1)  # type: ignore[union-attr]
    assert m4.floor.high > 1.03 * m4.floor.value  # type: ignore[union-attr]
