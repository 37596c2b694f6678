"""Multipliers where a curve stands still: the error is the prior's, the size is where it first reached it."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis.choice import choose
from studies.analysis.curve import Curve
from studies.analysis.multiplier import multiplier

SIZES = np.array([64.0, 256.0, 1024.0, 4096.0])


def curve(family: str, errors: list[float], replicates: tuple[str, ...] = ("0", "1", "2"), noise: float = 0.0) -> Curve:
    rows = np.log(errors) + noise * np.arange(len(replicates))[:, None]
    return Curve(family, "num_train", SIZES[: len(errors)], rows, replicates)


def test_on_a_plateau_the_size_that_reached_the_error_first_counts() -> None:
    found = multiplier(curve("prior", [0.3, 0.1, 0.1, 0.1]), curve("flexible", [0.5, 0.3, 0.15, 0.08]))
    assert list(found.by_x["multiplier"].isna()) == [False, False, True, True]
    at_256 = found.by_x.iloc[1]
    assert at_256["multiplier"] == pytest.approx(at_256["x_flexible"] / 256)
    assert 9 < at_256["multiplier"] < 10
    reasons = {str(item) for item in found.left_out}
    assert "k at num_train=4096: prior has reached its error there before, at 256" in reasons
    assert "0.6" not in found.sentence()


def test_two_flat_curves_are_worth_the_same() -> None:
    found = multiplier(curve("a", [0.5, 0.5, 0.5]), curve("b", [0.5, 0.5, 0.5]))
    assert found.by_x["multiplier"].iloc[0] == pytest.approx(1.0)
    assert found.by_x["multiplier"].iloc[1:].isna().all()


def test_a_curve_that_rises_again_is_named() -> None:
    found = multiplier(curve("prior", [0.3, 0.1, 0.12, 0.05]), curve("flexible", [0.5, 0.3, 0.15, 0.04]))
    assert found.falls_back == ("prior",)
    assert "the mean curve of prior is not falling throughout" in found.sentence()


def test_a_choice_that_the_data_do_not_separate_is_not_called_one() -> None:
    curves = {"a": curve("a", [0.3, 0.2, 0.1, 0.05], noise=0.2), "b": curve("b", [0.31, 0.21, 0.1, 0.05], noise=-0.2)}
    found = choose(curves, 64)
    assert found is not None
    assert found.probability < 0.9
    assert "do not separate the best" in found.sentence()
    assert "choose" not in found.sentence()


def test_one_rival_without_replicates_does_not_take_the_probability_away() -> None:
    curves = {
        "a": curve("a", [0.3, 0.2, 0.1, 0.05], noise=0.01),
        "b": curve("b", [0.4, 0.3, 0.2, 0.1], noise=-0.01),
        "c": curve("c", [0.5, 0.4, 0.3, 0.2], replicates=("0",)),
    }
    found = choose(curves, 1024)
    assert found is not None
    assert (found.family, found.runner_up, found.untested) == ("a", "b", ("c",))
    assert found.probability > 0.99
    assert "not counting c" in found.sentence()
    assert any(item.what == "c" for item in found.left_out)
