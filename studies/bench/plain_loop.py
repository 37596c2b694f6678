"""The ordinary Lightning way: a Trainer with `max_steps`, the classifier and the data module, nothing else."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn

from datamodules import SubsetDataModule

from .loops import CLIP_NORM, Span, Stopwatch
from .workload import Workload


class PlainLoop:
    """`pl.Trainer(max_steps=...).fit(ImageClassifier(...), datamodule=SubsetDataModule(...))` as a good user writes it.

    Without logger, bar, checkpoints and validation; the time is that between the first and the last training step.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self._device, self._precision = torch.device(device), workload.precision
        self._classifier = workload.classifier()
        self._data = SubsetDataModule(
            workload.source(),
            workload.num_train,
            num_validation=0,
            batch_size=workload.batch_size,
            subset_seed=workload.replicate,
            order_seed=workload.replicate,
            augmentation_seed=workload.replicate,
            augmentation=workload.augmentation,
        )

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self._classifier.network

    @property
    def options(self) -> dict[str, Any]:
        """Nothing was chosen."""
        return {}

    def steps(self, count: int) -> Span:
        """Trains the present weights for `count` steps more, with a fresh optimiser and from the first batch on."""
        timer = _Timer(Stopwatch(self._device))
        trainer = pl.Trainer(
            accelerator="gpu" if self._device.type == "cuda" else "cpu",
            devices=[self._device.index or 0] if self._device.type == "cuda" else 1,
            precision="bf16-mixed" if self._precision == "bf16" else "32-true",
            max_steps=count,
            gradient_clip_val=CLIP_NORM,
            callbacks=[timer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[LightningEnvironment()],
        )
        trainer.fit(self._classifier, datamodule=self._data)
        if trainer.global_step != count:
            raise RuntimeError(f"{trainer.global_step} steps were taken where {count} were asked for")
        self._classifier.to(self._device)
        loss = float(trainer.callback_metrics["train/loss"])
        return Span(timer.watch.start, timer.watch.stop, count * self._data.batch_size, loss)


class _Timer(pl.Callback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.watch.begin()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.watch.end()
