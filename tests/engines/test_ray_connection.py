"""How Ray is started and connected to, with a stand-in for it: what it is told, and what it leaves as it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies.engine_spec import RaySpec
from studies.engines import ray_cluster
from studies.engines.ray_cluster import cluster_devices, connected
from studies.errors import ConfigError

ADDRESS = "127.0.0.1:6379"


class _RayError(Exception):
    pass


class _Ray:
    """As much of the module `ray` as is needed to connect."""

    exceptions = SimpleNamespace(RayError=_RayError)

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault, self.told = fault, dict[str, Any]()
        self.folder, self.statistics = Path(), ""
        self.connected, self.shutdowns = False, 0

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **told: Any) -> None:
        self.told, self.folder = told, Path.cwd()
        self.statistics = os.environ["RAY_USAGE_STATS_ENABLED"]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        if self.fault is not None:
            raise self.fault
        self.connected = True

    def shutdown(self) -> None:
        self.connected, self.shutdowns = False, self.shutdowns + 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 5.0}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Ray]:
    made = _Ray()
    monkeypatch.setattr(ray_cluster, "_import_ray", lambda: made)
    monkeypatch.setattr(ray_cluster, "_knock", lambda address: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield made
    signal.signal(signal.SIGTERM, before)


def test_a_cluster_of_this_machine_alone_has_its_devices_and_ends_with_the_study(
    ray: _Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "devices", lambda settings: ["cuda:0", "cuda:1", "cuda:0"])
    here = Path.cwd()
    with connected(RaySpec(workers=3)):
        assert ray.connected
        assert Path.cwd() == here
    assert ray.told["address"] == "local"
    assert (ray.told["num_cpus"], ray.told["num_gpus"]) == (3, 2)
    assert (ray.told["include_dashboard"], ray.told["log_to_driver"]) == (False, False)
    assert ray.folder == Path("/"), "a folder `models` where the study was started would hide ours"
    assert (ray.connected, ray.shutdowns) == (False, 1)


def test_what_ray_changes_in_this_process_is_as_it_was(ray: _Ray) -> None:
    with connected(RaySpec(address=ADDRESS)):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert ray.statistics == "0"


def test_a_cluster_that_runs_is_asked_and_not_told_what_it_has(ray: _Ray) -> None:
    assert cluster_devices(RaySpec(address=ADDRESS)) == ["cpu"] * 5
    assert ray.told["address"] == ADDRESS
    assert "num_cpus" not in ray.told
    assert (ray.connected, ray.shutdowns) == (False, 1)


def test_it_is_disconnected_from_after_an_error(ray: _Ray) -> None:
    with pytest.raises(ZeroDivisionError), connected(RaySpec(address=ADDRESS)):
        raise ZeroDivisionError
    assert ray.shutdowns == 1


def test_a_connection_of_the_callers_is_used_and_kept(ray: _Ray) -> None:
    ray.connected = True
    with connected(RaySpec()):
        pass
    assert (ray.connected, ray.shutdowns, ray.told) == (True, 0, {})
    assert cluster_devices(RaySpec()) == ["cpu"] * 5, "its devices are those of the cluster"


@pytest.mark.parametrize("address", ["", "local"])
def test_without_an_address_no_cluster_is_asked(ray: _Ray, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_devices(RaySpec(workers=2, device="cpu")) == ["cpu"] * 2
    assert ray.told == {}


@pytest.mark.parametrize("fault", [ConnectionError("no"), RuntimeError("no"), ValueError("no"), _RayError("no")])
def test_a_cluster_that_refuses_is_one_message(ray: _Ray, fault: Exception) -> None:
    ray.fault = fault
    with pytest.raises(ConfigError, match=f"no connection to the Ray cluster at {ADDRESS}: no. Start the study on"):
        cluster_devices(RaySpec(address=ADDRESS))
    assert ray.shutdowns == 1, "what was begun is not left"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    with (
        pytest.raises(ConfigError, match="a Ray cluster of this machine could not be started: no"),
        connected(RaySpec()),
    ):
        pass


def test_an_address_where_nobody_answers_is_told_at_once(ray: _Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(ray_cluster, "_import_ray", lambda: ray)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no connection to the Ray cluster at {address}: .*refused"):
            cluster_devices(RaySpec(address=address))
    assert ray.told == {}, "Ray itself would try for minutes"
