"""This package's loops: the chunked one of a study, and on CUDA several runs of one architecture as one program."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from studies.chunked import ChunkedClassifier
from studies.errors import StudyError
from studies.spec import EngineSpec
from studies.train import Chunks, study_trainer

from .loops import Span, Stopwatch
from .workload import Workload

LANE_PROGRAM_HOMES = ("studies.lane_program", "studies.program", "studies.lanes")


class StudyLoop:
    """A cell trained as a study trains it: chunks of optimiser steps through the study's own Trainer."""

    def __init__(self, workload: Workload, device: str) -> None:
        self._cell = workload.cell()
        self._device = device
        self._classifier = ChunkedClassifier(self._cell, workload.batches(device), lambda step: None)
        self._classifier.schedule_steps = (self._cell.steps, 0)
        self._watch = Stopwatch(torch.device(device))
        self._chunk_steps = EngineSpec().chunk_steps
        self._place = 0

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self._classifier.network

    @property
    def options(self) -> dict[str, Any]:
        """Steps per Lightning step."""
        return {"chunk_steps": self._chunk_steps}

    def steps(self, count: int) -> Span:
        """The next `count` steps of the cell; the time of the fit, its Trainer's start included."""
        first, stop, size = self._place, self._place + count, self._chunk_steps
        chunks = Chunks(tuple((start, min(start + size, stop)) for start in range(first, stop, size)))
        before = self._classifier.total_examples
        trainer = study_trainer(self._device)
        self._watch.begin()
        trainer.fit(self._classifier, train_dataloaders=chunks)
        self._watch.end()
        self._classifier.to(self._device)  # the Trainer leaves everything on the CPU
        self._place = stop
        images = self._classifier.total_examples - before
        loss = float(self._classifier.losses[self._classifier.executed - 1])
        return Span(self._watch.start, self._watch.stop, images, loss)


class LaneLoop:
    """Several workloads of one architecture trained as one program, where this installation has one.

    Args:
        workloads: one per lane.
        options: of the program, such as `compile`.
    """

    def __init__(self, workloads: Sequence[Workload], device: str, **options: Any) -> None:  # noqa: ANN401
        program_class = find_lane_program()
        if program_class is None:
            raise StudyError("this version trains no lanes; measure with one lane")
        cells, batches = [one.cell() for one in workloads], [one.batches(device) for one in workloads]
        self._program: Any = program_class(cells, batches, device, **options)
        self._images_per_step = sum(one.batch_size for one in workloads)
        self._num_lanes = len(workloads)
        self._watch = Stopwatch(torch.device(device))
        self._place = 0

    @property
    def network(self) -> nn.Module:
        """All lanes as one module."""
        lanes: nn.Module = self._program.lanes
        return lanes

    @property
    def options(self) -> dict[str, Any]:
        """The number of lanes and how they are made."""
        return {"lanes": self._num_lanes, "kind": getattr(self._program.lanes, "kind", "")}

    def steps(self, count: int) -> Span:
        """The next `count` steps of all lanes."""
        self._watch.begin()
        self._program.run(self._place, self._place + count)
        self._watch.end()
        self._place += count
        loss = float(self._program.losses[0][self._place - 1])
        return Span(self._watch.start, self._watch.stop, count * self._images_per_step, loss)


def replicates(workload: Workload, count: int) -> list[Workload]:
    """The same workload with other seeds."""
    return [dataclasses.replace(workload, replicate=index) for index in range(count)]


def find_lane_program() -> Any:  # noqa: ANN401  # the class, or None
    """`LaneProgram`, or None in a version that has none."""
    for home in LANE_PROGRAM_HOMES:
        if importlib.util.find_spec(home) is not None:
            found = getattr(importlib.import_module(home), "LaneProgram", None)
            if found is not None:
                return found
    return None
