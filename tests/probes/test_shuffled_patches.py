"""Patch shuffling: what a network that knows no order keeps, and what one that reads places loses."""

import numpy as np
import pytest
import torch
from probed_networks import Logits, batches_of, every_family, images, left_as_it_was, nano, values
from torch import Tensor
from torch.nn import functional as F

from studies.probes import ProbeError, shuffled_patches
from studies.probes.presenting import predicted
from studies.probes.shuffled_patches import patch_shuffle, shuffled


def corner(pictures: Tensor) -> Tensor:
    """Says which of four values stands in the first pixel."""
    return F.one_hot(pictures[:, 0, 0, 0].long(), 4).float()


def corners(count: int) -> tuple[Tensor, Tensor]:
    """Images of one of four values in their upper left quarter, whose other quarters hold the other values."""
    labels = torch.arange(count) % 4
    quarters = (labels[:, None] + torch.arange(4)) % 4
    return F.interpolate(quarters.reshape(-1, 1, 2, 2).float(), scale_factor=8), labels


def test_patches_change_places() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = shuffled(picture, torch.tensor([[1, 0, 2, 3]]), 2)
    assert moved[0, 0].tolist() == [[2, 3, 0, 1], [6, 7, 4, 5], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_a_network_that_reads_one_place_keeps_nothing() -> None:
    pictures, labels = corners(400)
    found = patch_shuffle(Logits(corner), batches_of(pictures, labels), num_images=400)
    retained = values(found, "patch_shuffle_retained")
    assert retained[1] == 1
    assert all(retained[grid] == pytest.approx(0, abs=0.1) for grid in (2, 4, 8))
    assert values(found, "chance_accuracy") == {"": 0.25}
    assert values(found, "shuffled_accuracy")[2] == pytest.approx(0.25, abs=0.08)


def test_chance_is_that_of_the_commonest_class() -> None:
    """Says class 0 unless the corner says 1, on classes of 3 to 1: what remains is less than the accuracy tells."""
    labels = (torch.arange(400) % 4 == 0).long()
    pictures = torch.zeros(400, 1, 16, 16)
    pictures[:, 0, 0, 0] = labels.float()
    found = patch_shuffle(Logits(corner), batches_of(pictures, labels), grids=(1, 8), num_images=400)
    assert values(found, "shuffled_accuracy")[8] > 0.7
    assert values(found, "patch_shuffle_retained")[8] == pytest.approx(1 / 64, abs=0.05)


def test_a_transformer_without_positions_keeps_everything_on_its_own_grid() -> None:
    network, pictures = nano("vit", "nopos").eval(), images(100)
    labels = predicted(network, pictures)[0]
    retained = values(patch_shuffle(network, batches_of(pictures, labels)), "patch_shuffle_retained")
    assert retained[1] == retained[2] == retained[4] == 1
    assert retained[8] < 1


def test_nothing_is_undefined_silently() -> None:
    labels = (torch.arange(100) >= 90).long()
    constant = Logits(lambda given: torch.tensor([1.0, 0.0]).expand(len(given), 2))
    with pytest.raises(ProbeError, match="90 of 100 images correctly, and whoever always says the commonest class 90"):
        patch_shuffle(constant, batches_of(images(100), labels))


def test_grids_that_do_not_divide_the_image_are_left_out() -> None:
    pictures, labels = images(40, 1, 28), torch.arange(40) % 5
    network = nano("resnet", image_size=28)
    labels = predicted(network.eval(), pictures)[0]
    assert set(values(patch_shuffle(network, batches_of(pictures, labels)), "patch_shuffle_retained")) == {1, 2, 4}
    with pytest.raises(ProbeError, match="images of 28 x 28 pixels cannot be cut into equal patches, 8 along each"):
        patch_shuffle(network, batches_of(pictures, labels), grids=(1, 8))


def test_batches_do_not_matter() -> None:
    network, pictures = nano("vit").eval(), images(60)
    labels = predicted(network, pictures)[0]
    one, two = (patch_shuffle(network, batches_of(pictures, labels, size), num_images=50) for size in (60, 7))
    assert one == two
    assert {reading.num_images for reading in one.readings} == {50}


@every_family
def test_every_family(family: str) -> None:
    network = nano(family)
    labels = predicted(network.eval(), images(40))[0]
    with left_as_it_was(network):
        found = patch_shuffle(network, batches_of(images(40), labels))
    assert values(found, "patch_shuffle_retained")[1] == 1


def test_each_grid_has_permutations_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one grid do not depend on which others are asked for, nor share the stream of another."""
    orders: dict[int, Tensor] = {}

    def spy(pictures: Tensor, order: Tensor, grid: int) -> Tensor:
        orders[grid] = order
        return shuffled(pictures, order, grid)

    monkeypatch.setattr(shuffled_patches, "shuffled", spy)
    pictures, labels = corners(20)
    patch_shuffle(Logits(corner), batches_of(pictures, labels, 20), grids=(2, 4), seed=3)
    for grid in (2, 4):
        generator = np.random.Generator(np.random.Philox(key=[3, grid]))
        assert orders[grid].tolist() == [generator.permutation(grid**2).tolist() for _ in range(20)]


def test_a_grid_named_twice_has_one_reading_and_the_whole_image_may_be_asked_for_alone() -> None:
    pictures, labels = corners(80)
    twice, once = (patch_shuffle(Logits(corner), batches_of(pictures, labels), grids=given) for given in ((2, 2), (2,)))
    assert twice == once
    whole = patch_shuffle(Logits(corner), batches_of(pictures, labels), grids=(1,))
    assert values(whole, "patch_shuffle_retained") == {1: 1}
