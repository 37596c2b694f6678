"""Sums over sorted rows, against sums over every row: the same losses, the same minima, the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis import fit_search
from studies.analysis.curve import Curve
from studies.analysis.fitted_curve import CurveFit
from studies.analysis.fitting import FormName, fit_curve
from studies.analysis.robust import EveryCell
from studies.analysis.sorted_rows import FEWEST_ROWS, SortedCells

NUM_ROWS, NUM_SIZES = 40, 7
X = 64.0 * 2 ** np.arange(NUM_SIZES)


def rows_of(seed: int, *, missing: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log errors with heavy tails and ties, and weights of which some are 0."""
    generator = np.random.default_rng(seed)
    rows = np.log(0.1 + 3 * X**-0.5) + 0.1 * generator.standard_t(2, (NUM_ROWS, NUM_SIZES))
    rows[3] = rows[4]
    weight = np.ones(rows.shape)
    weight.ravel()[generator.choice(rows.size, missing, replace=False)] = 0
    return np.where(weight > 0, rows, 0.0), weight


def sorted_cells(
    rows: np.ndarray, weight: np.ndarray, delta: np.ndarray, deleted: np.ndarray | None = None
) -> SortedCells:
    cells = SortedCells.of(np.arange(float(len(delta))), rows, weight, delta)
    return cells if deleted is None else cells.leaving_out(rows[deleted], weight[deleted])


def every_cell(rows: np.ndarray, weight: np.ndarray, delta: np.ndarray) -> EveryCell:
    return EveryCell(np.arange(float(len(delta)))[None], rows[None], weight, delta[None])


@pytest.mark.parametrize("missing", [0, 60])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_sums_are_those_over_every_row(missing: int, leaves_out: bool) -> None:
    rows, weight = rows_of(0, missing=missing)
    delta = np.linspace(0.05, 0.3, NUM_SIZES)
    deleted = np.arange(NUM_ROWS) if leaves_out else None
    without = weight * (1 - np.eye(NUM_ROWS)[:, :, None]) if leaves_out else weight[None]
    every = every_cell(rows, without, delta)
    quick = sorted_cells(rows, weight, delta, deleted)
    generator = np.random.default_rng(1)
    for spread in (0.0, 0.1, 1.0, 30.0):  # from the middle of the data to where all of it lies on one side
        fitted = np.median(rows, axis=0) + spread * generator.standard_normal((NUM_ROWS, NUM_SIZES))
        expected, found = every.sums(fitted), quick.sums(fitted)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
        np.testing.assert_allclose(found.pull, expected.pull, rtol=1e-11, atol=1e-12)
        assert (found.weight <= expected.weight * (1 + 1e-12)).all()  # a mean of 1 / |r| is at least 1 / mean of |r|
        assert (found.weight >= 0.7 * expected.weight).all()


@pytest.mark.parametrize("leaves_out", [False, True])
def test_little_noise_far_from_zero_is_not_lost_in_the_sums(leaves_out: bool) -> None:
    """Log errors of one in a hundred thousand that agree within a thousandth: their squares are ten digits larger."""
    rows = -11.5 + 1e-4 * np.random.default_rng(0).standard_t(2, (NUM_ROWS, NUM_SIZES))
    weight, delta = np.ones(rows.shape), np.full(NUM_SIZES, 1e-3)
    deleted = np.arange(NUM_ROWS) if leaves_out else None
    without = weight * (1 - np.eye(NUM_ROWS)[:, :, None]) if leaves_out else weight[None]
    fitted = np.median(rows, axis=0) + 1e-5 * np.arange(NUM_ROWS)[:, None]
    expected = every_cell(rows, without, delta).sums(fitted)
    found = sorted_cells(rows, weight, delta, deleted).sums(fitted)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    np.testing.assert_allclose(found.pull, expected.pull, rtol=1e-9, atol=1e-12)


def test_no_weight_is_negative_where_one_of_two_outliers_is_left_out() -> None:
    """The mean of two distances, by which both are weighed, is larger than the smaller one's own."""
    rows = np.zeros((NUM_ROWS, 1))
    rows[:2, 0] = -0.11, -100.0
    weight, fitted = np.zeros(rows.shape), np.zeros((1, 1))
    weight[:2] = 1.0
    cells = sorted_cells(rows, weight, np.array([0.1]), np.array([0]))
    assert cells.sums(fitted).weight >= 0


def test_a_row_that_is_left_out_where_it_was_not_measured_takes_nothing_away() -> None:
    rows, weight = rows_of(0, missing=60)
    cells = sorted_cells(rows, weight, np.full(NUM_SIZES, 0.1), np.arange(NUM_ROWS))
    all_of_them = sorted_cells(rows, weight, np.full(NUM_SIZES, 0.1))
    fitted = np.repeat(np.median(rows, axis=0)[None], NUM_ROWS, axis=0)
    missing = weight == 0
    assert missing.any()
    for name in ("pull", "weight"):
        without, whole = getattr(cells.sums(fitted), name), getattr(all_of_them.sums(fitted), name)
        np.testing.assert_array_equal(without[missing], whole[missing])
        assert (without[~missing] != whole[~missing]).mean() > 0.9  # but of who lies in the middle


def test_rows_are_sorted_from_as_many_as_it_pays_and_where_the_noise_is_known() -> None:
    rows, _ = rows_of(0)

    def kinds(log_error: np.ndarray) -> set[type]:
        names = tuple(map(str, range(len(log_error))))
        curve = Curve("cnn", "num_train", X, log_error, names, None, None)
        data = fit_search.fit_data(curve, np.ones(NUM_SIZES, bool))
        return {type(data.cells), type(data.without_each_replicate)}

    assert kinds(rows[:FEWEST_ROWS]) == {SortedCells}
    assert kinds(rows[: FEWEST_ROWS - 1]) == {EveryCell}
    one_size_each = np.where(np.eye(FEWEST_ROWS) > 0, 0.0, np.nan)
    names = tuple(map(str, range(FEWEST_ROWS)))
    x = 2.0 ** np.arange(FEWEST_ROWS)
    curve = Curve("cnn", "num_train", x, one_size_each, names, None, None)
    data = fit_search.fit_data(curve, np.ones(FEWEST_ROWS, bool))
    assert np.isinf(data.delta).all()
    assert type(data.cells) is EveryCell


def test_exactly_at_a_knot_nothing_is_counted_twice() -> None:
    rows, weight = np.repeat(np.linspace(-1, 1, NUM_ROWS)[:, None], 2, axis=1), np.ones((NUM_ROWS, 2))
    delta, fitted = np.array([0.5, 0.25]), rows[:, :1] + np.array([[0.5, -0.25]])
    expected = every_cell(rows, weight[None], delta).sums(fitted).loss
    np.testing.assert_allclose(sorted_cells(rows, weight, delta).sums(fitted).loss, expected)


def test_a_fit_that_left_all_numbers_has_an_infinite_loss_and_harms_no_other() -> None:
    rows, weight = rows_of(0)
    cells = sorted_cells(rows, weight, np.full(NUM_SIZES, 0.1))
    fitted = np.repeat(rows[:1], 4, axis=0)
    fitted[1, 2], fitted[2, 2], fitted[3, -1] = np.inf, np.nan, -np.inf
    loss = cells.sums(fitted).loss
    assert np.isinf(loss[1:]).all()
    assert loss[0] == cells.sums(rows[:1]).loss[0]


def test_parts_and_repeats_leave_out_the_rows_of_their_fits() -> None:
    rows, weight = rows_of(0)
    cells = sorted_cells(rows, weight, np.full(NUM_SIZES, 0.1), np.arange(NUM_ROWS))
    fitted = np.repeat(np.median(rows, axis=0)[None], NUM_ROWS, axis=0)
    loss = cells.sums(fitted).loss
    assert len(np.unique(loss)) > 10
    np.testing.assert_array_equal(cells.part(np.array([5, 2])).sums(fitted[:2]).loss, loss[[5, 2]])
    np.testing.assert_array_equal(cells.repeated(2).sums(np.repeat(fitted, 2, axis=0)).loss, np.repeat(loss, 2))


@pytest.mark.parametrize("form", ["M1", "M2", "M3", "M4"])
def test_a_fit_of_many_replicates_is_the_same_either_way(form: FormName, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weight = rows_of(2, missing=5)
    names = tuple(str(row) for row in range(NUM_ROWS))
    curve = Curve("cnn", "num_train", X, np.where(weight > 0, rows, np.nan), names, None, None)
    assert NUM_ROWS >= FEWEST_ROWS
    quick = fit_curve(curve, form=form, chance=0.9)
    monkeypatch.setattr(fit_search, "FEWEST_ROWS", NUM_ROWS + 1)
    slow = fit_curve(curve, form=form, chance=0.9)
    assert isinstance(quick, CurveFit)
    assert isinstance(slow, CurveFit)
    assert quick.loss == pytest.approx(slow.loss, rel=1e-12)
    np.testing.assert_allclose(quick.predict(X), slow.predict(X), rtol=1e-7)
    np.testing.assert_allclose(quick.band(X), slow.band(X), rtol=1e-6)
    for name, one in quick.coefficients.items():
        other = slow.coefficients[name]
        np.testing.assert_allclose((one.value, one.low, one.high), (other.value, other.low, other.high), rtol=1e-4)
