"""Nothing depends on the order of moments told by a clock: clocks go back, and files come from the future."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
from small import Small
from training import tiny_plan

from studies import course
from studies import store as store_module
from studies.store import Store

FUTURE = 4_102_444_800  # the year 2100


class _StoppedError(Exception):
    """Ends a training in the middle."""


def test_a_clock_that_goes_back_changes_nothing(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backwards = itertools.count(time.time(), -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(backwards))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(backwards) * 1e9))
    small.assert_same(small.train(tmp_path))


def test_files_of_the_future_are_continued(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **rest: Any) -> Any:
        raise _StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(course, "predict", stop)
        with pytest.raises(_StoppedError):
            small.train(tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (FUTURE, FUTURE))
    record = small.train(tmp_path)
    assert record.resumes == 1
    small.assert_same(record)


@pytest.mark.parametrize("clock", ["ahead before", "back since"])
def test_a_name_means_the_plan_locked_last_whatever_the_clock_says(
    clock: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, later = Store(tmp_path), tiny_plan(num_train=[40])
    first = store.lock_plan(small.plan)
    if clock == "ahead before":
        os.utime(first, (FUTURE, FUTURE))
    else:
        monkeypatch.setattr(store_module.time, "time_ns", lambda: 0)
    store.lock_plan(later)
    assert store.plan("tiny").study_id == later.study_id
    assert store.study_ids() == [small.plan.study_id, later.study_id]
    store.lock_plan(small.plan)
    assert store.plan("tiny").study_id == small.plan.study_id
