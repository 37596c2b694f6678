"""The forms of data curves: gradients, inverses, limits, and what each coefficient means."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis.forms import Form, build_form

CHANCE = 0.9
Z = np.linspace(-3, 3, 9)
NAMES = ["M1", "M2", "M3", "M4"]


def form_of(name: str) -> Form:
    return build_form(name, CHANCE)


def some_parameters(form: Form, num: int = 20) -> np.ndarray:
    log_error = np.log(0.05 + 0.3 * np.exp(-0.5 * Z))
    return form.starts(Z, np.minimum(log_error, np.log(0.85)), num, np.random.default_rng(3))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_central_differences(name: str) -> None:
    form, step = form_of(name), 1e-6
    theta = some_parameters(form)
    _, gradient = form.log_error(theta, Z)
    for index in range(form.num_parameters):
        moved = np.zeros(form.num_parameters)
        moved[index] = step
        difference = (form.log_error(theta + moved, Z)[0] - form.log_error(theta - moved, Z)[0]) / (2 * step)
        np.testing.assert_allclose(gradient[:, :, index], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_inverse_undoes_the_form(name: str) -> None:
    form = form_of(name)
    theta = some_parameters(form)
    log_error, _ = form.log_error(theta, Z)
    for row, errors in zip(theta, log_error, strict=True):
        steep = np.abs(np.gradient(errors, Z)) > 1e-4  # elsewhere the inverse amplifies rounding
        np.testing.assert_allclose(form.inverse(row[None], errors)[0][steep], Z[steep], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["M2", "M3", "M4"])
def test_the_inverse_below_the_floor_is_never_reached(name: str) -> None:
    form = form_of(name)
    theta = some_parameters(form, 5)
    floor = form.natural(theta, 0.0)[:, 0]
    for row, value in zip(theta, floor, strict=True):
        assert np.isnan(form.inverse(row[None], np.log([0.99 * value]))).all()


def test_the_natural_coefficients_satisfy_the_published_formulas() -> None:
    log_x0 = 6.0
    x = np.exp(Z + log_x0)
    for name in NAMES:
        form = form_of(name)
        theta = some_parameters(form)
        error = np.exp(form.log_error(theta, Z)[0])
        natural = form.natural(theta, log_x0)
        value = {key: natural[:, index, None] for index, key in enumerate(form.coefficients)}
        amplitude, exponent, floor = value["amplitude"], value["exponent"], value.get("floor", 0.0)
        if name in ("M1", "M2"):
            np.testing.assert_allclose(error, floor + amplitude * x**-exponent, rtol=1e-9)
        elif name == "M3":
            shift = (floor / amplitude) ** (1 / exponent)
            np.testing.assert_allclose(error, amplitude * (1 / x + shift) ** exponent, rtol=1e-9)
        else:
            left = np.log(error - floor) - value["skew"] * np.log(CHANCE - error)
            usual = (error > 1.0001 * floor) & (error < 0.9999 * CHANCE)  # elsewhere the differences cancel
            right = np.broadcast_to(np.log(amplitude) - exponent * np.log(x), left.shape)
            np.testing.assert_allclose(left[usual], right[usual], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["M2", "M3", "M4"])
def test_a_floor_of_zero_is_defined_and_is_the_limit_of_small_floors(name: str) -> None:
    form = form_of(name)
    theta = some_parameters(form)
    small, zero = theta.copy(), theta.copy()
    small[:, 0], zero[:, 0] = -200.0, -np.inf
    fitted, gradient = form.log_error(zero, Z)
    assert np.isfinite(fitted).all()
    assert np.isfinite(gradient).all()
    assert (gradient[:, :, 0] == 0).all()
    assert (form.natural(zero, 0.0)[:, 0] == 0).all()
    np.testing.assert_allclose(fitted, form.log_error(small, Z)[0], atol=1e-9)


@pytest.mark.parametrize("name", ["M2", "M3"])
def test_without_a_floor_a_form_is_the_power_law(name: str) -> None:
    theta = np.array([[-np.inf, -1.0, np.log(0.4)]])
    power_law = form_of("M1").log_error(np.array([[-1.0, 0.4]]), Z)[0]
    np.testing.assert_allclose(form_of(name).log_error(theta, Z)[0], power_law, atol=1e-12)


def test_the_sigmoid_stays_between_floor_and_chance_however_extreme() -> None:
    form = form_of("M4")
    far = np.linspace(-60, 60, 241)
    theta = np.array([[np.log(0.1), 0.3, np.log(2.0), np.log(skew)] for skew in (1e-3, 0.5, 1.0, 3.0, 50.0)])
    error = np.exp(form.log_error(theta, far)[0])
    assert (error <= CHANCE * (1 + 1e-12)).all()
    assert (error >= form.natural(theta, 0.0)[:, :1] * (1 - 1e-12)).all()
    assert (np.diff(error, axis=1) <= 1e-15).all()
    np.testing.assert_allclose(error[:4, 0], CHANCE, rtol=1e-6)  # with skew 50 chance is approached very slowly


def test_the_sigmoid_is_solved_to_machine_precision() -> None:
    form = form_of("M4")
    theta = np.array([[-30.0, 0.2, np.log(0.7), np.log(skew)] for skew in (0.1, 0.9, 1.0, 4.0)])
    s = np.exp(form.log_error(theta, Z)[0]) / CHANCE
    left = np.log(s) - np.exp(theta[:, 3:]) * np.log1p(-s)
    np.testing.assert_allclose(left, 0.2 - 0.7 * Z + 0 * left, atol=1e-10)


def test_the_sigmoid_without_skew_has_the_shape_of_the_power_law_with_floor() -> None:
    sigmoid, power = form_of("M4"), form_of("M2")
    theta = np.array([[np.log(0.1), -3.0, np.log(0.4), -40.0]])
    floor, amplitude, exponent, _ = sigmoid.natural(theta, 0.0)[0]
    same = np.array([[np.log(floor), np.log(amplitude), np.log(exponent)]])
    np.testing.assert_allclose(sigmoid.log_error(theta, Z)[0], power.log_error(same, Z)[0], atol=1e-9)


def test_unknown_forms_and_a_missing_chance_are_named() -> None:
    with pytest.raises(ValueError, match="form is 'M9'; expected auto, M1, M2, M3 or M4"):
        build_form("M9", None)
    with pytest.raises(ValueError, match="M4 needs the error of chance"):
        build_form("M4", None)
