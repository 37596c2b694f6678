"""The connection to a Ray cluster, one that runs or one of this machine alone; the only module that connects."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studies.engine_spec import RaySpec, cluster_address
from studies.errors import ConfigError

from .local import devices

ADDRESS_VARIABLE = "RAY_ADDRESS"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""Ray sends usage statistics home, and packs and uploads the working folder of `uv run`: neither unless asked to."""
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 80_000_000  # about the least Ray allows: what passes through it are messages


@contextlib.contextmanager
def connected(settings: RaySpec) -> Iterator[Any]:
    """The module `ray`, connected to the cluster that the settings name; one of this machine alone ends with it.

    A connection that the caller has made before is used, and kept.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    address = _address(settings)
    with _environment(QUIET):
        ray = _import_ray()
        if ray.is_initialized():
            yield ray
            return
        handler = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                options |= _own_cluster(settings)
            else:
                _knock(address)
            with _out_of_the_way():
                ray.init(address=address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            ray.shutdown()
            raise _refused(address, error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
    try:
        yield ray
    finally:
        ray.shutdown()


def cluster_devices(settings: RaySpec) -> list[str]:
    """One entry per actor, as it will see its device: `cuda:0` for each GPU, else `cpu` for each core.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or lacks the GPUs that were asked for.
    """
    if _address(settings) is None and not _import_ray().is_initialized():
        return places(settings, _own_resources(settings))
    with connected(settings) as ray:
        return places(settings, ray.cluster_resources())


def places(settings: RaySpec, resources: Mapping[str, float]) -> list[str]:
    """One device per actor on a cluster with such resources.

    Raises:
        ConfigError: it has not what was asked for.
    """
    num_cpus, num_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if num_gpus and settings.device != "cpu":
        return ["cuda:0"] * (settings.workers or num_gpus)
    if settings.device == "cuda":
        raise ConfigError("engine.device: cuda was asked for, but the Ray cluster has no GPU")
    if not num_cpus:
        raise ConfigError("engine.address: the Ray cluster has no CPU to run on")
    return ["cpu"] * (settings.workers or num_cpus)


def _address(settings: RaySpec) -> str | None:
    """Of the cluster to connect to; None for one of this machine alone."""
    if settings.address is not None:
        return settings.address
    address = os.environ.get(ADDRESS_VARIABLE) or None
    if address is None or address == "local":
        return None
    try:
        return cluster_address(address)
    except ValueError as error:
        raise ConfigError(f"{ADDRESS_VARIABLE}: {error} (given: {address!r})") from None


def _own_resources(settings: RaySpec) -> dict[str, float]:
    found = devices(settings)
    num_gpus = 0 if found[0] == "cpu" else len(set(found))
    return {"CPU": max(len(found), num_gpus), "GPU": num_gpus}


def _own_cluster(settings: RaySpec) -> dict[str, Any]:
    resources = _own_resources(settings)
    return {
        "num_cpus": resources["CPU"],
        "num_gpus": resources["GPU"],
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


def _knock(address: str) -> None:
    """Raises OSError where nobody answers, at once: Ray itself would try for minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _import_ray() -> Any:  # noqa: ANN401
    try:
        with _environment(QUIET):
            ray = importlib.import_module("ray")
            importlib.import_module("ray.exceptions")
    except ImportError as error:
        raise ConfigError(
            f"engine: ray was asked for, but Ray cannot be imported ({error}); "
            'install it with: pip install -e ".[ray]" in the checkout'
        ) from None
    return ray


def _refused(address: str | None, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address is None:
        return ConfigError(f"engine: a Ray cluster of this machine could not be started: {reason}")
    return ConfigError(
        f"engine.address: no connection to the Ray cluster at {address}: {reason}. Start the study on a node of it, "
        "with its version of Ray and Python; where it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    )


@contextlib.contextmanager
def _out_of_the_way() -> Iterator[None]:
    """Works in the root folder meanwhile, as Ray looks for modules in the launcher's working folder before all others.

    There a folder `studies` or `models` of the user's would hide ours from the actors; they add the working folder
    themselves, last (`RayWorker.prepare`).
    """
    folder = Path.cwd()
    os.chdir(folder.anchor)
    try:
        yield
    finally:
        os.chdir(folder)


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set, for as long as Ray reads them."""
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
