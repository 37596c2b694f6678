"""Slurm, as the tests of its engine find it; and small plans, which lie with the tests of studies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import real_cluster, stand_in_cluster, why_not_real

sys.path.append(str(Path(__file__).parents[1] / "studies"))


@pytest.fixture(scope="module", params=["Slurm", "stand-in"])
def either(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of Slurm's own daemons, where they can be started, and one of stand-ins for its commands."""
    if request.param == "Slurm" and (why := why_not_real()):
        pytest.skip(why)
    with real_cluster() if request.param == "Slurm" else stand_in_cluster():
        yield request.param
