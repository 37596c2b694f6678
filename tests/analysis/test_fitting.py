"""Fits against curves whose truth is known, and against data that no fit can be made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from studies.analysis.curve import Curve
from studies.analysis.extrapolation import choose_form
from studies.analysis.fitted_curve import CurveFit, NoFit, fitted_meeting
from studies.analysis.fitting import fit_curve, fit_curves
from studies.analysis.forms import build_form

N = 2.0 ** np.arange(7, 16)
PRIOR, FLEXIBLE = (0.16, 6.0, 0.5), (0.05, 3.6, 0.35)


def curve_of(error: np.ndarray, x: np.ndarray = N, family: str = "resnet", **known: np.ndarray) -> Curve:
    rows = np.log(np.atleast_2d(error))
    return Curve(family, "num_train", x, rows, tuple(f"r{i}" for i in range(len(rows))), **known)


def power_law(floor: float, amplitude: float, exponent: float, x: np.ndarray = N) -> np.ndarray:
    return np.asarray(floor + amplitude * x**-exponent)


def noisy(
    truth: tuple[float, float, float] = PRIOR, num: int = 5, x: np.ndarray = N, seed: int = 0, cell: float = 0.04
) -> Curve:
    generator = np.random.default_rng(seed)
    noise = 0.03 * generator.normal(size=(num, 1)) + cell * generator.normal(size=(num, len(x)))
    return curve_of(power_law(*truth, x) * np.exp(noise), x)


def fitted(curve: Curve, **how: object) -> CurveFit:
    fit = fit_curve(curve, **how)  # type: ignore[arg-type]
    assert isinstance(fit, CurveFit)
    return fit


def test_exact_curves_give_their_coefficients_and_their_meeting() -> None:
    prior = fitted(curve_of(power_law(*PRIOR)), form="M2")
    flexible = fitted(curve_of(power_law(*FLEXIBLE), family="vit"), form="M2")
    for fit, truth in ((prior, PRIOR), (flexible, FLEXIBLE)):
        found = [fit.coefficients[name].value for name in ("floor", "amplitude", "exponent")]
        np.testing.assert_allclose(found, truth, rtol=1e-6)
    (meeting,) = fitted_meeting(prior, flexible, 128, 32_768)
    assert meeting == pytest.approx(2849.39, abs=0.005)
    assert prior.predict(meeting) == pytest.approx(0.27240, abs=5e-6)
    multiplier = flexible.inverse([0.5, 0.3, 0.25, 0.2]) / prior.inverse([0.5, 0.3, 0.25, 0.2])
    np.testing.assert_allclose(multiplier, [1.22155, 1.11061, 0.86831, 0.39019], atol=5e-6)
    assert np.isnan(prior.inverse(0.15))
    assert fitted_meeting(prior, flexible, 4000, 32_768) == []
    assert fitted_meeting(prior, prior, 128, 32_768) == []


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("M1", [-1.2, 0.3]),
        ("M2", [np.log(0.1), -1.5, np.log(0.6)]),
        ("M3", [np.log(0.1), -1.5, np.log(0.6)]),
        ("M4", [np.log(0.1), -0.5, np.log(0.8), np.log(1.7)]),
    ],
)
@pytest.mark.parametrize("num", [1, 3])
def test_every_form_recovers_itself(name: str, theta: list[float], num: int) -> None:
    x = 2.0 ** np.arange(6, 16)
    form = build_form(name, 0.95)
    log_x = np.log(x)
    error = np.exp(form.log_error(np.array([theta]), log_x - log_x.mean())[0])
    fit = fitted(curve_of(np.repeat(error, num, axis=0), x), form=name, chance=0.95)
    truth = form.natural(np.array([theta]), float(log_x.mean()))[0]
    kept = error[0] <= 0.8 * 0.95
    assert len(fit.x) == (len(x) if name == "M4" else kept.sum())
    np.testing.assert_allclose([fit.coefficients[key].value for key in form.coefficients], truth, rtol=1e-5)
    np.testing.assert_allclose(fit.predict(x), error[0], rtol=1e-7)


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4"])
def test_extrapolation_chooses_the_form_that_made_the_curve(name: str) -> None:
    x = 2.0 ** np.arange(4, 16)
    theta = {"M1": [-1.5, 0.2], "M4": [np.log(0.1), 0.5, np.log(0.8), np.log(2.5)]}
    parameters = np.array([theta.get(name, [np.log(0.1), -1.5, np.log(0.6)])])
    error = np.exp(build_form(name, 0.99).log_error(parameters, np.log(x) - np.log(x).mean())[0])
    choice = choose_form(curve_of(np.minimum(error, 0.98), x), chance=0.99)
    assert choice.chosen == name
    assert choice.by_extrapolation
    assert choice.held_out == (x[-2], x[-1])
    assert choice.log_errors[name] < 1e-5


def test_with_few_sizes_the_form_is_the_default_and_the_sentence_says_why() -> None:
    x = 4.0 ** np.arange(3, 8)
    fit = fitted(noisy(x=x))
    assert fit.form == "M2"
    assert fit.choice is not None
    assert not fit.choice.by_extrapolation
    assert [str(one) for one in fit.choice.left_out if "M1" in one.what] == [
        "form M1: needs 4 sizes below the 2 held out, the curve has 3"
    ]
    assert "the form was not chosen by extrapolation" in str(fit)


def test_names_and_order_change_nothing_but_the_names() -> None:
    curve = noisy(x=4.0 ** np.arange(3, 9))
    shuffled = replace(curve, family="a thing", log_error=curve.log_error[::-1], replicates=("x", "y", "z", "u", "v"))
    first, second = fitted(curve), fitted(shuffled)
    assert first.coefficients == second.coefficients
    assert first.floor == second.floor
    np.testing.assert_array_equal(first.predict(N), second.predict(N))
    np.testing.assert_array_equal(first.band(N)[1], second.band(N)[1])
    assert str(second) == str(first).replace("resnet", "a thing")
    assert first.sentence({"resnet": "ResNet"}) == str(first).replace("resnet", "ResNet")


def test_a_diverged_run_hardly_moves_the_floor() -> None:
    curve = noisy()
    clean = fitted(curve, form="M2")
    for where in ((2, 8), (2, 4), (2, 0)):
        rows = curve.log_error.copy()
        rows[where] = np.log(0.9)
        outlier = fitted(replace(curve, log_error=rows), form="M2")
        assert outlier.floor.value == pytest.approx(clean.floor.value, rel=0.1)
        assert outlier.floor.low < PRIOR[0] < outlier.floor.high
    row = curve.log_error.copy()
    row[2] = np.log(0.9)
    assert fitted(replace(curve, log_error=row), form="M2").floor.value == pytest.approx(clean.floor.value, rel=0.25)


def test_a_floor_that_is_not_there_is_not_resolved() -> None:
    fit = fitted(noisy((0.0, 3.6, 0.35)), form="M2")
    assert fit.floor.low == 0
    assert 0 < fit.floor.high < 0.1
    assert "no floor is resolved" in str(fit)
    assert "95% interval 0 to" in str(fit)


def test_stated_errors_stand_in_for_replicates() -> None:
    error = power_law(*PRIOR)
    narrow = fitted(curve_of(error, standard_error=np.full(len(N), 0.01)), form="M2")
    wide = fitted(curve_of(error, standard_error=np.full(len(N), 0.02)), form="M2")
    assert narrow.floor.low < 0.16 < narrow.floor.high
    ratio = (wide.floor.high - wide.floor.low) / (narrow.floor.high - narrow.floor.low)
    assert ratio == pytest.approx(2, rel=0.1)
    assert narrow.floor.degrees == np.inf
    # The linear error propagation of least squares, computed here by itself.
    jacobian = np.stack([np.ones_like(N), N**-0.5, -6 * np.log(N) * N**-0.5], axis=1) / error[:, None]
    deviation = 0.01 * np.sqrt(np.linalg.inv(jacobian.T @ jacobian)[0, 0])
    assert narrow.floor.high - narrow.floor.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    low, high = narrow.band(1000.0)
    assert low < narrow.predict(1000.0) < high


def test_without_replicates_and_errors_there_is_no_interval_and_the_sentence_says_so() -> None:
    fit = fitted(noisy(num=1), form="M2")
    assert not fit.floor.has_interval
    assert "no interval, as the table has neither replicates nor stated errors" in str(fit)
    assert np.isnan(fit.band(N)).all()
    assert fit.delta[0] > 0.01


def test_blocks_of_test_images_widen_the_interval() -> None:
    curve = noisy()
    generator = np.random.default_rng(5)
    shift = 0.01 * generator.normal(size=(20, 1, len(N)))
    alone = fitted(curve, form="M2")
    blocks = fitted(replace(curve, block_log_error=curve.log_error[None] + shift), form="M2")
    assert blocks.floor.value == alone.floor.value
    assert blocks.floor.high - blocks.floor.low > 1.1 * (alone.floor.high - alone.floor.low)
    assert "20 blocks of shared test images" in blocks.method
    idle = fitted(replace(curve, block_log_error=np.repeat(curve.log_error[None], 20, axis=0)), form="M2")
    assert idle.floor.high == pytest.approx(alone.floor.high, rel=1e-9)


def test_floor_and_exponent_correlate_as_least_squares_says() -> None:
    error = power_law(*PRIOR)
    jacobian = np.stack([np.ones_like(N), N**-0.5, -6 * np.log(N) * N**-0.5], axis=1) / error[:, None]
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    expected = covariance[0, 2] / np.sqrt(covariance[0, 0] * covariance[2, 2])
    assert fitted(curve_of(error), form="M2").correlation == pytest.approx(expected, rel=1e-4)
    assert 0.9 < expected < 0.95


def test_joint_intervals_are_wider_and_the_band_holds_the_curve() -> None:
    fit = fitted(noisy(), form="M2")
    joint = fit.coefficients["floor"]
    assert joint.low < fit.floor.low < fit.floor.value < fit.floor.high < joint.high
    low, high = fit.band(N)
    assert (low < fit.predict(N)).all()
    assert (fit.predict(N) < high).all()
    assert str(fit).startswith("resnet: error = .1")
    assert fit.as_dict()["coefficients"]["floor"]["value"] == fit.floor.value


def test_points_near_chance_are_left_out_except_by_the_sigmoid() -> None:
    curve = noisy((0.1, 12.0, 0.5))
    curve = replace(curve, log_error=np.minimum(curve.log_error, np.log(0.89)))
    fit = fitted(curve, form="M2", chance=0.9)
    assert N[0] not in fit.x
    assert "is above 0.8 x chance (0.9)" in fit.left_out[0].reason
    assert len(fitted(curve, form="M4", chance=0.9).x) == len(N)
    assert len(fitted(curve, form="M2").x) == len(N)


def test_missing_cells_are_left_out_and_named() -> None:
    curve = noisy()
    rows = curve.log_error.copy()
    rows[1, 3] = np.nan
    rows[:, 5] = np.nan
    rows[:4, 6] = np.nan  # a single replicate is left
    rows[0, 0] = -np.inf
    fit = fitted(replace(curve, log_error=rows), form="M2")
    assert fit.num_cells == curve.log_error.size - 1 - 5 - 4 - 1
    assert [str(one) for one in fit.left_out][2] == (
        "cells of resnet at num_train=4096: no replicate has an error there"
    )
    assert fit.floor.low < PRIOR[0] < fit.floor.high


NO_FITS: dict[str, tuple[Callable[[], Curve], str]] = {
    "two sizes": (lambda: noisy(x=N[:2]), "form M2 has 3 parameters and the curve 2 sizes"),
    "one size": (lambda: noisy(x=N[:1]), "the curve 1 size with"),
    "all at chance": (lambda: curve_of(np.full((3, 9), 0.9)), "the curve 0 sizes with an error at most 0.8 x chance"),
    "flat": (lambda: curve_of(np.full((3, 9), 0.3)), "does not fall as num_train grows"),
    "rising": (lambda: curve_of(np.geomspace(0.1, 0.5, 9)[None]), "does not fall as num_train grows"),
    "nothing measured": (lambda: curve_of(np.full((2, 9), np.nan)), "the curve 0 sizes"),
}


@pytest.mark.parametrize("case", NO_FITS)
def test_what_cannot_be_fitted_is_answered(case: str) -> None:
    build, reason = NO_FITS[case]
    fit = fit_curve(build(), form="M2", chance=0.9)
    assert isinstance(fit, NoFit)
    assert isinstance(fit_curve(build(), chance=0.9), NoFit if case not in ("flat", "rising") else CurveFit)
    assert reason in fit.sentence({"resnet": "ResNet"})
    assert str(fit).startswith("resnet: no curve is fitted: ")
    assert fit.as_dict()["statement"] == str(fit)


def test_a_rising_curve_has_a_negative_exponent() -> None:
    fit = fitted(curve_of(0.01 * N**0.3))
    assert fit.form == "M1"
    assert fit.coefficients["exponent"].value == pytest.approx(-0.3)
    assert "N^.3" in str(fit)


@pytest.mark.parametrize("num", [2, 3, 10])
@pytest.mark.parametrize("truth", [PRIOR, (0.0, 2.0, 0.05)])
def test_noise_of_any_size_is_answered(num: int, truth: tuple[float, float, float]) -> None:
    for form in ("M2", "M3", "M4"):
        fit = fit_curve(noisy(truth, num, N[:6], cell=0.5), form=form, chance=1.5)  # type: ignore[arg-type]
        assert str(fit)
        if isinstance(fit, CurveFit):
            assert fit.floor.low <= fit.floor.value <= fit.floor.high


def test_the_floor_interval_covers_the_truth() -> None:
    """At R = 3 and few sizes, with the form known; 30 studies resolve a coverage of .75 from .95."""
    x = 4.0 ** np.arange(3, 8)
    fits = [fitted(noisy((0.0625, 1.9, 0.41), 3, x, seed), form="M2", num_starts=20) for seed in range(30)]
    covered = [fit.floor.low <= 0.0625 <= fit.floor.high for fit in fits]
    assert np.mean(covered) > 0.83


def test_arguments_out_of_range_are_named() -> None:
    curve = noisy()
    with pytest.raises(ValueError, match="chance is -1"):
        fit_curve(curve, chance=-1)
    with pytest.raises(ValueError, match="confidence is 95"):
        fit_curve(curve, confidence=95)
    with pytest.raises(ValueError, match="num_starts is 0"):
        fit_curve(curve, num_starts=0)
    with pytest.raises(ValueError, match="M4 needs the error of chance"):
        fit_curve(curve, form="M4")
    first = fitted(curve, form="M1")
    with pytest.raises(ValueError, match="0 < low < high"):
        fitted_meeting(first, first, 10, 10)
    with pytest.raises(ValueError, match="over num_train and over train_flops"):
        fitted_meeting(first, fitted(replace(curve, column="train_flops"), form="M1"), 10, 100)


def test_every_family_is_fitted_under_its_key() -> None:
    fits = fit_curves({"a": noisy(), "b": noisy(x=N[:2])}, form="M2")
    assert isinstance(fits["a"], CurveFit)
    assert isinstance(fits["b"], NoFit)


def test_a_floor_that_one_replicate_hides_is_found_without_it() -> None:
    """Two replicates have a floor and two bend down: all have none together, and three of which one bends have one."""
    with_floor, bent = power_law(0.05, 3, 0.5), power_law(0, 3, 0.5) * np.exp(-0.04 * np.log(N / N[0]) ** 2)
    fit = fitted(curve_of(np.stack([with_floor, 1.01 * with_floor, bent, 1.01 * bent])), form="M2")
    assert fit.floor.value == 0
    without_one = np.sort(np.exp(fit.refits.replicates[:, 0]))
    assert without_one[:2].tolist() == [0, 0]
    assert (without_one[2:] > 0.004).all()
