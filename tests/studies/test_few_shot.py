"""Few-shot linear evaluation: answers known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules import DialData, StepBatches
from models import build_network
from studies.few_shot import (
    REGULARIZATIONS,
    FewShot,
    Labelled,
    LinearMap,
    draw_shots,
    evaluate_few_shot,
    few_shot,
    labelled_features,
    ridge,
)

GENERATOR = np.random.default_rng


def clouds(count: int, *, seed: int, classes: int = 3, width: int = 8, distance: float = 6.0) -> Labelled:
    """Normal clouds around the first axes, `distance` standard deviations out."""
    generator = GENERATOR(seed)
    labels = np.arange(count) % classes
    return Labelled(generator.normal(size=(count, width)) + distance * np.eye(width)[labels], labels)


def draws_of(images: Labelled, shots: int, *, classes: int = 3, draws: int = 4) -> Any:
    return np.stack([draw_shots(images.labels, shots, num_classes=classes, seed=seed) for seed in range(draws)])


@pytest.mark.parametrize(("count", "width"), [(40, 6), (9, 30)], ids=["tall", "wide"])
def test_ridge_is_least_squares_with_augmented_rows(count: int, width: int) -> None:
    images = clouds(count, seed=0, width=width, distance=1.0)
    strengths = (1e-4, 0.3)
    targets = np.where(np.eye(3)[images.labels] == 1, 1.0, -1.0)
    variance = ((images.features - images.features.mean(axis=0)) ** 2).sum()
    for strength, found in zip(strengths, ridge(images, strengths, num_classes=3), strict=True):
        with_intercept = np.hstack([images.features, np.ones((count, 1))])
        penalty = np.sqrt(strength * variance) * np.eye(width, width + 1)  # none on the intercept
        rows, values = np.vstack([with_intercept, penalty]), np.vstack([targets, np.zeros((width, 3))])
        expected, *_ = np.linalg.lstsq(rows, values, rcond=None)
        assert found.weights == pytest.approx(expected[:-1], abs=1e-9)
        assert found.intercept == pytest.approx(expected[-1], abs=1e-9)


def test_separable_features_are_told_apart_from_few_images() -> None:
    train, held_out, test = (clouds(count, seed=seed) for seed, count in enumerate((60, 60, 300)))
    (one, five) = few_shot(train, draws_of(train, 5), held_out, test, shots=(1, 5))
    assert (one.shots, five.shots) == (1, 5)
    assert five.mean > 0.99
    assert one.mean > 0.8
    assert min(five.accuracies) > 0.98


def test_permuted_labels_give_chance() -> None:
    def permuted(images: Labelled, seed: int) -> Labelled:
        return Labelled(images.features, GENERATOR(seed).permutation(images.labels))

    train, held_out, test = (permuted(clouds(count, seed=seed), seed) for seed, count in enumerate((300, 300, 6000)))
    (found,) = few_shot(train, draws_of(train, 20, draws=8), held_out, test, shots=(20,))
    # 8 draws that share 6,000 test images: the standard error is below sqrt(2/9 / 6000) = .006
    assert found.mean == pytest.approx(1 / 3, abs=0.025)


def test_neither_scale_nor_place_nor_rotation_of_the_features_matters() -> None:
    parts = [clouds(count, seed=seed, distance=1.5) for seed, count in enumerate((60, 60, 200))]
    rotation, _ = np.linalg.qr(GENERATOR(9).normal(size=(8, 8)))
    moved = [Labelled(1e3 * part.features @ rotation + 50, part.labels) for part in parts]
    draws = draws_of(parts[0], 5)
    assert few_shot(parts[0], draws, *parts[1:], shots=(5,)) == few_shot(moved[0], draws, *moved[1:], shots=(5,))


def test_the_regularisation_is_chosen_on_held_out_images_and_never_on_test() -> None:
    train, held_out, test = (clouds(count, seed=seed, distance=1.0) for seed, count in enumerate((30, 90, 200)))
    draws = draws_of(train, 3, draws=6)
    (found,) = few_shot(train, draws, held_out, test, shots=(3,))
    wrong = Labelled(test.features, (test.labels + 1) % 3)
    (other,) = few_shot(train, draws, held_out, wrong, shots=(3,))
    assert other.regularizations == found.regularizations
    for draw, strength, accuracy in zip(draws, found.regularizations, found.accuracies, strict=True):
        rows = draw.ravel()
        maps = ridge(Labelled(train.features[rows], train.labels[rows]), REGULARIZATIONS, num_classes=3)
        scores = dict(zip(REGULARIZATIONS, (one.accuracy(held_out) for one in maps), strict=True))
        assert strength == max(one for one, score in scores.items() if score == max(scores.values()))
        assert accuracy == maps[REGULARIZATIONS.index(strength)].accuracy(test)
    assert len(set(found.regularizations)) > 1


def test_features_that_are_all_alike_leave_the_intercept() -> None:
    images = Labelled(np.ones((6, 2)), np.array([0, 0, 0, 1, 1, 2]))
    (found,) = ridge(images, (0.1,), num_classes=3)
    assert not found.weights.any()
    assert found.intercept == pytest.approx([0, -1 / 3, -2 / 3])


def test_draws_are_stratified_nested_and_their_own() -> None:
    labels = GENERATOR(0).permutation(np.arange(40) % 4)
    drawn = draw_shots(labels, 6, num_classes=4, seed=3)
    assert (labels[drawn] == np.arange(4)[:, None]).all()
    assert len(np.unique(drawn)) == 24
    assert (draw_shots(labels, 2, num_classes=4, seed=3) == drawn[:, :2]).all()
    assert (draw_shots(labels, 6, num_classes=4, seed=4) != drawn).any()
    with pytest.raises(ValueError, match="shots=11: expected from 1 to the 10 images there are of class 0"):
        draw_shots(labels, 11, num_classes=4, seed=0)
    with pytest.raises(ValueError, match="shots=0"):
        draw_shots(labels, 0, num_classes=4, seed=0)


def test_the_interval_is_students() -> None:
    found = FewShot(5, (0.5, 0.6, 0.7), (1.0, 1.0, 1.0))
    low, high = found.interval()
    assert found.mean == pytest.approx(0.6)
    assert (low, high) == pytest.approx((0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5))
    with pytest.raises(ValueError, match="at least 2 draws"):
        FewShot(5, (0.5,), (1.0,)).interval()


def test_what_does_not_fit_is_refused() -> None:
    images = clouds(30, seed=0)
    draws = draws_of(images, 3)
    with pytest.raises(ValueError, match=r"shots=\(4,\): the draws have shape \[4, 3, 3\]"):
        few_shot(images, draws, images, images, shots=(4,))
    with pytest.raises(ValueError, match="expected positive numbers"):
        ridge(images, (0.0,), num_classes=3)
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, expected from 0 to 1"):
        ridge(images, (1.0,), num_classes=2)
    with pytest.raises(ValueError, match="not finite: the network has diverged"):
        ridge(Labelled(images.features * np.nan, images.labels), (1.0,), num_classes=3)
    with pytest.raises(ValueError, match=r"expected \[n, D\] and \[n\]"):
        few_shot(images, draws, Labelled(images.features, images.labels[:2]), images, shots=(1,))


class Pixels(nn.Module):
    """Its features are the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images.flatten(1))
        return logits


def dial_batches() -> tuple[StepBatches, Any]:
    dial = DialData(num_train=600, num_test=400, patch_size=16, amplitude=12.0)
    return StepBatches(dial.load("train"), batch_size=16, order_seed=0), dial.load("test")


def test_features_of_a_data_set_are_those_of_its_images() -> None:
    batches, test = dial_batches()
    rows = np.array([5, 3, 400])
    found = labelled_features(Pixels(), batches, indices=rows)
    images, labels = batches.evaluation_batch(rows)
    assert found.features.dtype == np.float64
    assert (found.features == images.flatten(1).double().numpy()).all()
    assert (found.labels == labels.numpy()).all()
    assert len(labelled_features(Pixels(), batches, split=test).labels) == 400


def test_a_network_is_evaluated_on_images() -> None:
    batches, test = dial_batches()
    network = build_network("resnet", "nano", image_size=16, in_channels=1, num_classes=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    asked: dict[str, Any] = {"pool": np.arange(400), "validation": np.arange(400, 600), "test": test, "num_classes": 2}
    for one in (network, Pixels()):
        found = evaluate_few_shot(one, batches, **asked, shots=(2, 10), draws=3, seed=4)
        again = evaluate_few_shot(one, batches, **asked, shots=(10,), draws=3, seed=4)
        assert found[1] == again[0]
        assert [result.shots for result in found] == [2, 10]
    assert found[1].mean > 0.9  # the signal is loud and in one place: pixels are features enough
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    wanted = draw_shots(batches.split.labels[:400], 10, num_classes=2, seed=4).ravel()
    pixels = labelled_features(Pixels(), batches, indices=wanted)
    held_out, tested = (
        labelled_features(Pixels(), batches, indices=asked["validation"]),
        labelled_features(Pixels(), batches, split=test),
    )
    (by_hand,) = few_shot(pixels, np.arange(20).reshape(1, 2, 10), held_out, tested, shots=(10,))
    assert by_hand.accuracies[0] == pytest.approx(found[1].accuracies[0], abs=0.01)


def test_a_map_says_the_class_of_the_highest_score() -> None:
    both = LinearMap(np.array([[1.0, -1.0]]), np.array([0.0, 0.5]))
    assert both.accuracy(Labelled(np.array([[1.0], [0.0], [-1.0]]), np.array([0, 1, 0]))) == pytest.approx(2 / 3)
