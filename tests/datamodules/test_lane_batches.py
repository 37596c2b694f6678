"""The batches of several runs at once: the bits of each run's own, from one pool, without a look from the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from datamodules import DataError, ImageSplit, LaneBatches, PixelPermutation, StepBatches

SIZES = (5, 50, 199, 17)  # below, above and not a multiple of the batch


def real_like(seed: int) -> ImageSplit:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    return ImageSplit.from_arrays(images, generator.integers(0, 4, 200), tuple("abcd"))


def runs(
    augmentation: tuple[str, ...] = (), scope: str = "none", *, splits: int = 2, device: str = "cpu"
) -> list[StepBatches]:
    return [
        StepBatches(
            real_like(lane % splits),
            np.random.default_rng(lane).permutation(200)[:size],
            batch_size=16,
            order_seed=lane,
            augmentation_seed=lane + 2**32,
            augmentation=augmentation,
            permutation=PixelPermutation(scope, 16, seed=0),
            device=device,
            resident=lane == 0,
        )
        for lane, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize("scope", ["none", "pixels"])
@pytest.mark.parametrize("augmentation", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_a_lane_sees_the_bits_of_its_own_batches(augmentation: tuple[str, ...], scope: str) -> None:
    lanes = runs(augmentation, scope)
    together = LaneBatches(lanes)
    rows = together.rows_between(3, 20)
    assert rows.shape == (17, 4, 16)
    for step, of_step in enumerate(rows, start=3):
        images, labels = together.batch(of_step, torch.tensor([step]))
        for lane, alone in enumerate(lanes):
            expected_images, expected_labels = alone.batch_at(step)
            assert torch.equal(images[lane], expected_images)
            assert torch.equal(labels[lane], expected_labels)


def test_what_lanes_share_lies_in_the_pool_once() -> None:
    shared = runs(splits=1)
    assert LaneBatches(shared).num_pooled == len(np.unique(np.concatenate([one.indices for one in shared])))
    apart = runs(splits=4)
    assert LaneBatches(apart).num_pooled == sum(SIZES)


def test_making_a_batch_never_waits_for_the_host() -> None:
    """On fake CUDA tensors a value asked for by the host, or a tensor left on the CPU, raises."""
    lanes = runs(("crop", "flip"), "pixels")
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:
        together = LaneBatches.__new__(LaneBatches)
        for name, value in vars(LaneBatches(lanes)).items():
            moved = fake.from_tensor(value) if isinstance(value, torch.Tensor) else value
            setattr(together, name, moved.to("cuda") if isinstance(moved, torch.Tensor) else moved)
        rows = torch.zeros(4, 16, dtype=torch.int64, device="cuda")
        images, labels = together.batch(rows, torch.zeros(1, dtype=torch.int64, device="cuda"))
    assert (images.shape, images.device.type) == ((4, 16, 3, 16, 16), "cuda")
    assert (labels.shape, labels.device.type) == ((4, 16), "cuda")


def test_runs_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match="one batch size"):
        LaneBatches([runs()[0], runs(("crop",))[1]])
    with pytest.raises(DataError, match="2 permutations"):
        LaneBatches([runs()[0], runs(scope="pixels")[1]])
