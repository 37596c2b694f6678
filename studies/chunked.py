"""Many optimiser steps per Lightning `training_step`: the loop of a study.

A Lightning step costs up to a millisecond before any work, which counts at the smallest tier; a chunk
pays it once. Batches, schedule and step counter are the study's own, so the size of a chunk changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from datamodules import StepBatches
from models import ImageClassifier, build_optimizer, learning_rate_factor

from .cell import Cell
from .objective import objective_of
from .program import CLIP_NORM, Chunk, OnChunk, Snapshot, autocast, classifier_arguments, cloned
from .seeding import seed_of
from .stall import progressed
from .team import SOLO, Rank


class ChunkedClassifier(ImageClassifier):
    """`ImageClassifier` whose training step is a chunk of optimiser steps: the `Program` of one cell.

    Args:
        cell: what is trained.
        batches: the training images, indexed by step.
        rank: which of the processes that train the cell this one is; each takes its share of every batch.
    """

    num_lanes = 1

    def __init__(self, cell: Cell, batches: StepBatches, rank: Rank = SOLO) -> None:
        super().__init__(**classifier_arguments(cell))
        self.automatic_optimization = False
        self._objective = objective_of(cell)
        self.network = self._objective.adapted(self.network)
        self.to(batches.device)
        self._cell = cell
        self._batches = batches
        self._rank = rank
        self._on_chunk: OnChunk = lambda stop, chunk: None
        # Created once and handed to every fit: trunk and cooldowns share its state.
        self._optimizer = build_optimizer(self.network, cell.learning_rate, cell.weight_decay, fused=True)
        self.schedule_steps = (cell.steps, 0)

    def module(self, on_chunk: OnChunk) -> ChunkedClassifier:
        """Itself, telling `on_chunk` of every chunk."""
        self._on_chunk = on_chunk
        return self

    def configure_optimizers(self) -> torch.optim.AdamW:  # type: ignore[override]  # no scheduler: rates are set by step
        """The one optimiser of the cell, whatever fit asks."""
        return self._optimizer

    def training_step(self, batch: Sequence[int], batch_idx: int) -> None:  # type: ignore[override]  # a chunk
        """Takes the optimiser steps `batch[0] .. batch[1] - 1` of the schedule, on the images of the same steps."""
        start, stop = batch
        total_steps, cooldown_steps = self.schedule_steps
        parameters = list(self.network.parameters())
        losses, examples = torch.empty(1, stop - start, device=self._batches.device), 0
        for step in range(start, stop):
            factor = learning_rate_factor(
                step, total_steps=total_steps, warmup_steps=self._cell.warmup_steps, cooldown_steps=cooldown_steps
            )
            for group in self._optimizer.param_groups:
                group["lr"] = self._cell.learning_rate * factor
            rank, world_size = self._rank.number, self._rank.count
            images, labels = self._batches.batch_at(step, rank=rank, world_size=world_size)
            inputs, answers = self._objective.training_question(
                self.network, self._batches, images, labels, step, rank=rank, world_size=world_size
            )
            self._seed_draws(step)
            with autocast(self._cell.precision, images.device):
                logits = self.network(*inputs)
            loss = F.cross_entropy(logits.float(), answers, label_smoothing=self._cell.label_smoothing)
            self._optimizer.zero_grad(set_to_none=True)
            if self._rank.count == 1:
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                self.manual_backward(loss)  # through the strategy, which averages the gradients of all processes
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            self._optimizer.step()
            losses[0, step - start] = loss.detach()
            progressed()
            examples += labels.numel()
        losses, examples = self._rank.together(losses, examples)
        self._on_chunk(stop, Chunk(losses, (examples,)))

    def snapshot(self, lane: int = 0) -> Snapshot:
        """A copy of the weights and the optimiser."""
        return {"network": cloned(self.network.state_dict()), "optimizer": cloned(self._optimizer.state_dict())}

    def restore(self, lane: int, snapshot: Snapshot) -> None:
        """Takes weights and optimiser back to a snapshot."""
        self.network.load_state_dict(snapshot["network"])
        self._optimizer.load_state_dict(cloned(snapshot["optimizer"]))
        for group in self._optimizer.param_groups:  # a state that a lane has saved knows nothing of fused kernels
            group["fused"] = True

    def network_of(self, lane: int = 0) -> nn.Module:
        """The network itself."""
        return self.network

    def close(self) -> None:
        """Nothing to free."""

    def _seed_draws(self, step: int) -> None:
        """Makes what a network itself draws, such as dropout masks, a function of seed and step.

        So a resumed run repeats it and replicates differ, and so do the processes of one cell. Networks that draw
        nothing are not touched by this.
        """
        others = () if self._rank.leads else (self._rank.number,)
        seed = seed_of((self._cell.seeds.augmentation, *self.schedule_steps, step, *others))
        torch.default_generator.manual_seed(seed)
        if self._batches.device.type == "cuda":
            torch.cuda.manual_seed(seed)
