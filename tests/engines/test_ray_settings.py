"""What is said of the engine `ray` before any cluster is asked; needs no Ray."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from studies.compose import compose_study
from studies.engine_spec import RaySpec
from studies.engines import ray_cluster, worker_devices
from studies.engines.ray_cluster import cluster_devices, connected, places
from studies.errors import ConfigError


def test_one_override_chooses_it() -> None:
    composed = compose_study("data_scaling", ["engine=ray", "engine.address=10.0.0.1:6379", "engine.workers=3"])
    assert composed.engine == RaySpec(address="10.0.0.1:6379", workers=3)
    assert composed.spec == compose_study("data_scaling", []).spec


def test_its_file_shows_every_setting_with_its_default(pytestconfig: pytest.Config) -> None:
    shown = yaml.safe_load((pytestconfig.rootpath / "configs" / "engine" / "ray.yaml").read_text())
    assert shown == RaySpec().model_dump()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "ray://10.0.0.1:10001"}, "not through Ray Client"),
        ({"address": "10.0.0.1"}, "host:port"),
        ({"address": "10.0.0.1:6379 --block"}, "host:port"),
        ({"devices_per_cell": 2}, "engines local and slurm"),
        ({"environment": {"A=B": "1"}}, "pattern"),
        ({"max_restarts": -1}, "greater than or equal to 0"),
        ({"memory_gb": 0}, "greater than 0"),
        ({"addres": "auto"}, "not permitted"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RaySpec.model_validate(settings)


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.cluster-1.local:6379", "[fd00::1]:6379"])
def test_addresses_of_clusters(address: str) -> None:
    assert RaySpec(address=address).address == address


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ({}, {"CPU": 3.0}, ["cpu"] * 3),
        ({}, {"CPU": 8.0, "GPU": 2.0}, ["cuda:0"] * 2),  # each actor is shown its own GPU alone
        ({"device": "cpu"}, {"CPU": 3.0, "GPU": 2.0}, ["cpu"] * 3),
        ({"workers": 1}, {"CPU": 8.0, "GPU": 2.0}, ["cuda:0"]),
        ({"workers": 5}, {"CPU": 2.0}, ["cpu"] * 5),
    ],
)
def test_an_actor_per_gpu_else_per_core(settings: Any, resources: Any, expected: list[str]) -> None:
    assert places(RaySpec(**settings), resources) == expected


@pytest.mark.parametrize(("settings", "resources"), [({"device": "cuda"}, {"CPU": 4.0}), ({}, {"memory": 1.0})])
def test_a_cluster_without_what_was_asked_for_is_refused(settings: Any, resources: Any) -> None:
    with pytest.raises(ConfigError):
        places(RaySpec(**settings), resources)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[ray\]"'), connected(RaySpec()):
        pass
    with pytest.raises(ConfigError, match="pip install"):
        worker_devices(RaySpec())


def test_an_address_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS: .*not through Ray Client"):
        cluster_devices(RaySpec())


def test_what_a_user_has_set_of_ray_stays_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    seen = {}

    def look(name: str) -> Any:
        import os

        seen.update({name: os.environ.get(name) for name in ray_cluster.QUIET})
        raise ImportError(name)

    monkeypatch.setattr(ray_cluster.importlib, "import_module", look)
    with pytest.raises(ConfigError):
        cluster_devices(RaySpec(address="10.0.0.1:6379"))
    assert seen == {"RAY_USAGE_STATS_ENABLED": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    import os

    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ
