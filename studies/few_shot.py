"""Few-shot linear evaluation: how much of a task the features of a network hold, told by k images of every class.

"Few-shot accuracies are obtained by solving a regularized least-squares regression problem that maps the (frozen)
representation of a subset of training images to {-1, 1}^K target vectors", in closed form (Dosovitskiy et al.
2010.11929, section 4.1). Features are what the classifier reads (`models.features`); the intercept is not regularised;
how strongly the rest is, is chosen on held-out images for every draw of the k images. The draws share network and test
images: their interval says what another choice of images would change, not what another training would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from datamodules import ImageSplit, StepBatches
from models import features

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

REGULARIZATIONS = tuple(10.0**exponent for exponent in range(-8, 2))
"""Strengths tried, in units of the total variance of the features of the k images: no scale of a network matters."""
_SHOTS_KEY = 0x73686F7473  # separates this random stream from those of subsets and validation


@dataclass(frozen=True)
class Labelled:
    """Features of images, float64 `[n, D]`, and their classes, int64 `[n]`."""

    features: Float64Array
    labels: Int64Array


@dataclass(frozen=True)
class LinearMap:
    """Scores of features `[n, D]` are `features @ weights + intercept`, `[n, K]`."""

    weights: Float64Array
    intercept: Float64Array

    def accuracy(self, images: Labelled) -> float:
        """Fraction of images whose class has the highest score."""
        predicted = (images.features @ self.weights + self.intercept).argmax(axis=1)
        return float((predicted == images.labels).mean())


@dataclass(frozen=True)
class FewShot:
    """What k images of every class are enough for.

    Attributes:
        shots: images of every class (k).
        accuracies: on the test images, one per draw of the k images.
        regularizations: the strength chosen for each draw.
    """

    shots: int
    accuracies: tuple[float, ...]
    regularizations: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over draws."""
        return float(np.mean(self.accuracies))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's t interval of the mean accuracy over draws.

        Raises:
            ValueError: there is only one draw.
        """
        count = len(self.accuracies)
        if count < 2:
            raise ValueError("one draw of the images has no interval; ask for at least 2 draws")
        half = float(stats.t.ppf((1 + level) / 2, count - 1) * np.std(self.accuracies, ddof=1) / np.sqrt(count))
        return self.mean - half, self.mean + half


def draw_shots(labels: npt.ArrayLike, shots: int, *, num_classes: int, seed: int) -> Int64Array:
    """Rows of k images of every class, `[K, k]`; the first of each row are the draw of a smaller k.

    Args:
        labels: classes of the images to draw from `[n]`.
        shots: images of every class (k).
        num_classes: K.
        seed: of this draw.

    Raises:
        ValueError: a class has fewer images.
    """
    pool = np.asarray(labels)
    generator = np.random.Generator(np.random.Philox(key=[seed, _SHOTS_KEY]))
    shuffled = generator.permutation(len(pool))
    rows = [shuffled[pool[shuffled] == label][:shots] for label in range(num_classes)]
    for label, chosen in enumerate(rows):
        if shots < 1 or len(chosen) < shots:
            raise ValueError(f"shots={shots}: expected from 1 to the {len(chosen)} images there are of class {label}")
    return np.stack(rows).astype(np.int64)


def ridge(examples: Labelled, regularizations: Sequence[float], *, num_classes: int) -> tuple[LinearMap, ...]:
    r"""Least squares to targets -1 and 1 with an L2 penalty on the weights, for several strengths at once.

    Minimises `|Y - X W - 1 b|^2 + r |X - mean(X)|^2 |W|^2` over weights `W` and intercept `b` (Frobenius norms), by
    one singular value decomposition `X - mean(X) = U S V'`: `W = V diag(s / (s^2 + penalty)) U' (Y - mean(Y))`.

    Args:
        examples: features X and the classes that the targets Y are made of.
        regularizations: strengths r, positive.
        num_classes: K.

    Raises:
        ValueError: a strength is not positive, or features or labels are not what they must be.
    """
    if not all(strength > 0 for strength in regularizations):
        raise ValueError(f"regularizations={tuple(regularizations)}: expected positive numbers")
    _check(examples, num_classes)
    targets = np.where(examples.labels[:, None] == np.arange(num_classes), 1.0, -1.0)
    mean, target_mean = examples.features.mean(axis=0), targets.mean(axis=0)
    left, singular, right = np.linalg.svd(examples.features - mean, full_matrices=False)
    projected = left.T @ (targets - target_mean)
    variance = float((singular**2).sum())
    found = []
    for strength in regularizations:
        penalised = singular**2 + strength * variance
        # Features that are all alike hold nothing: no weights, and the intercept alone decides.
        shrunk = np.divide(singular, penalised, out=np.zeros_like(singular), where=penalised > 0)
        weights = right.T @ (shrunk[:, None] * projected)
        found.append(LinearMap(weights, target_mean - mean @ weights))
    return tuple(found)


def few_shot(
    train: Labelled,
    draws: npt.ArrayLike,
    held_out: Labelled,
    test: Labelled,
    *,
    shots: Sequence[int],
    regularizations: Sequence[float] = REGULARIZATIONS,
) -> tuple[FewShot, ...]:
    """Accuracy of the closed-form classifier for each number of shots.

    Args:
        train: images that the draws point into.
        draws: rows of `train`, int64 `[R, K, k]`, as `draw_shots` gives them.
        held_out: images the strength of the regularisation is chosen on; of equals the strongest is taken.
        test: images the accuracy is told of; they choose nothing.
        shots: numbers of images of every class, each at most k.
        regularizations: strengths to choose from.

    Raises:
        ValueError: a number of shots is not in the draws, or the parts do not fit each other.
    """
    rows = np.asarray(draws, dtype=np.int64)
    if rows.ndim != 3 or not len(rows) or not all(1 <= count <= rows.shape[2] for count in shots):
        raise ValueError(f"shots={tuple(shots)}: the draws have shape {list(rows.shape)}, expected [draws, classes, k]")
    num_classes, strengths = rows.shape[1], sorted(regularizations, reverse=True)
    for part in (held_out, test):
        _check(part, num_classes)
    found = []
    for count in shots:
        chosen: list[tuple[float, float]] = []
        for draw in rows[:, :, :count].reshape(len(rows), -1):
            maps = ridge(Labelled(train.features[draw], train.labels[draw]), strengths, num_classes=num_classes)
            best = int(np.argmax([one.accuracy(held_out) for one in maps]))
            chosen.append((maps[best].accuracy(test), strengths[best]))
        accuracies, taken = zip(*chosen, strict=True)
        found.append(FewShot(count, accuracies, taken))
    return tuple(found)


def evaluate_few_shot(
    network: torch.nn.Module,
    batches: StepBatches,
    *,
    pool: npt.ArrayLike,
    validation: npt.ArrayLike,
    test: ImageSplit,
    num_classes: int,
    shots: Sequence[int] = (5,),
    draws: int = 5,
    seed: int = 0,
    regularizations: Sequence[float] = REGULARIZATIONS,
) -> tuple[FewShot, ...]:
    """Few-shot accuracy of a network on a data set, features computed once for the images that are needed.

    Args:
        network: any network of which `models.features` finds the classifier; not changed.
        batches: prepare the images as in training.
        pool: rows of the training split that the k images are drawn from.
        validation: rows of the training split that the regularisation is chosen on.
        test: images the accuracy is told of.
        num_classes: K.
        shots: numbers of images of every class.
        draws: how many times they are drawn (R).
        seed: of the first draw; the others have those after it.
        regularizations: strengths to choose from.

    Raises:
        ValueError: a class has fewer images than shots, or the classifier is not found.
    """
    rows = np.asarray(pool, dtype=np.int64)
    labels = batches.split.labels[rows]
    drawn = [draw_shots(labels, max(shots), num_classes=num_classes, seed=seed + draw) for draw in range(draws)]
    needed, places = np.unique(rows[np.stack(drawn)], return_inverse=True)
    return few_shot(
        labelled_features(network, batches, indices=needed),
        places.reshape(draws, num_classes, max(shots)),
        labelled_features(network, batches, indices=validation),
        labelled_features(network, batches, split=test),
        shots=shots,
        regularizations=regularizations,
    )


def labelled_features(
    network: torch.nn.Module,
    batches: StepBatches,
    *,
    indices: npt.ArrayLike | None = None,
    split: ImageSplit | None = None,
) -> Labelled:
    """Features and classes of evaluation images.

    Args:
        network: where the features come from.
        batches: prepare the images.
        indices: rows of the split; all if None.
        split: where the images come from; the training split if None.
    """
    parts = [
        (features(network, images).double().cpu().numpy(), labels.cpu().numpy())
        for images, labels in batches.evaluation_batches(indices, split=split)
    ]
    return Labelled(*(np.concatenate(kind) for kind in zip(*parts, strict=True)))


def _check(images: Labelled, num_classes: int) -> None:
    values, labels = images.features, images.labels
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(labels):
        raise ValueError(
            f"features have shape {list(values.shape)} and labels {list(labels.shape)}, expected [n, D] and [n]"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected from 0 to {num_classes - 1}")
    if not np.isfinite(values).all():
        raise ValueError("features are not finite: the network has diverged")
