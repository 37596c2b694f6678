"""Readiness: what is asked of the machine, the data and the disk between a plan and its first step."""

from __future__ import annotations

import shutil
from typing import Literal

from datamodules import DataConfig, DataError

from .asking import refused_data
from .engine_spec import EngineSpec
from .engines import worker_devices
from .engines.local import devices
from .errors import ConfigError, StoreError
from .estimate import describe_bytes, disk_needed
from .grid import Plan
from .precision import check_precision
from .slurm_spec import SlurmSpec
from .store import Store

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


def check_machine(planned: Plan, settings: EngineSpec, store: Store) -> list[str]:
    """Refuses what cannot be done as asked, before anything is written or trained.

    What the machines of an engine can do whose workers are elsewhere is found out there (`check_node`).

    Returns:
        The first device of each worker, as of `worker_devices`.

    Raises:
        ConfigError: says which field, the value given and what to do.
    """
    if isinstance(settings, SlurmSpec):
        from .engines.slurm import check_slurm

        check_slurm(store)
    available = worker_devices(settings)
    _check_devices(planned, settings, available[0], is_here=settings.kind == "local")
    return available


def check_node(planned: Plan, settings: EngineSpec) -> None:
    """Refuses what this machine cannot do as asked; raises as `check_machine`."""
    _check_devices(planned, settings, devices(settings)[0], is_here=True)


def _check_devices(planned: Plan, settings: EngineSpec, device: str, *, is_here: bool) -> None:
    if settings.compile and device == "cpu":
        raise ConfigError(
            "engine.compile: true was asked for, but only programs on a GPU are compiled and these cells would train "
            "on the CPU; set engine.compile=false, or run where torch sees a GPU"
        )
    for stage in planned.stages:
        if settings.devices_per_cell > 1:
            from .team import check_team

            check_team(stage.cells, settings, device)
        if is_here:
            check_precision(stage.spec.recipe.precision, device)


def prepare_data(planned: Plan, found: DataConfig | None = None) -> None:
    """Decodes both splits into the cache once, so that a broken image is found now and no worker decodes.

    Of a tuning only the training split: nothing of it ever opens the other.

    Args:
        found: where the data are, if they have moved since the plan was locked.

    Raises:
        ConfigError: an image cannot be decoded, or the data are not what the plan was made from.
    """
    data = found or planned.spec.data
    try:
        fingerprint = data.describe().fingerprint
        expected = {"train": planned.data.num_train, "test": planned.data.num_test}
        splits = {name: data.load(name) for name in SPLITS if name == "train" or not planned.is_tuning}
        for images in splits.values():
            images.verify()  # workers verify each image they read; damage found here costs nobody a training
    except DataError as error:
        raise refused_data(error) from None
    if fingerprint != planned.data.fingerprint:
        raise ConfigError("data: the files have changed since the study was planned; plan it anew")
    for name, images in splits.items():
        if len(images) != expected[name]:
            raise ConfigError(
                f"data: the {name} split has {len(images)} images where the plan counted {expected[name]}"
            )


def check_disk(planned: Plan, store: Store, num_running: int) -> None:
    """Refuses a study that cannot fit on the disk, the checkpoints of `num_running` cells at once included.

    Raises:
        StoreError: says how much it needs and how much there is.
    """
    kept = running = 0.0
    for stage in planned.stages:
        states = store.states(stage)
        left = 1 - sum(state in ("finished", "diverged") for state in states.values()) / len(states)
        of_records, of_checkpoints = disk_needed(stage, num_running, keeps_weights=stage is not planned)
        kept, running = kept + of_records * left, max(running, of_checkpoints if left else 0)
    needed, running = round(kept + running), round(running)
    folder = next(path for path in (store.root.absolute(), *store.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{folder}: the study needs about {describe_bytes(needed)}, {describe_bytes(running)} of it while it runs, "
            f"but {describe_bytes(free)} are free; choose another folder with --store, or lower engine.lanes or "
            "engine.workers"
        )
