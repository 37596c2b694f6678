"""A tiny study, trained and probed once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from probed_study import KEEPING, small_plan, train_all

from datamodules import ImageSplit
from studies.grid import Plan
from studies.job_data import JobData
from studies.probes import KINDS
from studies.probes.study_probing import ProbingResult, probe_study
from studies.store import Store


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plan() -> Plan:
    return small_plan()


@pytest.fixture(scope="session")
def trained(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the records and the weights of every cell."""
    store = Store(tmp_path_factory.mktemp("trained"))
    train_all(plan, store, KEEPING)
    return store


@pytest.fixture(scope="session")
def probed(plan: Plan, trained: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, ProbingResult]:
    """A store with every probe of every network, and what the call that made them came to."""
    store = Store(tmp_path_factory.mktemp("probed") / "store")
    shutil.copytree(trained.root, store.root)
    return store, probe_study(plan, store, kinds=tuple(KINDS.values()), workers=1)


@pytest.fixture
def store(trained: Store, tmp_path: Path) -> Store:
    """Records and weights, a copy that a test may change."""
    shutil.copytree(trained.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def probed_copy(probed: tuple[Store, ProbingResult], tmp_path: Path) -> Store:
    """The store with every probe, a copy that a test may change."""
    shutil.copytree(probed[0].root, tmp_path / "probed")
    return Store(tmp_path / "probed")


@pytest.fixture
def tests_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Subset seeds of the test splits that are read, in order."""
    seen: list[int] = []
    read = JobData.test_split

    def spy(self: JobData, seed: int) -> ImageSplit:
        seen.append(seed)
        return read(self, seed)

    monkeypatch.setattr(JobData, "test_split", spy)
    return seen
