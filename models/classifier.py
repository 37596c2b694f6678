"""`ImageClassifier`: any family as an ordinary LightningModule."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from models.families import Head
from models.optimizer import build_optimizer
from models.registry import build_network
from models.schedule import learning_rate_factor
from models.start import LoadedStart, load_start

Batch = tuple[torch.Tensor, torch.Tensor]

_WRONG_LIGHTNING = (
    "ImageClassifier is a module of the package pytorch_lightning and needs its Trainer: write "
    "`import pytorch_lightning as pl` instead of `import lightning.pytorch as pl` "
    "(the two packages do not accept each other's classes)"
)


class ImageClassifier(pl.LightningModule):
    """A network of one family with loss, metrics, optimiser and schedule; optimisation is automatic.

    AdamW on cross-entropy; the learning rate warms up linearly, stays constant and cools down by 1 - sqrt, per
    optimiser step over the Trainer's ``estimated_stepping_batches``. Gradient clipping, accumulation, precision,
    callbacks and loggers are the Trainer's. Batches are ``(images [B, C, H, W] float, labels [B] int64)``.

    Logs ``train/loss``; ``val/`` and ``test/`` each with ``loss`` (negative log-likelihood), ``error`` (fraction
    misclassified) and ``calibration_error`` (expected, 15 bins; Guo et al. 1706.04599).

    Args:
        family: one of `models.family_names`, ``timm:NAME`` or ``package.module:build``.
        variant: ``<tier>`` or ``<tier>-<form>``.
        image_size: side of the images in pixels.
        num_classes: number of classes.
        in_channels: channels of the images.
        designed_for: side of the images that the network's sizes are solved for; None for ``image_size`` itself.
        head: what the network ends in, ``linear`` or ``hidden`` (`models.head`).
        learning_rate: peak of the schedule.
        weight_decay: AdamW's, on matrices only.
        warmup_fraction: part of all steps spent warming up.
        cooldown_fraction: part of all steps spent cooling down.
        label_smoothing: of the training loss.
        initialization_seed: draws the initial weights from this seed alone, and leaves the global generator as it was;
            None draws them from the global generator.

    Raises:
        ValueError: the network cannot be built, or a hyper-parameter is out of range.
    """

    def __init__(
        self,
        family: str,
        variant: str = "nano",
        *,
        image_size: int,
        num_classes: int,
        in_channels: int = 3,
        designed_for: int | None = None,
        head: Head = "linear",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_fraction: float = 0.03,
        cooldown_fraction: float = 0.2,
        label_smoothing: float = 0.0,
        initialization_seed: int | None = None,
    ) -> None:
        super().__init__()
        if "lightning.pytorch" in sys.modules:
            warnings.warn(f"lightning.pytorch is loaded: {_WRONG_LIGHTNING}", stacklevel=2)
        _check_hyperparameters(learning_rate, weight_decay, warmup_fraction, cooldown_fraction, label_smoothing)
        self.save_hyperparameters()
        with torch.random.fork_rng(devices=[], enabled=initialization_seed is not None):
            if initialization_seed is not None:
                torch.default_generator.manual_seed(_generator_seed(initialization_seed))
            self.network = build_network(
                family,
                variant,
                image_size=image_size,
                in_channels=in_channels,
                num_classes=num_classes,
                designed_for=designed_for,
                head=head,
            )
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.cooldown_fraction = cooldown_fraction
        self.label_smoothing = label_smoothing
        self.metrics = nn.ModuleDict(
            {f"{stage}_metrics": _evaluation_metrics(num_classes) for stage in ("val", "test")}
        )

    def start_from(self, path: str | Path, *, sha256: str | None = None) -> LoadedStart:
        """Take over the weights of another training, all but its classifier: `models.load_start` with these settings.

        Args:
            path: a checkpoint of this package or of timm.
            sha256: what the file's SHA-256 must be.

        Raises:
            WeightsError: the file is damaged, holds code, or its weights are not those of this network.
        """
        names = ("family", "variant", "image_size", "in_channels", "designed_for")
        return load_start(path, self.network, sha256=sha256, **{name: self.hparams[name] for name in names})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify images ``[B, C, H, W]`` -> logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.network(images)
        return logits

    def training_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of a batch, with label smoothing where asked for."""
        return F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one batch; Lightning does the rest."""
        del batch_idx
        loss = self.training_loss(*batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        del batch_idx
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics."""
        del batch_idx
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch | torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Log-probabilities ``[B, num_classes]`` of a batch of images, with or without labels."""
        del batch_idx
        images = batch if isinstance(batch, torch.Tensor) else batch[0]
        return F.log_softmax(self(images), dim=-1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, fused where Lightning can clip its gradients (fp32), and the schedule over all steps of this fit."""
        fused = True if str(self.trainer.precision) == "32-true" else None
        optimizer = build_optimizer(self.network, self.learning_rate, self.weight_decay, fused=fused)
        estimated_steps = self.trainer.estimated_stepping_batches
        if estimated_steps == float("inf"):
            raise ValueError(
                "the learning rate cools down at the end of training, and this Trainer has none: "
                "give it max_steps or max_epochs"
            )
        total_steps = int(estimated_steps)
        warmup_steps = round(self.warmup_fraction * total_steps)
        cooldown_steps = min(round(self.cooldown_fraction * total_steps), total_steps - warmup_steps)

        def factor(step: int) -> float:
            # Lightning may ask once more after the last step; the run is over by then.
            return learning_rate_factor(
                min(step, total_steps),
                total_steps=total_steps,
                warmup_steps=warmup_steps,
                cooldown_steps=cooldown_steps,
            )

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    @property
    def trainer(self) -> pl.Trainer:
        """The attached Trainer."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        if trainer is not None and not isinstance(trainer, pl.Trainer):
            raise TypeError(
                f"this Trainer is a {type(trainer).__module__}.{type(trainer).__name__}: {_WRONG_LIGHTNING}"
            )
        pl.LightningModule.trainer.__set__(self, trainer)  # type: ignore[attr-defined]

    def _evaluate(self, stage: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images)
        metrics: Any = self.metrics[f"{stage}_metrics"]
        metrics["accuracy"].update(logits, labels)
        metrics["calibration_error"].update(logits.softmax(dim=-1), labels)
        self.log(f"{stage}/loss", F.cross_entropy(logits, labels), batch_size=len(labels), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over the whole set."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics over the whole set."""
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        metrics: Any = self.metrics[f"{stage}_metrics"]
        self.log(f"{stage}/error", 1 - metrics["accuracy"].compute(), prog_bar=True)
        self.log(f"{stage}/calibration_error", metrics["calibration_error"].compute())
        for metric in metrics.values():
            metric.reset()


def _generator_seed(seed: int) -> int:
    """A seed for torch's generator on the CPU, which takes the low 32 bits of what it is given.

    One that has more is hashed, so that it draws other weights than the seed it would be cut to.
    """
    if 0 <= seed < 2**32:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")


def _evaluation_metrics(num_classes: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
        }
    )


def _check_hyperparameters(
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    cooldown_fraction: float,
    label_smoothing: float,
) -> None:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate}: expected a positive number")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay={weight_decay}: expected 0 or more")
    if not (warmup_fraction >= 0 and cooldown_fraction >= 0 and warmup_fraction + cooldown_fraction <= 1):
        raise ValueError(
            f"warmup_fraction={warmup_fraction}, cooldown_fraction={cooldown_fraction}: expected 0 or more, and at "
            "most 1 together"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: expected at least 0 and less than 1")
