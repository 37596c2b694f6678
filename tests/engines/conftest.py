"""Slurm, as the tests of its engine find it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import real_cluster, stand_in_cluster, why_not_real


@pytest.fixture(scope="module", params=["Slurm", "stand-in"])
def either(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of Slurm's own daemons, where they can be started, and one of stand-ins for its commands."""
    if request.param == "Slurm" and (why := why_not_real()):
        pytest.skip(why)
    with real_cluster() if request.param == "Slurm" else stand_in_cluster():
        yield request.param
