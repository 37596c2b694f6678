"""What tests of training share: one thread, and a group of cells that nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from studies.grid import Plan
    from studies.records import Record


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Record]]:
    """Four cells trained as one program, and their records."""
    from lane_training import lane_plan, together

    plan = lane_plan()
    return plan, together(plan.cells, plan, tmp_path_factory.mktemp("undisturbed"))
