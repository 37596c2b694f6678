"""The settings of the engine `slurm`: what is asked of the queue, refused where it could mean something else to it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, StringConstraints, field_validator, model_validator

from .engine_spec import MOST_WORKERS, EngineSpec

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.,+@:/-]*"
"""What partitions, accounts and the like are called; a line break would begin another line of the batch script."""
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=200)]

OWN_PARAMETERS = frozenset(
    """account array chdir cpus-per-task error gpus-per-node gpus-per-task gres-flags input job-name mem nodes ntasks
    ntasks-per-node no-requeue open-mode output parsable partition qos requeue signal test-only time wait wrap
    export-file""".split()  # noqa: SIM905
)
"""Options of `sbatch` that the engine sets by fields of its own, or that would keep it from running the array."""
GPU_PARAMETERS = frozenset({"gpus", "gpus-per-socket", "gres"})
"""Other ways of asking for GPUs."""
MIN_TIME_LIMIT = 3  # minutes: a task is told 90 seconds before its end, and takes a while to begin


class SlurmSpec(EngineSpec):
    """Cells run in an array of Slurm jobs, each a launcher of its own on a node; all work on the same cells.

    What `EngineSpec` says (workers, lanes, devices_per_cell, ...) holds within each task. Null leaves a choice to the
    cluster: its default, or what SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_QOS say.

    Attributes:
        tasks: most jobs of the array; never more than there are cells to train.
        partition: of the cluster; several separated by commas.
        account: that is charged.
        qos: quality of service.
        time_limit: minutes of one job. One that needs longer is requeued and goes on from its checkpoints.
        cpus_per_task: cores of a task; on a CPU as many workers train in it.
        gpus_per_task: GPUs of a task, a worker each.
        memory: of a task, such as 16G.
        requeues: times a task may reach its time limit and be requeued.
        setup: shell commands that prepare a node, such as `module load cuda`, a line each.
        additional_parameters: further options of `sbatch` by their long name, such as {constraint: a100, nice: 100,
            exclusive: true}.
        poll_seconds: between two questions to the queue; how far cells are is read off the store and asks nobody.
        detach: submit, say how to look, and end: the same command, given again later, continues.
    """

    kind: Literal["slurm"] = "slurm"  # type: ignore[assignment]  # each engine its own
    tasks: Annotated[int, Field(ge=1, le=1000)] = 4
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    time_limit: Annotated[int, Field(ge=MIN_TIME_LIMIT)] = 60
    cpus_per_task: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    gpus_per_task: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 0
    memory: Annotated[str, StringConstraints(pattern="^[1-9][0-9]*[KMGT]$")] | None = None
    requeues: NonNegativeInt = 100
    setup: tuple[str, ...] = ()
    additional_parameters: dict[str, bool | int | str] = Field(default_factory=dict)
    poll_seconds: Annotated[float, Field(ge=1, le=250)] = 30.0
    detach: bool = False

    @field_validator("setup")
    @classmethod
    def _one_command_a_line(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not line.isprintable():
                raise ValueError(f"{line!r} has a line break or another control character; give a command per line")
        return value

    @field_validator("additional_parameters")
    @classmethod
    def _options_of_sbatch(cls, value: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        renamed = {name.replace("_", "-"): given for name, given in value.items()}
        for name, given in renamed.items():
            if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
                raise ValueError(f"{name!r} is not the long name of an option of sbatch, such as constraint")
            if name in OWN_PARAMETERS:
                raise ValueError(f"{name} cannot be given here: the engine sets it, or has a field for it")
            if given is False:
                raise ValueError(f"{name}: false says nothing to sbatch; leave it out")
            if isinstance(given, str) and not re.fullmatch(r"[A-Za-z0-9_.,:;+@%=&|()\[\]*/ -]*", given):
                raise ValueError(
                    f"{name}: {given!r} has a quote, a backslash or a control character; they would mean something "
                    "else in a batch script"
                )
        return renamed

    @model_validator(mode="after")
    def _devices_are_asked_for(self) -> SlurmSpec:
        by_other_name = GPU_PARAMETERS & self.additional_parameters.keys()
        if self.gpus_per_task and self.device == "cpu":
            raise ValueError(f"gpus_per_task {self.gpus_per_task} and device cpu contradict each other: drop one")
        if self.device == "cuda" and not self.gpus_per_task and not by_other_name:
            raise ValueError("device cuda needs GPUs of Slurm: set gpus_per_task")
        if self.compile and not self.gpus_per_task and not by_other_name:
            raise ValueError("compile true is for programs on GPUs: set gpus_per_task, or compile to false")
        if self.gpus_per_task and self.gpus_per_task < self.devices_per_cell:
            raise ValueError(
                f"devices_per_cell {self.devices_per_cell} GPUs cannot be had from gpus_per_task {self.gpus_per_task}"
            )
        return self

    @property
    def expected_devices(self) -> list[str]:
        """The first device of each worker of all tasks, as `engines.local.devices` will find them on the nodes."""
        each = self.devices_per_cell
        if self.gpus_per_task or GPU_PARAMETERS & self.additional_parameters.keys():
            count = max(1, self.gpus_per_task) // each
            of_a_task = [f"cuda:{index * each % max(1, self.gpus_per_task)}" for index in range(self.workers or count)]
        else:
            of_a_task = ["cpu"] * (self.workers or max(1, self.cpus_per_task // each))
        return of_a_task * self.tasks

    def within_task(self, *, has_gpus: bool) -> EngineSpec:
        """The settings of the launcher on a node.

        Args:
            has_gpus: whether Slurm gave the task GPUs; those that it did not give are left alone.
        """
        shared = {name: getattr(self, name) for name in EngineSpec.model_fields if name != "kind"}
        if has_gpus:
            return EngineSpec(**shared)
        workers = self.workers or max(1, self.cpus_per_task // self.devices_per_cell)
        return EngineSpec(**(shared | {"device": "cpu" if self.device == "auto" else self.device, "workers": workers}))

    @property
    def here(self) -> EngineSpec:
        """The settings of what the launcher computes itself, such as few-shot evaluations."""
        return EngineSpec(device="cpu" if self.device == "cpu" else "auto")
