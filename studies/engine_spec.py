"""Where cells run: the settings of the engine, none of which changes a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from .strict import Strict

MOST_WORKERS = 10_000  # of one launcher
MOST_SECONDS = 1e8  # three years; the system's clocks end somewhere beyond


class EngineSpec(Strict):
    """Where cells run. Nothing here changes a result, so none of it enters a cell's id or the plan's hash.

    Attributes:
        workers: processes at once; by default one per CPU core, or one per GPU.
        device: `auto` takes the GPUs if there are any.
        lanes: runs of one architecture trained at once as one program. `auto`: on a GPU as many as this machine is
            measured to gain from; on a CPU three of networks so small that calling kernels costs more than running
            them, else one. Rounding differs between a run in lanes and the same run without (lanes=1), on a CPU not
            with their number.
        compile: compile the network (`torch.compile`) of a program of lanes, on GPUs only; costs a minute or so for
            every architecture.
        devices_per_cell: GPUs, or processes on a CPU, that train one cell together: for cells too large for one. Then
            there are as many workers as there are whole sets of them, and no lanes.
        strategy: Lightning's strategy for them; `auto` is `ddp`, distributed data-parallel training.
        chunk_steps: optimiser steps per Lightning `training_step`.
        checkpoint_seconds: least time between two checkpoints of a running cell; more where writing them would take
            over 5% of it; 0 saves after every chunk.
        keep_checkpoints: keep each branch's final weights beside the record.
        stall_seconds: a worker that shows no progress for so long is taken to hang: it writes where to the log of its
            cell and ends, and the cell goes on from its checkpoint; one that somebody stopped for so long is ended by
            its launcher (an actor of Ray is not). Compiling, the first captured step and decoding take minutes at most,
            and a step of a large network is granted its own time on top; null: wait for ever.
    """

    kind: Literal["local"] = "local"
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    lanes: Literal["auto"] | PositiveInt = "auto"
    compile: bool = False
    devices_per_cell: PositiveInt = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"] = "auto"
    chunk_steps: PositiveInt = 50
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    keep_checkpoints: bool = False
    stall_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = 1800.0

    @field_validator("lanes", mode="before")
    @classmethod
    def _whole_number_or_auto(cls, value: object) -> object:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError("expected auto or a whole number of at least 1")
        return value

    @model_validator(mode="after")
    def _one_way_to_use_devices(self) -> EngineSpec:
        if self.strategy != "auto" and self.devices_per_cell == 1:
            raise ValueError(
                f"strategy {self.strategy} is for several devices per cell: set devices_per_cell to 2 or more, "
                "or strategy to auto"
            )
        if self.devices_per_cell > 1 and self.lanes not in ("auto", 1):
            raise ValueError(
                f"lanes {self.lanes} share one device and devices_per_cell {self.devices_per_cell} splits a cell over "
                "several: set one of them to 1"
            )
        if self.devices_per_cell > 1 and self.compile:
            raise ValueError(
                f"compile true is for programs on one device and devices_per_cell {self.devices_per_cell} splits a "
                "cell over several: set compile to false, or devices_per_cell to 1"
            )
        return self

    @property
    def here(self) -> EngineSpec:
        """The settings of what the launcher computes itself, such as few-shot evaluations."""
        return self


class RaySpec(EngineSpec):
    """Where cells run, if on a cluster that Ray holds together: an actor per GPU, or per CPU core where it has none.

    Attributes:
        workers: actors at once; by default as many as the cluster has GPUs, or CPUs.
        address: of a running cluster, `host:port`, or `auto` for the one this machine belongs to; by default that of
            `RAY_ADDRESS`, and where that is not set, a cluster of this machine alone, which ends with the study.
        memory_gb: memory that Ray sets aside for an actor (10^9 bytes), so that a node takes no more than it has room
            for.
        max_restarts: times a cell is tried again in one call after its actor or its node died, or the machine failed
            it.
        start_seconds: how long to wait for the first actor, while others use the cluster or nodes are coming up.
        environment: variables of the actors besides those of their node, such as the folder of decoded images.
    """

    kind: Literal["ray"] = "ray"  # type: ignore[assignment]  # each kind has a class of its own
    address: str | None = None
    memory_gb: PositiveFloat | None = None
    max_restarts: NonNegativeInt = 2
    start_seconds: PositiveFloat = 600.0
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)

    @field_validator("address")
    @classmethod
    def _of_a_cluster(cls, value: str | None) -> str | None:
        return value if value is None else cluster_address(value)

    @model_validator(mode="after")
    def _one_device_each(self) -> RaySpec:
        if self.devices_per_cell > 1:
            raise ValueError(
                f"devices_per_cell {self.devices_per_cell} is for the engines local and slurm: an actor of Ray has one "
                "device; set devices_per_cell to 1, or engine to another"
            )
        return self

    @property
    def here(self) -> EngineSpec:
        """The settings of what the launcher computes itself, whatever the nodes of the cluster have."""
        return EngineSpec(device="cpu" if self.device == "cpu" else "auto")


def cluster_address(address: str) -> str:
    """An address of a Ray cluster that a study can be run on.

    Raises:
        ValueError: says what was expected.
    """
    expected = "expected auto or host:port of the cluster's head, such as 10.0.0.1:6379"
    if "://" in address:
        raise ValueError(f"{expected}; the study has to be started on a node of the cluster, not through Ray Client")
    if address != "auto" and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", address):
        raise ValueError(expected)
    return address


def engine_model(content: Mapping[str, Any]) -> type[EngineSpec]:
    """The class of the settings with this content, by its `kind`."""
    from . import slurm_spec  # derived from this module's class

    ENGINES["slurm"] = slurm_spec.SlurmSpec
    return ENGINES.get(str(content.get("kind")), EngineSpec)


ENGINES: dict[str, type[EngineSpec]] = {"local": EngineSpec, "ray": RaySpec}
