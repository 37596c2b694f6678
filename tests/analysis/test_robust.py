"""The minimiser of many fits at once, against a library's minimiser of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from studies.analysis.forms import build_form
from studies.analysis.robust import EveryCell, huber, minimise

Z = np.linspace(-2.5, 2.5, 8)


def cells_of(seed: int, scale: float = 0.1) -> EveryCell:
    generator = np.random.default_rng(seed)
    truth = build_form("M2", None).log_error(np.array([[np.log(0.1), -1.5, np.log(0.6)]]), Z)[0][0]
    rows = truth + scale * generator.standard_t(2, size=(4, 8))  # heavy tails: the Huber loss matters
    weight = np.ones((4, 8))
    weight[1, 2] = 0
    return EveryCell(Z[None], rows[None], weight[None], np.full((1, 8), 0.1))


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_no_worse_minimum_than_scipy_from_the_same_starts(name: str, seed: int) -> None:
    form, cells = build_form(name, 0.9), cells_of(seed)
    starts = form.starts(Z, np.median(cells.log_error[0], axis=0), 8, np.random.default_rng(0))

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        fitted, gradient = form.log_error(theta[None], Z)
        residual = cells.log_error[0] - fitted
        pull = cells.weight[0] * np.clip(residual, -cells.delta, cells.delta)
        return float((cells.weight[0] * huber(residual, cells.delta)).sum()), -np.einsum("rn,np->p", pull, gradient[0])

    bounds = list(zip(*form.limits.tolist(), strict=True))
    scipy_best = min(
        minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10}
        ).fun
        for start in starts
    )
    found = minimise(form, cells, starts)
    assert found.loss.min() <= scipy_best * (1 + 1e-6)
    best = found.theta[found.loss.argmin()]
    assert found.loss.min() == pytest.approx(objective(best)[0], rel=1e-12)


def test_fits_together_are_the_fits_alone() -> None:
    form, cells = build_form("M2", None), [cells_of(seed) for seed in range(3)]
    start = np.array([[np.log(0.05), -1.0, np.log(0.5)]])
    found = minimise(form, EveryCell.joined(cells, [1, 1, 1]), np.repeat(start, 3, axis=0))
    for index, one in enumerate(cells):
        np.testing.assert_allclose(minimise(form, one, start).theta[0], found.theta[index], rtol=1e-9)


def test_a_given_floor_stays() -> None:
    form, cells = build_form("M2", None), cells_of(0)
    start = np.array([[np.log(0.05), -1.0, np.log(0.5)]])
    found = minimise(form, cells, start, floor_given=True)
    assert found.theta[0, 0] == start[0, 0]
    assert (found.theta[0, 1:] != start[0, 1:]).all()


def test_a_cell_without_weight_pulls_nothing() -> None:
    form, cells = build_form("M1", None), cells_of(0)
    other = cells.log_error.copy()
    other[0, 1, 2] = 50.0
    start = np.array([[-1.0, 0.5]])
    first = minimise(form, cells, start).theta
    np.testing.assert_array_equal(first, minimise(form, replace(cells, log_error=other), start).theta)


def test_the_huber_loss_is_quadratic_then_linear() -> None:
    np.testing.assert_allclose(huber(np.array([0.1, -0.5, 2.0]), np.array([0.5])), [0.005, 0.125, 0.875])


def test_a_parameter_at_its_limit_does_not_keep_the_others_from_their_best() -> None:
    """Of a curve that M2 describes better than any M4, the skew goes to its lower end."""
    form, truth = build_form("M4", 0.9), np.log(0.06 + 0.2 * np.exp(-0.5 * Z) + 0.05 * np.exp(-2 * (Z - Z[0])))
    rows = truth + 0.02 * np.random.default_rng(0).standard_normal((3, 8))
    cells = EveryCell(Z[None], rows[None], np.ones((1, 3, 8)), np.full((1, 8), 0.05))
    found = minimise(form, cells, form.starts(Z, truth, 12, np.random.default_rng(0)), max_steps=100)
    best = found.theta[found.loss.argmin()]
    assert best[3] == form.limits[0, 3]
    fitted, gradient = form.log_error(best[None], Z)
    pull = np.clip(rows - fitted, -0.05, 0.05).sum(axis=0)
    slope = pull @ gradient[0] / np.linalg.norm(gradient[0], axis=0)
    assert np.abs(slope[:3]).max() < 1e-8
    assert slope[3] < 0  # it would go on


def test_a_floor_on_its_way_to_none_is_soon_given_up() -> None:
    """Of a power law that bends down there is no best floor, only ever lower ones."""
    form = build_form("M2", None)
    rows = -1.5 - 0.5 * Z - 0.02 * Z**2 + 0.02 * np.random.default_rng(0).standard_normal((3, 8))
    cells = EveryCell(Z[None], rows[None], np.ones((1, 3, 8)), np.full((1, 8), 0.05))
    starts = form.starts(Z, rows[0], 12, np.random.default_rng(0))
    without = np.where(np.arange(3) == 0, -np.inf, starts)
    soon, later = minimise(form, cells, starts, max_steps=60), minimise(form, cells, starts)
    np.testing.assert_array_equal(soon.theta, later.theta)
    np.testing.assert_allclose(soon.loss, minimise(form, cells, without).loss, rtol=1e-6)


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4"])
@pytest.mark.parametrize("max_steps", [0, 1, 4])
def test_where_it_stops_for_want_of_steps_is_where_the_loss_is_told_of(name: str, max_steps: int) -> None:
    form, cells = build_form(name, 0.9), cells_of(0)
    starts = form.starts(Z, np.median(cells.log_error[0], axis=0), 8, np.random.default_rng(0))
    found = minimise(form, cells, starts, max_steps=max_steps)
    np.testing.assert_allclose(cells.sums(form.log_error(found.theta, Z)[0]).loss, found.loss, rtol=1e-12)


def test_a_parameter_pulled_up_beyond_its_limit_does_not_keep_the_others_from_their_best() -> None:
    """An error that falls as by a step: the exponent goes to its end, and the amplitude to what is best there."""
    form, z = build_form("M1", None), Z - Z[0]
    cells = EveryCell(z[None], -20 * z[None, None], np.ones((1, 1, 8)), np.full((1, 8), 100.0))
    highest = form.limits[1, 1]
    found = minimise(form, cells, np.array([[0.0, 1.0]]), max_steps=40)
    assert found.theta[0, 1] == highest
    assert found.theta[0, 0] == pytest.approx(np.mean((highest - 20) * z), rel=1e-9)


def test_a_cell_that_a_curve_lacks_weighs_nothing_where_the_fit_passes_through_it() -> None:
    """Exactly: its residual is none, and so would be its delta."""
    long, short = cells_of(0), EveryCell(Z[None, :3], np.zeros((1, 4, 3)), np.ones((1, 4, 3)), np.full((1, 3), 0.1))
    sums = EveryCell.joined([long, short], [1, 1]).sums(np.zeros((2, 8)))
    np.testing.assert_array_equal(sums.weight[1], [4, 4, 4, 0, 0, 0, 0, 0])
    assert sums.loss[1] == 0
