"""Shift consistency: circular networks are consistent, a constant classifier does not score."""

import numpy as np
import pytest
import torch
from probed_networks import Logits, batches_of, convolutional, every_family, images, left_as_it_was, nano, values
from torch import Tensor, nn
from torch.nn import functional as F

from studies.probes import ProbeError
from studies.probes.presenting import predicted
from studies.probes.shifts import shift_consistency, shifted


def labelled_by(network: nn.Module, pictures: Tensor, batch_size: int = 50) -> list[tuple[Tensor, Tensor]]:
    """Batches that the network classifies correctly."""
    return batches_of(pictures, predicted(network.eval(), pictures)[0], batch_size)


def place_of_the_maximum(pictures: Tensor) -> Tensor:
    """Says in which row of a 16 x 16 image its largest value lies."""
    return F.one_hot(pictures.flatten(1).argmax(1) // 16, 16).float()


def test_a_circular_network_of_stride_1_is_consistent_under_rolls_and_not_under_crops() -> None:
    network = convolutional(nn.ReLU)
    network[-1].bias.data = -network[:-1](images(100)).mean(0) @ network[-1].weight.T  # no class is a favourite
    found = shift_consistency(network, labelled_by(network, images(100)))
    assert values(found, "roll_consistency") == {1: 1, 2: 1, 3: 1, 4: 1}
    assert all(value < 1 for value in values(found, "crop_consistency").values())


def test_a_network_that_reads_places_is_not_consistent() -> None:
    network = Logits(place_of_the_maximum)
    found = shift_consistency(network, labelled_by(network, images(400)), largest_shift=1)
    # Half of the directions, left and right, keep the row; chance agrees on 1 of 16.
    assert values(found, "roll_agreement")[1] == pytest.approx(0.5, abs=0.08)
    assert values(found, "roll_consistency")[1] == pytest.approx((0.5 - 1 / 16) / (1 - 1 / 16), abs=0.08)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_constant_classifier_does_not_score(share: float) -> None:
    labels = (torch.arange(100) >= 100 * share).long()
    network = Logits(lambda pictures: torch.tensor([1.0, 0.0, 0.0]).expand(len(pictures), 3))
    with pytest.raises(ProbeError, match="constant classifier"):
        shift_consistency(network, batches_of(images(100), labels))


def test_a_nearly_constant_classifier_does_not_score_either() -> None:
    """It says class 0 but where a pixel is marked; no shifted image has the mark there."""
    pictures = images(100)
    pictures[:, :, 8, 8] = 0
    pictures[95:, :, 8, 8] = 100
    network = Logits(lambda given: torch.stack([torch.ones(len(given)), (given[:, 0, 8, 8] > 50) * 2.0], dim=1))
    found = shift_consistency(network, labelled_by(network, pictures), largest_shift=2)
    assert set(values(found, "roll_agreement").values()) == {0.95}
    assert all(abs(value) < 1e-9 for value in values(found, "roll_consistency").values())
    assert all(abs(value) < 1e-9 for value in values(found, "crop_consistency").values())


def test_only_images_classified_correctly_count() -> None:
    """Wrong images lose their class under a shift, right ones keep it."""
    pictures, network = images(100), Logits(place_of_the_maximum)
    classes = predicted(network, pictures)[0]
    stays = predicted(network, pictures.roll(1, 3))[0]
    assert torch.equal(classes, stays)
    labels = classes.clone()
    labels[::2] = (labels[::2] + 1) % 16
    found = shift_consistency(network, batches_of(pictures, labels), largest_shift=1)
    assert values(found, "accuracy") == {"": 0.5}
    assert values(found, "num_correct") == {"": 50}
    consistency = next(reading for reading in found.readings if reading.quantity == "roll_consistency")
    assert consistency.num_images == 50


def test_images_are_moved_where_they_should() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    for direction, expected in enumerate(([4, 5, 6, 7], [12, 13, 14, 15], [1, 2, 3, 0], [3, 0, 1, 2])):
        moved = shifted(picture, np.array([direction]), 1, kind="roll")
        assert moved[0, 0, 0].tolist() == expected
    down = shifted(picture, np.array([1]), 2, kind="crop")
    assert torch.equal(down[0, 0, 2:], picture[0, 0, :2])
    assert torch.equal(down[0, 0, :2], picture[0, 0, [2, 1]])  # mirrored: nothing wraps
    zeros = shifted(picture, np.array([3]), 1, kind="crop", padding="zeros")
    assert zeros[0, 0, 1].tolist() == [0, 4, 5, 6]


def test_batches_do_not_matter_and_the_seed_does() -> None:
    network = nano("vit")
    pictures = images(60)
    one, two, other = (
        shift_consistency(network, labelled_by(network, pictures, size), largest_shift=1, num_images=50, seed=seed)
        for size, seed in ((60, 0), (7, 0), (60, 1))
    )
    assert one == two
    assert one != other
    assert {reading.num_images for reading in one.readings} == {50}


@every_family
def test_every_family(family: str) -> None:
    network = nano(family)
    with left_as_it_was(network):
        found = shift_consistency(network, batches_of(images(40), torch.arange(40) % 5), largest_shift=2)
    assert set(values(found, "crop_consistency")) == {1, 2}


def test_mistakes_are_told() -> None:
    network = nano("vit")
    with pytest.raises(ValueError, match="largest_shift=16"):
        shift_consistency(network, batches_of(images()), largest_shift=16)
    with pytest.raises(ProbeError, match="no images"):
        shift_consistency(network, [])
    with pytest.raises(ProbeError, match="diverged"):
        shift_consistency(Logits(lambda given: given.flatten(1) * torch.nan), batches_of(images()))


def test_an_image_keeps_its_direction_whatever_others_are_right() -> None:
    """A row stays under left and right alone, so that the directions drawn for the right images tell the agreement."""
    pictures, network = images(60), Logits(place_of_the_maximum)
    labels = predicted(network, pictures)[0]
    right = torch.arange(60) % 3 == 2
    labels[~right] = (labels[~right] + 1) % 16
    found = shift_consistency(network, batches_of(pictures, labels, 60), largest_shift=1, kinds=("roll",), seed=5)
    directions = np.random.Generator(np.random.Philox(5)).integers(4, size=60)
    assert values(found, "roll_agreement")[1] == pytest.approx((directions[right.numpy()] >= 2).mean())
    assert (directions[right.numpy()] >= 2).mean() != (directions[:20] >= 2).mean(), "the first ones would say other"
