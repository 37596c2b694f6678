"""This package's loop: a program of one run or of several lanes, taken through chunks by the study's own Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.lanes import why_no_lanes
from studies.chunked import ChunkedClassifier
from studies.engine_spec import EngineSpec
from studies.errors import StudyError
from studies.lane_program import LaneProgram
from studies.program import Chunk, Program, Snapshot, initial_network
from studies.train import Chunks, study_trainer

from .loops import Span, Stopwatch
from .workload import Workload


class StudyLoop:
    """Cells trained as a study trains them: chunks of optimiser steps, losses read once per chunk.

    Args:
        workloads: one, or several of one architecture, which train in lockstep.
        in_lanes: as a lane program even if it is one; several always are.
        compile_network: compile the lane program's network; CUDA only.

    Raises:
        StudyError: the network draws random numbers itself, so that it cannot share a program.
    """

    def __init__(
        self, workloads: Sequence[Workload], device: str, *, in_lanes: bool = False, compile_network: bool = False
    ) -> None:
        self._device, self._place = device, 0
        self._num_lanes = len(workloads) if in_lanes or len(workloads) > 1 else 0
        self._watch = Stopwatch(torch.device(device))
        self._chunk_steps = EngineSpec().chunk_steps
        cells = [one.cell() for one in workloads]
        self.program: Program
        if self._num_lanes:
            _check_lanes(workloads[0])
            batches = [one.batches(device, resident=False) for one in workloads]
            self.program = LaneProgram(
                cells, batches, device, chunk_steps=self._chunk_steps, compile_network=compile_network
            )
        else:
            self.program = ChunkedClassifier(cells[0], workloads[0].batches(device))

    @property
    def network(self) -> nn.Module:
        """What the first run trains."""
        return self.program.network_of(0)

    @property
    def options(self) -> dict[str, Any]:
        """Steps per chunk, number of lanes (0: none) and how they are made."""
        kind = self.program.network.kind if isinstance(self.program, LaneProgram) else ""
        return {"chunk_steps": self._chunk_steps, "lanes": self._num_lanes, "kind": kind}

    def steps(self, count: int) -> Span:
        """The next `count` steps of every cell; the time of the fit, its start included."""
        first, stop, size = self._place, self._place + count, self._chunk_steps
        chunks = Chunks(tuple((start, min(start + size, stop)) for start in range(first, stop, size)))
        losses: list[Tensor] = []
        images = 0

        def after_chunk(step: int, chunk: Chunk) -> None:
            nonlocal images
            losses.append(chunk.losses.cpu())
            images += sum(chunk.examples)

        trainer, module = study_trainer(self._device, EngineSpec()), self.program.module(after_chunk)
        self._watch.begin()
        trainer.fit(module, train_dataloaders=chunks)
        self._watch.end()
        module.to(self._device)  # the Trainer leaves everything on the CPU
        self._place = stop
        return Span(self._watch.start, self._watch.stop, images, float(losses[-1][0, -1]))

    def snapshot(self, lane: int) -> Snapshot:
        """Weights and optimiser of one run."""
        return self.program.snapshot(lane)

    def close(self) -> None:
        """Frees a captured step."""
        self.program.close()


def replicates(workload: Workload, count: int) -> list[Workload]:
    """The same workload with other seeds."""
    return [dataclasses.replace(workload, replicate=index) for index in range(count)]


def _check_lanes(workload: Workload) -> None:
    shape = (workload.in_channels, workload.image_size, workload.image_size)
    reason = why_no_lanes(initial_network(workload.cell()), shape)
    if reason is not None:
        raise StudyError(f"{workload.arm} trains in no lanes: {reason}")
