"""Multipliers where a curve stands still: the error is the prior's, the size is where it first reached it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from studies.analysis.choice import choose
from studies.analysis.curve import Curve, interpolate
from studies.analysis.multiplier import PARTS, first_reach, multiplier

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


def test_no_multiplier_is_told_near_chance() -> None:
    """Above 0.8 of chance curves are flat, and the size that reached an error is an accident."""
    prior, flexible = curve("prior", [0.48, 0.46, 0.2, 0.1], noise=0.01), curve("flexible", [0.49, 0.47, 0.3, 0.1])
    assert "at 64 images" in multiplier(prior, flexible).sentence()
    found = multiplier(prior, flexible, chance=0.5)
    assert "at 64 images" not in found.sentence()
    assert "at 1,024 images" in found.sentence()
    assert "errors near chance are not counted" in found.sentence()
    assert list(found.away_from_chance(found.by_x)["x_prior"].round()) == [1024, 4096]
    assert (
        "is not told: every error that both reach is near chance" in multiplier(prior, flexible, chance=0.1).sentence()
    )


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("0",), "without interval: there are no replicates"),
        (("0", "1"), "without interval: two replicates carry no useful one"),
        (("0", "1", "2"), "95% interval"),
    ],
)
def test_a_multiplier_without_an_interval_says_why(names: tuple[str, ...], why: str) -> None:
    curves = [curve(family, [at, at / 2, at / 4], names, noise=0.01) for family, at in (("a", 0.3), ("b", 0.35))]
    assert why in multiplier(*curves).sentence()


def test_it_is_called_by_what_the_pair_differs_in() -> None:
    found = multiplier(curve("a", [0.3, 0.1]), curve("b", [0.4, 0.1]), differs_in="size")
    assert found.sentence().endswith("(data multiplier of the size).")


@pytest.mark.parametrize("seed", range(5))
def test_a_monotone_curve_is_reached_where_the_first_of_its_parts_reaches(seed: int) -> None:
    """Found by halving; the truth is the first of all parts, one after the other. Curves may rise again."""
    generator = np.random.default_rng(seed)
    log_x = np.cumsum(generator.uniform(0.2, 2, 6))
    curves = np.cumsum(generator.normal(-0.3, 0.5, (4, 6)), axis=1)
    levels = np.concatenate([generator.uniform(-3, 1, 20), curves[0]])
    fine = np.concatenate([*(np.linspace(a, b, PARTS, endpoint=False) for a, b in pairwise(log_x)), log_x[-1:]])
    between = interpolate(log_x, curves, fine, "monotone")
    between[:, ::PARTS] = curves
    expected = np.full((4, len(levels)), np.nan)
    for row, curve in enumerate(between):
        for column, level in enumerate(levels):
            at = next((place for place, error in enumerate(curve) if error <= level), None)
            if at is not None and (at > 0 or curve[0] == level):
                ends = fine[max(at - 1, 0) : at + 1][::-1], curve[max(at - 1, 0) : at + 1][::-1]
                expected[row, column] = np.interp(level, ends[1], ends[0])
    found = first_reach(log_x, curves, levels, "monotone")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert 5 < np.isfinite(found).sum() < found.size
