"""Curves that are fitted together, against each fitted alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from studies.analysis import together as module
from studies.analysis.curve import Array, Curve
from studies.analysis.fitted_curve import CurveFit, NoFit
from studies.analysis.fitting import FormName, fit_curve, fit_curves
from studies.analysis.floors import floor_of, floors_of
from studies.analysis.forms import Form, build_form
from studies.analysis.jackknife import Estimate
from studies.analysis.robust import Cells, EveryCell, Minimum, minimise
from studies.analysis.sorted_rows import FEWEST_ROWS, SortedCells
from studies.analysis.together import Minimisation, together

X = 2.0 ** np.arange(7, 16)
FORMS: tuple[FormName, ...] = ("auto", "M1", "M2", "M3", "M4")

Fits = dict[str, CurveFit | NoFit]


def simulated(num: int, x: np.ndarray = X, *, seed: int, missing: int = 0, **known: np.ndarray) -> Curve:
    """A curve with a floor, a few of whose cells are missing."""
    generator = np.random.default_rng(seed)
    rows = np.log(0.05 + generator.uniform(2, 5) * x**-0.45) + 0.04 * generator.standard_t(4, (num, len(x)))
    rows.ravel()[generator.choice(rows.size, missing, replace=False)] = np.nan
    return Curve(f"family {seed}", "num_train", x, rows, tuple(map(str, range(num))), **known)


def with_blocks(num: int, *, seed: int) -> Curve:
    moved = 0.01 * np.random.default_rng(seed).standard_normal((6, 1, len(X)))
    return simulated(num, seed=seed, block_log_error=simulated(num, seed=seed).log_error + moved)


def rising() -> Curve:
    rows = np.log(0.01 * X**0.3) + 0.02 * np.random.default_rng(9).standard_normal((3, len(X)))
    return Curve("rising", "num_train", X, rows, ("0", "1", "2"))


CURVES = {
    "five replicates": simulated(5, seed=0),
    "three replicates of fewer sizes": simulated(3, X[2:], seed=1),
    "cells are missing": simulated(6, seed=2, missing=7),
    "blocks": with_blocks(4, seed=3),
    "stated errors": simulated(1, seed=4, standard_error=np.full(len(X), 0.03)),
    "one replicate": simulated(1, seed=5),
    "many replicates": simulated(FEWEST_ROWS + 8, seed=6, missing=20),
    "more of fewer sizes": simulated(FEWEST_ROWS + 20, X[1:], seed=7),
    "rising": rising(),
    "two sizes": simulated(3, X[:2], seed=8),
}
WITHOUT_FIT = {"auto": {"two sizes"}, "M1": set()} | {form: {"two sizes", "rising"} for form in ("M2", "M3", "M4")}


@pytest.fixture(scope="module")
def alone() -> dict[FormName, Fits]:
    """Every curve fitted by itself, with every form."""
    return {form: {name: fit_curve(one, form=form, chance=0.9) for name, one in CURVES.items()} for form in FORMS}


def ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_does_not_depend_on_its_company(form: FormName, alone: dict[FormName, Fits]) -> None:
    fits = fit_curves(CURVES, form=form, chance=0.9)
    assert list(fits) == list(CURVES)
    assert {name for name, fit in fits.items() if isinstance(fit, NoFit)} == WITHOUT_FIT[form]
    for name, own in alone[form].items():
        fit = fits[name]
        assert fit.sentence() == own.sentence()
        if isinstance(fit, CurveFit) and isinstance(own, CurveFit):
            assert fit.loss == pytest.approx(own.loss, rel=1e-12, abs=1e-25)
            np.testing.assert_allclose(fit.predict(X), own.predict(X), rtol=1e-8)
            np.testing.assert_allclose(fit.band(X), own.band(X), rtol=1e-7)
            np.testing.assert_allclose(ends(fit.floor), ends(own.floor), rtol=1e-7)
            for coefficient, estimate in own.coefficients.items():
                np.testing.assert_allclose(ends(fit.coefficients[coefficient]), ends(estimate), rtol=1e-5)


def test_a_floor_does_not_depend_on_its_company(alone: dict[FormName, Fits]) -> None:
    floors = floors_of(CURVES, alone["auto"], chance=0.9)
    assert list(floors) == list(CURVES)
    for name, floor in floors.items():
        own = floor_of(CURVES[name], alone["auto"][name], chance=0.9)
        assert floor.sentence() == own.sentence()
        np.testing.assert_allclose((floor.value, floor.low, floor.high), (own.value, own.low, own.high), rtol=1e-7)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The form and number of fits of every call of the minimiser."""
    called: list[tuple[str, int]] = []

    def noted(form: Form, cells: Cells, theta: Array, **how: Any) -> Minimum:
        called.append((form.name, len(theta)))
        return minimise(form, cells, theta, **how)

    monkeypatch.setattr(module, "minimise", noted)
    return called


def test_curves_of_one_shape_share_their_minimisations(calls: list[tuple[str, int]]) -> None:
    fit_curve(CURVES["five replicates"], form="M2")
    alone = list(calls)
    calls.clear()
    fit_curves({str(seed): simulated(5, seed=seed) for seed in range(3)}, form="M2")
    assert [name for name, _ in calls] == [name for name, _ in alone]
    assert calls[0] == ("M1", 3 * alone[0][1])


async def level_after(forms: Sequence[str], level: float) -> float:
    """Where the power laws of some forms, one after the other, find a flat curve of one cell a size."""
    cells = EveryCell(np.array([[-1.0, 1.0]]), np.full((1, 1, 2), level), np.ones((1, 1, 2)), np.full((1, 2), 100.0))
    theta = np.zeros((1, 2))
    for name in forms:
        form = build_form(name, None)
        starts = np.zeros((1, form.num_parameters))
        theta = (await Minimisation(form, cells, starts)).theta
    return float(theta[0, -2])


def test_who_is_ahead_waits_for_the_others(calls: list[tuple[str, int]]) -> None:
    found = together([level_after(["M1"], 1.0), level_after(["M2", "M1"], 2.0), level_after(["M2", "M1"], 4.0)])
    np.testing.assert_allclose(found, [1.0, 2.0, 4.0], rtol=1e-6)
    assert calls == [("M2", 2), ("M1", 3)]


def test_what_needs_no_minimum_is_returned() -> None:
    assert together([level_after([], 1.0)]) == [0.0]
    assert together([]) == []


async def refused() -> float:
    raise ValueError("no such curve")


def test_an_error_of_one_is_raised_and_ends_the_others() -> None:
    fits = [level_after(["M1"], 1.0), refused(), level_after(["M1"], 2.0)]
    with pytest.raises(ValueError, match="no such curve"):
        together(fits)
    assert all(fit.cr_frame is None for fit in fits)  # none is left half done


def curves_of_cells(sizes: Sequence[int], num_rows: Sequence[int]) -> list[tuple[Array, Array, Array, Array]]:
    """z, rows, weights and delta of curves of different shapes."""
    generator = np.random.default_rng(0)
    return [
        (
            np.linspace(-1, 1, n),
            generator.standard_normal((rows, n)),
            (np.arange(rows * n).reshape(rows, n) % 7 > 0).astype(float),
            generator.uniform(0.1, 1, n),
        )
        for n, rows in zip(sizes, num_rows, strict=True)
    ]


@pytest.mark.parametrize("kind", ["every cell", "sorted", "one row left out"])
def test_joined_cells_are_those_of_each(kind: str) -> None:
    data = curves_of_cells([5, 3, 4], [6, 9, 7])
    cells: list[Any]
    if kind == "every cell":
        cells = [EveryCell(z[None], rows[None], weight[None], delta[None]) for z, rows, weight, delta in data]
    else:
        cells = [SortedCells.of(*each) for each in data]
    counts = [4, 2, 3]
    if kind == "one row left out":  # by the fits of two of the curves
        cells = [
            each.leaving_out(rows[:count], weight[:count]) if count != 2 else each
            for each, (_, rows, weight, _), count in zip(cells, data, counts, strict=True)
        ]
    joined = type(cells[0]).joined(cells, counts)
    fitted = np.random.default_rng(1).standard_normal((sum(counts), 5))
    sums, backwards = joined.sums(fitted), joined.part(np.arange(sum(counts))[::-1]).sums(fitted[::-1])
    np.testing.assert_array_equal(backwards.loss[::-1], sums.loss)
    begin = 0
    for each, count, (z, _, _, _) in zip(cells, counts, data, strict=True):
        own, n = slice(begin, begin + count), len(z)
        expected = each.sums(fitted[own, :n])
        np.testing.assert_array_equal(joined.z[own, :n], np.broadcast_to(z, (count, n)))
        np.testing.assert_allclose(sums.loss[own], expected.loss, rtol=1e-12)
        np.testing.assert_allclose(sums.pull[own, :n], expected.pull, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(sums.weight[own, :n], expected.weight, rtol=1e-11, atol=1e-12)
        assert not sums.pull[own, n:].any()
        assert not sums.weight[own, n:].any()
        begin += count


async def minimum_of(asked: Minimisation) -> Minimum:
    return await asked


def test_minimisations_that_differ_in_anything_are_not_joined() -> None:
    form, cells = (
        build_form("M2", None),
        EveryCell(
            np.linspace(-1, 1, 5)[None],
            np.linspace(0, -2, 5)[None, None] ** 3,
            np.ones((1, 1, 5)),
            np.full((1, 5), 0.1),
        ),
    )
    theta = np.array([[-3.0, -1.0, 0.5]])
    hows: list[dict[str, Any]] = [{}, {"floor_given": True}, {"max_steps": 8}, {"tolerance": 0.9}]
    found = together([minimum_of(Minimisation(form, cells, theta, **how)) for how in hows])
    losses = [float(one.loss[0]) for one in found]
    assert losses == [float(minimise(form, cells, theta, **how).loss[0]) for how in hows]
    assert len(set(losses)) == len(hows), "no setting made a difference"
