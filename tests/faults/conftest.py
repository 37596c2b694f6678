"""What tests of faults share: a cell that nothing disturbed."""

from __future__ import annotations

import pytest
from held import SETTINGS
from small import Small
from training import tiny_plan, train


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Trained once for all."""
    plan = tiny_plan()
    return Small(plan, train(plan.cells[0], plan, tmp_path_factory.mktemp("undisturbed"), SETTINGS))
