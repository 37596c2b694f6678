"""Means and t-intervals of data curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report.synthetic import make_record
from scipy import stats

from studies.analysis.summary import data_curves
from studies.records import records_frame


def test_data_curves_are_mean_and_t_interval() -> None:
    errors = [0.2, 0.25, 0.24]
    frame = records_frame(make_record(replicate=index, error=error) for index, error in enumerate(errors))
    row = data_curves(frame).iloc[0]
    assert row["num_replicates"] == 3
    assert row["mean"] == pytest.approx(np.mean(errors))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(errors), scale=stats.sem(errors))
    assert row["half_width"] == pytest.approx((high - low) / 2)
    assert row["geometric_mean"] == pytest.approx(stats.gmean(errors))
    logs = np.log(errors)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(logs), scale=stats.sem(logs))
    assert (row["low"], row["high"]) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert (row["min"], row["max"]) == (0.2, 0.25)


def test_one_replicate_has_a_mean_and_no_interval() -> None:
    row = data_curves(records_frame([make_record(error=0.3)])).iloc[0]
    assert row["mean"] == pytest.approx(0.3)
    assert math.isnan(row["half_width"])
    assert math.isnan(row["low"])


def test_rules_read_different_branches() -> None:
    frame = records_frame([make_record(branch_errors=[0.4, 0.2, 0.25, 0.3])])
    assert data_curves(frame, "selected")["mean"].item() == pytest.approx(0.2)
    assert data_curves(frame, "full_budget")["mean"].item() == pytest.approx(0.3)


def test_a_diverged_cell_counts_at_chance() -> None:
    diverged = make_record(replicate=1, branch_errors=[0.5] * 4, status="diverged")
    row = data_curves(records_frame([make_record(error=0.3), diverged])).iloc[0]
    assert row["mean"] == pytest.approx(0.4)
    assert row["num_diverged"] == 1
