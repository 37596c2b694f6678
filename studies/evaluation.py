"""What a network's answers are worth: error, loss, calibration, and the compact form that is kept per answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error

from datamodules import ImageSplit, StepBatches

from .cell import Cell
from .objective import Objective, Question, objective_of
from .program import autocast
from .stall import progressed

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Answers:
    """What a network said of n images, or of n patches; on the CPU.

    Attributes:
        predicted: the most probable class, int64 [n].
        confidence: its probability, float64 [n].
        log_probability: of the true class, float64 [n], nats.
        truth: the true class, int64 [n].
    """

    predicted: Tensor
    confidence: Tensor
    log_probability: Tensor
    truth: Tensor

    @property
    def error(self) -> float:
        """Fraction misclassified."""
        return int((self.predicted != self.truth).sum()) / len(self.truth)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, nats."""
        return float(F.nll_loss(self.log_probability[:, None], torch.zeros_like(self.truth)))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 1706.04599)."""
        correct = (self.predicted == self.truth).long()
        return float(binary_calibration_error(self.confidence.float(), correct, n_bins=CALIBRATION_BINS, norm="l1"))


@dataclass(frozen=True)
class TestOutcome:
    """One branch on the test split, an entry per answer: an image, or a corrupted patch, image by image.

    Attributes:
        error: fraction misclassified.
        loss: mean negative log-likelihood, nats.
        calibration_error: expected calibration error.
        predicted_class: uint16 [n].
        log_probability: of the true class, float16 [n], nats.
        label: the true class, uint16 [n].
    """

    __test__ = False  # not a pytest class

    error: float
    loss: float
    calibration_error: float
    predicted_class: npt.NDArray[np.uint16]
    log_probability: npt.NDArray[np.float16]
    label: npt.NDArray[np.uint16]


@torch.inference_mode()
def predict(
    network: nn.Module,
    batches: StepBatches,
    objective: Objective,
    precision: str,
    *,
    indices: npt.NDArray[np.int64] | None = None,
    split: ImageSplit | None = None,
) -> Answers:
    """Puts the question of an objective to a network, for every evaluation image.

    The answers do not depend on the size of a batch beyond rounding. Where one is too large for a GPU it is halved.

    Args:
        indices: rows of `split`; all if None.
        split: where the images come from; the training split if None.
    """
    size = batches.evaluation_batch_size
    while True:
        try:
            questions = _questions(network, batches, objective, indices, split, size)
            return _answers(network, questions, precision, batches.device)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2


def _questions(
    network: nn.Module,
    batches: StepBatches,
    objective: Objective,
    indices: npt.NDArray[np.int64] | None,
    split: ImageSplit | None,
    size: int,
) -> Iterator[Question]:
    first = 0
    for images, labels in batches.evaluation_batches(indices, split=split, batch_size=size):
        yield objective.evaluation_question(network, batches, images, labels, first)
        first += len(labels)


def _answers(network: nn.Module, questions: Iterator[Question], precision: str, device: torch.device) -> Answers:
    network.eval()
    parts = []
    for question in questions:
        with autocast(precision, device):
            logits = network(*question.inputs)
        # Reduced batch by batch: all probabilities of all patches would not fit.
        log_probabilities, truth = logits.double().log_softmax(dim=1).cpu(), question.answers.cpu()
        highest, predicted = log_probabilities.max(dim=1)
        parts.append((predicted, highest.exp(), log_probabilities.gather(1, truth[:, None])[:, 0], truth))
        progressed()
    network.train()
    return Answers(*map(torch.cat, zip(*parts, strict=True)))


def test_branch(
    network: nn.Module, weights: dict[str, Tensor] | None, batches: StepBatches, test: ImageSplit, cell: Cell
) -> TestOutcome:
    """Reads the test split with the weights of one branch; a branch that diverged (None) is the uniform classifier."""
    objective = objective_of(cell)
    if weights is None:
        error, loss = chance(objective.num_answers)
        questions = _questions(network, batches, objective, None, test, batches.evaluation_batch_size)
        label = torch.cat([question.answers for question in questions]).cpu().numpy().astype(np.uint16)
        return TestOutcome(error, loss, 0.0, np.zeros_like(label), np.full(len(label), -loss, dtype=np.float16), label)
    network.load_state_dict(weights)
    answers = predict(network, batches, objective, cell.precision, split=test)
    lowest = float(np.finfo(np.float16).min)
    return TestOutcome(
        error=answers.error,
        loss=answers.loss,
        calibration_error=answers.calibration_error,
        predicted_class=answers.predicted.numpy().astype(np.uint16),
        log_probability=answers.log_probability.clamp(min=lowest).numpy().astype(np.float16),
        label=answers.truth.numpy().astype(np.uint16),
    )


test_branch.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def chance(num_answers: int) -> tuple[float, float]:
    """Error and loss of the uniform classifier."""
    return 1 - 1 / num_answers, math.log(num_answers)
