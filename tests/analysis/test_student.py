"""The distributions are those of `scipy.stats`, which a report need not load."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from studies.analysis.student import chi_square_quantile, t_below, t_quantiles

DEGREES = [1, 2, 3, 4, 9, 99, 249, 1e6, np.inf]
PROBABILITIES = [1e-6, 0.025, 0.5, 0.9, 0.975, 1 - 1e-6]


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_quantiles_of_students_t(probability: float) -> None:
    np.testing.assert_allclose(
        t_quantiles(probability, DEGREES), [stats.t.ppf(probability, one) for one in DEGREES], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("degrees", DEGREES)
def test_probabilities_of_students_t(degrees: float) -> None:
    values = np.array([-np.inf, -30, -2, -0.1, 0, 0.1, 2, 30, np.inf])
    np.testing.assert_allclose(t_below(values, degrees), stats.t.cdf(values, degrees), rtol=1e-9)
    assert np.isnan(t_below(np.nan, degrees))


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_quantiles_of_chi_square(probability: float) -> None:
    for degrees in (1, 2, 10, 249):
        assert chi_square_quantile(probability, degrees) == pytest.approx(
            stats.chi2.ppf(probability, degrees), rel=1e-9
        )


def test_a_report_is_answered_and_drawn_without_scipy_stats() -> None:
    program = "import sys, studies.answering, studies.report.drawn; print('scipy.stats' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
