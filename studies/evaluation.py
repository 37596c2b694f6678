"""What a network's predictions are worth: error, loss, calibration, and the compact form that is kept per image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from datamodules import ImageSplit, StepBatches

from .planning import Cell
from .program import autocast

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class TestOutcome:
    """One branch on the test split.

    Attributes:
        error: fraction misclassified.
        loss: mean negative log-likelihood, nats.
        calibration_error: expected calibration error.
        predicted_class: uint16 [n].
        log_probability: of the true class, float16 [n], nats.
    """

    __test__ = False  # not a pytest class

    error: float
    loss: float
    calibration_error: float
    predicted_class: npt.NDArray[np.uint16]
    log_probability: npt.NDArray[np.float16]


@torch.inference_mode()
def predict(
    network: torch.nn.Module,
    batches: StepBatches,
    precision: str,
    *,
    indices: npt.NDArray[np.int64] | None = None,
    split: ImageSplit | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities float64 [n, K] and labels int64 [n] of evaluation images, on the CPU.

    They do not depend on the size of a batch beyond rounding. Where one is too large for a GPU it is halved.

    Args:
        indices: rows of `split`; all if None.
        split: where the images come from; the training split if None.
    """
    size = batches.evaluation_batch_size
    while True:
        try:
            return _predict(network, batches.evaluation_batches(indices, split=split, batch_size=size), precision)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2


def _predict(
    network: torch.nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str
) -> tuple[Tensor, Tensor]:
    network.eval()
    log_probabilities, labels = [], []
    for images, truth in batches:
        with autocast(precision, images.device):
            logits = network(images)
        log_probabilities.append(logits.double().log_softmax(dim=1).cpu())
        labels.append(truth.cpu())
    network.train()
    return torch.cat(log_probabilities), torch.cat(labels)


def test_branch(
    network: torch.nn.Module, weights: dict[str, Tensor] | None, batches: StepBatches, test: ImageSplit, cell: Cell
) -> TestOutcome:
    """Reads the test split with the weights of one branch; a branch that diverged (None) is the uniform classifier."""
    if weights is None:
        error, loss = chance(cell.num_classes)
        predicted = np.zeros(len(test), dtype=np.uint16)
        return TestOutcome(error, loss, 0.0, predicted, np.full(len(test), -loss, dtype=np.float16))
    network.load_state_dict(weights)
    log_probabilities, labels = predict(network, batches, cell.precision, split=test)
    error, loss = error_and_loss(log_probabilities, labels)
    calibration = multiclass_calibration_error(
        log_probabilities.exp(), labels, num_classes=cell.num_classes, n_bins=CALIBRATION_BINS, norm="l1"
    )
    lowest = float(np.finfo(np.float16).min)
    truth = log_probabilities.gather(1, labels[:, None])[:, 0].clamp(min=lowest)
    return TestOutcome(
        error=error,
        loss=loss,
        calibration_error=float(calibration),
        predicted_class=log_probabilities.argmax(dim=1).numpy().astype(np.uint16),
        log_probability=truth.numpy().astype(np.float16),
    )


test_branch.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def error_and_loss(log_probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Fraction misclassified, and mean negative log-likelihood in nats."""
    wrong = int((log_probabilities.argmax(dim=1) != labels).sum())
    return wrong / len(labels), float(F.nll_loss(log_probabilities, labels))


def chance(num_classes: int) -> tuple[float, float]:
    """Error and loss of the uniform classifier."""
    return 1 - 1 / num_classes, math.log(num_classes)
