"""Several runs of one architecture as one program: the whole step a function of tensors, on CUDA one graph.

Lanes differ in training images, seeds, learning rate and weight decay; family, image size, batch size, schedule and
everything else are shared (`jobs.program_key`). Gradients of lanes never meet: the loss is the sum of the lanes' mean
losses, and every lane is clipped by its own norm, so a lane that diverges costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules import LaneBatches, StepBatches
from models import learning_rate_factor
from models.lanes import LaneAdamW, build_lanes

from .captured import CapturedStep
from .cell import Cell
from .program import CLIP_NORM, Chunk, OnChunk, Snapshot, autocast, cloned, initial_network
from .stall import progressed

COMPILED_VERSIONS = 128
"""Architectures times widths that one process may compile."""


class LaneProgram:
    """Trains L cells in lockstep.

    A device step counter selects a row of tables that are uploaded once per chunk: the images of every lane, their
    learning rates, and the step that the augmentation is drawn from. On CUDA the step is captured when the first chunk
    begins and replayed from then on, without a word from the host within a chunk; elsewhere it is called.

    Args:
        cells: what is trained, alike by `jobs.program_key`.
        batches: the training images of each cell; `resident=False` saves memory, since the program pools them.
        device: where it runs.
        chunk_steps: rows of the tables; longer chunks are taken in pieces.
        compile_network: compile the network; CUDA only.
        kind: how the lanes are made; None takes what suits the architecture.

    Attributes:
        schedule_steps: (total, cooldown) steps of the present segment.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        batches: Sequence[StepBatches],
        device: torch.device | str,
        *,
        chunk_steps: int = 50,
        compile_network: bool = False,
        kind: Literal["stacked", "branches"] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.num_lanes, self._cells = len(cells), tuple(cells)
        self.schedule_steps = (cells[0].steps, 0)
        self._batches = LaneBatches(batches, self.device)
        networks = [initial_network(cell) for cell in cells]
        self._solo = networks[0]  # what `network_of` lends
        self.network = build_lanes(networks, kind).to(self.device)
        decays = [cell.weight_decay for cell in cells]
        self.optimizer = LaneAdamW(self.network, weight_decay=decays, clip_norm=CLIP_NORM)
        compiled = compile_network and self.device.type == "cuda"
        self._forward = _compiled(self.network) if compiled else self.network
        self._captured: CapturedStep | None = None
        rows = self._batches.rows_between(0, 1)
        self._rows = rows.new_zeros((chunk_steps, *rows.shape[1:]), device=self.device)
        self._rates = torch.zeros(chunk_steps, self.num_lanes, device=self.device, dtype=torch.float64)
        self._steps = torch.zeros(chunk_steps, dtype=torch.int64, device=self.device)
        self._losses = torch.zeros(chunk_steps, self.num_lanes, device=self.device)
        self._row = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._ahead: tuple[int, int, Tensor] | None = None
        self._examples_per_lane = 0  # of the step taken last, or captured

    def module(self, on_chunk: OnChunk) -> pl.LightningModule:
        """A module without weights, so that no Trainer moves the lanes from where the graph knows them."""
        return _Chunks(self, on_chunk)

    def run(self, start: int, stop: int) -> Chunk:
        """Takes the optimiser steps `start .. stop - 1` of the schedule; the losses may still be under way."""
        size = len(self._rows)
        pieces = [self._chunk(first, min(first + size, stop)) for first in range(start, stop, size)]
        losses = torch.cat([losses for losses, _ in pieces]).T
        return Chunk(losses, (sum(examples for _, examples in pieces),) * self.num_lanes)

    def snapshot(self, lane: int) -> Snapshot:
        """A copy of a lane's weights and optimiser, in the form of a solo run."""
        return {
            "network": cloned(self.network.lane_state(lane)),
            "optimizer": cloned(self.optimizer.lane_state(lane)),
        }

    def restore(self, lane: int, snapshot: Snapshot) -> None:
        """Copies a snapshot into a lane, in place: a captured step stays valid."""
        self.network.load_lane(lane, snapshot["network"])
        self.optimizer.load_lane(lane, snapshot["optimizer"])

    def network_of(self, lane: int) -> nn.Module:
        """A solo network with the present weights of a lane; the same object for every lane."""
        self._solo.to(self.device).load_state_dict(self.network.lane_state(lane))
        return self._solo

    def close(self) -> None:
        """Frees the graph and its memory."""
        if self._captured is not None:
            self._captured.close()
            self._captured = None

    def _chunk(self, start: int, stop: int) -> tuple[Tensor, int]:
        """Losses [K, L] and images per lane of the steps `start .. stop - 1`, which the tables can hold.

        Images are counted from the batches that went through the network, not from the tables: their shape is known
        without a look at the device, and a captured step repeats the one it was captured with.
        """
        count = stop - start
        rows = self._rows_between(start, stop)
        self._rows[:count].copy_(rows)
        self._rates[:count].copy_(self._learning_rates(start, stop))
        self._steps[:count].copy_(torch.arange(start, stop))
        step = self._device_step
        if self.device.type == "cuda":
            self._captured = self._captured or self._capture()
            step = self._captured.replay
        self._row.zero_()
        examples = 0
        for _ in range(count):
            step()
            progressed()
            examples += self._examples_per_lane
        losses = self._losses[:count].clone()
        # The device is busy with the chunk: meanwhile the host draws the orders of the one that likely follows.
        self._ahead = (stop, stop + count, self._batches.rows_between(stop, stop + count))
        return losses, examples

    def _device_step(self) -> None:
        """One optimiser step of every lane; tensors only."""
        rows = self._rows.index_select(0, self._row)[0]
        rates = self._rates.index_select(0, self._row)[0]
        images, labels = self._batches.batch(rows, self._steps.index_select(0, self._row))
        self.optimizer.zero_grad()
        with autocast(self._cells[0].precision, self.device, cache_enabled=False):
            logits = self._forward(images)
        each = F.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            reduction="none",
            label_smoothing=self._cells[0].label_smoothing,
        )
        losses = each.view_as(labels).mean(dim=1)
        self._examples_per_lane = labels.numel() // self.num_lanes
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(rates)
        self._losses.index_copy_(0, self._row, losses.detach()[None])
        self._row.add_(1)

    def _capture(self) -> CapturedStep:
        before = [self.snapshot(lane) for lane in range(self.num_lanes)]

        def warm_up() -> None:
            self._row.zero_()  # a warm-up has no business beyond the first row
            self._device_step()

        def undo() -> None:
            for lane, snapshot in enumerate(before):
                self.restore(lane, snapshot)
            self.optimizer.zero_grad()  # gradients are made anew, in the graph's own memory

        return CapturedStep(self._device_step, warm_up, undo, self.device)

    def _rows_between(self, start: int, stop: int) -> Tensor:
        if self._ahead is not None and self._ahead[0] == start and stop <= self._ahead[1]:
            return self._ahead[2][: stop - start]
        return self._batches.rows_between(start, stop)

    def _learning_rates(self, start: int, stop: int) -> Tensor:
        """Rates [K, L] of the present segment."""
        total_steps, cooldown_steps = self.schedule_steps
        factors = [
            learning_rate_factor(
                step,
                total_steps=total_steps,
                warmup_steps=self._cells[0].warmup_steps,
                cooldown_steps=cooldown_steps,
            )
            for step in range(start, stop)
        ]
        peaks = [cell.learning_rate for cell in self._cells]
        return torch.tensor([[peak * factor for peak in peaks] for factor in factors], dtype=torch.float64)


def _compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network compiled; one like an earlier one of this process, in architecture and width, reuses its code."""
    import torch._dynamo

    # Lanes of all architectures are one function to the compiler, which by default gives up at its ninth version.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VERSIONS)
    return torch.compile(network, dynamic=False)


class _Chunks(pl.LightningModule):
    """The training step of a `LaneProgram`: a chunk."""

    def __init__(self, program: LaneProgram, on_chunk: OnChunk) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._program, self._on_chunk = program, on_chunk

    def configure_optimizers(self) -> None:
        """None of Lightning's: the program has its own."""

    def training_step(self, batch: Sequence[int], batch_idx: int) -> None:
        """Takes the optimiser steps `batch[0] .. batch[1] - 1` of the schedule."""
        del batch_idx
        start, stop = batch
        self._on_chunk(stop, self._program.run(start, stop))
