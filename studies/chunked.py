"""Many optimiser steps per Lightning `training_step`: the loop of a study.

A Lightning step costs up to a millisecond before any work, which counts at the smallest tier; a chunk
pays it once. Batches, schedule and step counter are the study's own, so the size of a chunk changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from datamodules import StepBatches
from models import ImageClassifier, build_optimizer, learning_rate_factor

from .planning import Cell

CLIP_NORM = 1.0  # PROTOCOL 4


class ChunkedClassifier(ImageClassifier):
    """`ImageClassifier` whose training step is a chunk of optimiser steps.

    Args:
        cell: what is trained.
        batches: the training images, indexed by step.
        on_chunk: called after every chunk; may save.

    Attributes:
        examples: images the present weights were trained on, counted from the batches; goes back with the trunk.
        total_examples: images trained on in all, trunk and every cooldown.
        executed: optimiser steps taken in all.
        losses: loss of every executed step, float32 [executed steps], in the order of execution; NaN where still to
            come.
    """

    def __init__(self, cell: Cell, batches: StepBatches, on_chunk: Callable[[int], None]) -> None:
        super().__init__(
            cell.family,
            cell.variant,
            image_size=cell.image_size,
            num_classes=cell.num_classes,
            in_channels=cell.in_channels,
            learning_rate=cell.learning_rate,
            weight_decay=cell.weight_decay,
            warmup_fraction=cell.warmup_fraction,
            cooldown_fraction=cell.cooldown_fraction,
            label_smoothing=cell.label_smoothing,
            initialization_seed=cell.seeds.initialization,
        )
        self.automatic_optimization = False
        self.to(batches.device)
        self._cell = cell
        self._batches = batches
        self._on_chunk = on_chunk
        # Created once and handed to every fit: trunk and cooldowns share its state.
        self._optimizer = build_optimizer(self.network, cell.learning_rate, cell.weight_decay)
        self.examples = 0
        self.total_examples = 0
        self.executed = 0
        self.losses = torch.full((cell.executed_steps,), float("nan"), device=batches.device)
        self.schedule_steps = (cell.steps, 0)  # (total, cooldown) of the present segment

    def configure_optimizers(self) -> torch.optim.AdamW:  # type: ignore[override]  # no scheduler: rates are set by step
        """The one optimiser of the cell, whatever fit asks."""
        return self._optimizer

    @property
    def optimizer(self) -> torch.optim.AdamW:
        """The same, for saving and restoring its state."""
        return self._optimizer

    def _seed_draws(self, step: int) -> None:
        """Makes what a network itself draws, such as dropout masks, a function of seed and step.

        So a resumed run repeats it and replicates differ. Networks that draw nothing are not touched by this.
        """
        seed = _place((self._cell.seeds.augmentation, *self.schedule_steps, step))
        torch.default_generator.manual_seed(seed)
        if self._batches.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Sequence[int], batch_idx: int) -> None:  # type: ignore[override]  # a chunk
        """Takes the optimiser steps `batch[0] .. batch[1] - 1` of the schedule, on the images of the same steps."""
        start, stop = batch
        total_steps, cooldown_steps = self.schedule_steps
        parameters = list(self.network.parameters())
        for step in range(start, stop):
            factor = learning_rate_factor(
                step, total_steps=total_steps, warmup_steps=self._cell.warmup_steps, cooldown_steps=cooldown_steps
            )
            for group in self._optimizer.param_groups:
                group["lr"] = self._cell.learning_rate * factor
            images, labels = self._batches.batch_at(step)
            self._seed_draws(step)
            with autocast(self._cell.precision, images.device):
                logits = self.network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._cell.label_smoothing)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            self._optimizer.step()
            self.losses[self.executed] = loss.detach()
            self.executed += 1
            self.examples += labels.numel()
            self.total_examples += labels.numel()
        self._on_chunk(stop)


def _place(numbers: tuple[int, ...]) -> int:
    """A 63-bit seed for a place in a run: the same on every machine, different for different places."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast where asked for, else nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
