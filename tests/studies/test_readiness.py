"""What is checked between a plan and its first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from planned import planned

from studies import readiness
from studies.errors import StoreError
from studies.estimate import disk_needed
from studies.store import Store


def test_a_study_that_does_not_fit_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = planned(), Store(tmp_path / "not" / "yet there")
    needed = sum(disk_needed(plan, 2))
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    readiness.check_disk(plan, store, 2)
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(StoreError, match="needs about"):
        readiness.check_disk(plan, store, 2)


def test_data_that_shrank_since_the_plan_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    load = type(plan.spec.data).load
    monkeypatch.setattr(
        type(plan.spec.data),
        "load",
        lambda self, split, **rest: load(self.model_copy(update={"num_test": 400}), split, **rest),
    )
    with pytest.raises(readiness.ConfigError, match="test split has 400 images where the plan counted 500"):
        readiness.prepare_data(plan)
