"""Simulated studies: drawn as their truth says, and answered rightly as often as the answers promise.

The full calibration is `study bench calibration`; here is a reduced form with fixed seeds. Its bounds are the required
rate give or take two Monte Carlo standard errors.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from studies.analysis.answers import DEFAULT_INTERPOLATION
from studies.analysis.calibration import SCENARIOS, calibrate, requirements
from studies.analysis.simulation import CONVOLUTION, TRANSFORMER, Noise, simulate
from studies.analysis.table import curve_table

NUM_STUDIES = 60
TRUTHS = {"c": CONVOLUTION, "v": TRANSFORMER}
SIZES = np.array([128.0, 1024.0, 8192.0])


def rate(rates: pd.DataFrame, scenario: str, question: str, replicates: int) -> float:
    (found,) = rates.loc[
        (rates["scenario"] == scenario)
        & (rates["question"] == question)
        & (rates["num_replicates"] == replicates),
        "rate",
    ]  # fmt: skip
    return float(found)


def margin(required: float, num: int = NUM_STUDIES) -> float:
    return 2 * math.sqrt(required * (1 - required) / num)


def test_the_crossover_and_the_multiplier_are_covered() -> None:
    """Without the variance of the shared test set, 78% of sets at ten replicates contain the crossover."""
    rates = calibrate(
        num_studies=NUM_STUDIES,
        replicates=(5, 10),
        interpolation=DEFAULT_INTERPOLATION,
        scenarios=["crossing"],
        seed=1,
    )
    for replicates in (5, 10):
        for question in ("set_covers", "k_0.5_covers", "k_0.3_covers"):
            assert rate(rates, "crossing", question, replicates) >= 0.93 - margin(0.93)
        assert rate(rates, "crossing", "tests_cover", replicates) >= 0.93
        assert rate(rates, "crossing", "none", replicates) <= 0.05
    assert rate(rates, "crossing", "crosses", 10) > 0.5  # and the intervals are not empty promises


def test_what_is_left_out_of_the_variance_is_missed() -> None:
    """The simulation can tell: a scenario that ignores the shared test set covers less."""
    rates = calibrate(num_studies=NUM_STUDIES, replicates=(10,), scenarios=["crossing-no-blocks"], seed=1)
    assert rate(rates, "crossing-no-blocks", "set_covers", 10) < 0.93 - margin(0.93)


def test_identical_curves_are_not_called_crossing() -> None:
    """Intervals per size are neither too short nor too long: 60 studies x 9 independent sizes."""
    rates = calibrate(num_studies=NUM_STUDIES, replicates=(3, 5), scenarios=["identical-independent"], seed=2)
    for replicates in (3, 5):
        assert rate(rates, "identical-independent", "crosses", replicates) <= 0.05 + margin(0.05)
        assert rate(rates, "identical-independent", "none", replicates) <= 0.05
        covered = rate(rates, "identical-independent", "tests_cover", replicates)
        assert abs(covered - 0.95) <= 1.25 * margin(0.95, 9 * NUM_STUDIES)
        assert rate(rates, "identical-independent", "any_significant", replicates) <= 0.05 + margin(0.05)


def test_curves_that_stay_apart_are_recognised() -> None:
    rates = calibrate(num_studies=20, replicates=(5,), scenarios=["apart"], seed=3)
    assert rate(rates, "apart", "none", 5) > 0.9
    assert rate(rates, "apart", "crosses", 5) == 0


def test_a_rate_does_not_depend_on_the_processes() -> None:
    how = {"num_studies": 2, "replicates": (3,), "scenarios": ["crossing", "identical"], "num_fitted": 1}
    one, two = (calibrate(num_processes=number, **how) for number in (1, 2))  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(one, two)
    assert set(one["scenario"]) == {"crossing", "identical"}
    assert one.loc[one["question"].str.startswith("floor"), "num_studies"].tolist() == [1, 1]


def test_requirements_are_those_of_the_protocol() -> None:
    def told(scenario: str, question: str, found: float) -> list[bool]:
        row = {"scenario": scenario, "num_replicates": 5, "question": question, "rate": found, "standard_error": 0.01}
        rates = pd.DataFrame([row])
        return [met for _, met in requirements(rates)]

    assert told("crossing", "set_covers", 0.95) == [True]
    assert told("crossing", "set_covers", 0.92) == [False]
    assert told("crossing-fresh", "k_0.3_covers", 0.999) == [False]
    assert told("identical", "crosses", 0.049) == [True]
    assert told("identical-fresh", "crosses", 0.051) == [False]
    assert told("crossing", "crosses", 0.9) == []  # these do cross
    assert told("crossing-no-blocks", "set_covers", 0.5) == []  # what must fail
    assert told("crossing", "interval_covers", 0.5) == []  # a description


def test_population_errors_are_exact_and_test_images_correlated() -> None:
    noise = Noise(common_row=0, family_row=0, cell=0, num_test=200_000)
    study = simulate(TRUTHS, SIZES, 2, noise, np.random.default_rng(0))
    error = study.errors.sum(axis=-1) / study.images.sum()  # [F, R, n]
    truth = np.array([[law(size) for size in SIZES] for law in TRUTHS.values()])[:, None]
    np.testing.assert_allclose(error, np.broadcast_to(truth, error.shape), atol=0.006)
    blocks = study.errors / study.images
    one, other, elsewhere = blocks[0, 0, 0], blocks[0, 1, 0], blocks[1, 0, 0]
    assert np.corrcoef(one, other)[0, 1] > np.corrcoef(one, elsewhere)[0, 1] > 0
    fresh = simulate(TRUTHS, SIZES, 2, Noise(same_images=False), np.random.default_rng(0))
    assert fresh.curves()["c"].block_log_error is None


def test_replicate_noise_is_partly_shared_between_families() -> None:
    noise = Noise(common_row=0.3, family_row=0.2, cell=0.1, num_test=20_000)
    study = simulate(TRUTHS, SIZES, 400, noise, np.random.default_rng(0))
    logs = np.stack([curve.log_error for curve in study.curves().values()])  # [F, R, n]
    across_families = np.cov(logs[0, :, 2], logs[1, :, 2])[0, 1]
    across_sizes = np.cov(logs[0, :, 1], logs[0, :, 2])[0, 1]
    assert across_families == pytest.approx(0.09, rel=0.25)
    assert across_sizes == pytest.approx(0.09 + 0.04, rel=0.25)
    assert logs[0, :, 2].var() == pytest.approx(0.09 + 0.04 + 0.01, rel=0.25)


def test_curves_and_table_of_a_simulated_study_agree() -> None:
    study = simulate(TRUTHS, SIZES, 3, Noise(), np.random.default_rng(0))
    frame, columns, blocks = study.table()
    table, direct = curve_table(frame, columns, blocks=blocks), study.curves()
    for family in TRUTHS:
        np.testing.assert_allclose(table.curves[family].log_error, direct[family].log_error, rtol=1e-12)
        np.testing.assert_allclose(table.curves[family].block_log_error, direct[family].block_log_error, rtol=1e-12)


def test_every_scenario_is_what_its_name_says() -> None:
    for name, scenario in SCENARIOS.items():
        d = np.array([math.log(scenario.prior(x) / scenario.flexible(x)) for x in np.geomspace(128, 32768, 50)])
        if name.startswith("crossing"):
            assert d[0] < 0
            assert d[-1] > 0
        elif name.startswith("identical"):
            assert (d == 0).all()
        elif name.startswith("joining"):
            assert d[0] < -0.2
            assert abs(d[-1]) < 1e-6
        else:
            assert (d < -0.2).all()
