"""Batches are pure functions of the step; every seed changes its own thing and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, ImageSplit, Normalization, PixelPermutation, StepBatches
from datamodules.augment import random_integers, source_pixels

CPU = torch.device("cpu")
IDENTITY = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def split() -> ImageSplit:
    """60 images whose pixels name the image, the row and the column."""
    images = np.empty((60, 8, 8, 3), dtype=np.uint8)
    images[..., 0] = 1 + np.arange(60)[:, None, None]
    images[..., 1] = 1 + np.arange(8)[None, :, None]
    images[..., 2] = 1 + np.arange(8)[None, None, :]
    return ImageSplit.from_arrays(images, np.arange(60) % 3, ("a", "b", "c"))


def build(split: ImageSplit, **changes: object) -> StepBatches:
    arguments = {"batch_size": 16, "order_seed": 0, "augmentation_seed": 0, "normalization": IDENTITY} | changes
    return StepBatches(split, **arguments)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(examples=st.integers(1, 60), batch=st.integers(1, 150), epochs=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_no_image_is_dropped_and_none_is_seen_more_often(examples: int, batch: int, epochs: int, seed: int) -> None:
    images = np.zeros((60, 1, 1, 1), dtype=np.uint8)
    split = ImageSplit.from_arrays(images, np.zeros(60, dtype=np.int64), ("a", "b"))
    batches = StepBatches(split, np.arange(examples) + 60 - examples, batch_size=batch, order_seed=seed)
    steps = epochs * examples  # a whole number of epochs: steps * batch places
    stream = np.concatenate([batches.indices_at(step) for step in range(steps)])
    assert len(stream) == steps * batch
    counts = np.bincount(stream, minlength=60)
    assert set(counts[60 - examples :]) == {epochs * batch}
    assert counts[: 60 - examples].sum() == 0
    for epoch in range(epochs):  # each epoch is a permutation
        assert len(set(stream[epoch * examples : (epoch + 1) * examples])) == examples


def test_epochs_differ_in_order(split: ImageSplit) -> None:
    batches = build(split, batch_size=60)
    assert not np.array_equal(batches.indices_at(0), batches.indices_at(1))


def test_a_set_smaller_than_a_batch_wraps(split: ImageSplit) -> None:
    batches = StepBatches(split, [3, 5, 7], batch_size=8, order_seed=0)
    images, labels = batches.batch_at(4)
    assert images.shape == (8, 3, 8, 8)
    assert set(batches.indices_at(4)) == {3, 5, 7}
    np.testing.assert_array_equal(labels.numpy(), split.labels[batches.indices_at(4)])


@pytest.mark.parametrize("augmentation", [(), ("crop",), ("flip",), ("crop", "flip")])
@pytest.mark.parametrize("scope", ["none", "pixels"])
def test_a_batch_does_not_depend_on_what_was_asked_before(
    split: ImageSplit, augmentation: tuple[str, ...], scope: str
) -> None:
    arguments = {"augmentation": augmentation, "permutation": PixelPermutation(scope, 8)}  # type: ignore[arg-type]
    first, second = build(split, **arguments), build(split, **arguments)
    expected = {step: first.batch_at(step) for step in range(12)}
    torch.manual_seed(123)
    np.random.default_rng(5).random()
    state = torch.get_rng_state()
    for step in (11, 3, 3, 0, 7, 11):
        images, labels = second.batch_at(step)
        assert torch.equal(images, expected[step][0])
        assert torch.equal(labels, expected[step][1])
    assert torch.equal(state, torch.get_rng_state())  # no global generator was touched


def test_each_seed_changes_only_its_own_thing(split: ImageSplit) -> None:
    augmented = {"augmentation": ("crop", "flip")}
    base = build(split, **augmented)
    other_order = build(split, **augmented, order_seed=1)
    other_augmentation = build(split, **augmented, augmentation_seed=1)
    assert not np.array_equal(base.indices_at(0), other_order.indices_at(0))
    np.testing.assert_array_equal(base.indices_at(5), other_augmentation.indices_at(5))
    assert not torch.equal(base.batch_at(5)[0], other_augmentation.batch_at(5)[0])
    sources = [source_pixels(("crop", "flip"), seed=0, step=5, batch_size=16, image_size=8, device=CPU)[0]] * 2
    assert torch.equal(*sources)
    plain, reordered = build(split), build(split, augmentation_seed=1)
    assert torch.equal(plain.batch_at(5)[0], reordered.batch_at(5)[0])  # nothing to augment


def test_images_come_with_their_labels_and_pixels(split: ImageSplit) -> None:
    batches = build(split)
    images, labels = batches.batch_at(2)
    rows = batches.indices_at(2)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(images.numpy(), split.images[rows].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(labels.numpy(), split.labels[rows])


def test_flip_mirrors_half_of_the_images_and_only_left_to_right(split: ImageSplit) -> None:
    batches = build(split, augmentation=("flip",), batch_size=60)
    mirrored = 0
    for step in range(20):
        images = batches.batch_at(step)[0].numpy()
        plain = split.images[batches.indices_at(step)].transpose(0, 3, 1, 2)
        same = (images == plain).all((1, 2, 3))
        assert ((images == plain[..., ::-1]).all((1, 2, 3)) | same).all()
        mirrored += int((~same).sum())
    assert 500 < mirrored < 700  # of 1,200; standard deviation 17


def test_crop_shifts_by_at_most_four_and_fills_with_the_mean_colour(split: ImageSplit) -> None:
    batches = build(split, augmentation=("crop",), batch_size=60)
    shifts = set()
    for step in range(20):
        images = batches.batch_at(step)[0].numpy()
        for image, row in zip(images, batches.indices_at(step), strict=True):
            inside = image[0] > 0
            assert set(image[0][inside]) == {row + 1.0}
            assert (image[:, ~inside] == 0).all()  # zero after normalisation is the mean
            vertical = set((image[1] - 1 - np.arange(8)[:, None])[inside])
            horizontal = set((image[2] - 1 - np.arange(8)[None, :])[inside])
            assert len(vertical) == len(horizontal) == 1
            shifts.add((vertical.pop(), horizontal.pop()))
    assert shifts == {(down, right) for down in range(-4, 5) for right in range(-4, 5)}


def test_the_permutation_comes_after_the_augmentation(split: ImageSplit) -> None:
    permutation = PixelPermutation("pixels", 8, seed=2)
    augmented = build(split, augmentation=("crop", "flip"))
    permuted = build(split, augmentation=("crop", "flip"), permutation=permutation)
    expected = augmented.batch_at(3)[0].flatten(2)[:, :, torch.from_numpy(permutation.table())]
    assert torch.equal(permuted.batch_at(3)[0].flatten(2), expected)
    restored = permuted.batch_at(3)[0].flatten(2)[:, :, torch.from_numpy(permutation.inverse_table())]
    assert torch.equal(restored, augmented.batch_at(3)[0].flatten(2))


def test_evaluation_is_permuted_and_normalised_as_training_is(split: ImageSplit) -> None:
    permutation = PixelPermutation("patches", 8, 4, 1)
    batches = StepBatches(split, batch_size=60, order_seed=0, permutation=permutation)
    images, labels = batches.batch_at(0)
    order = batches.indices_at(0)
    evaluated = list(batches.evaluation_batches(order, batch_size=25))
    assert [len(part) for part, _ in evaluated] == [25, 25, 10]
    assert torch.equal(torch.cat([part for part, _ in evaluated]), images)
    assert torch.equal(torch.cat([part for _, part in evaluated]), labels)


def test_other_rows_of_equal_number_are_not_those_prepared_before(split: ImageSplit) -> None:
    batches = StepBatches(split, batch_size=4, order_seed=0)
    (first,), (second,) = (list(batches.evaluation_batches(rows)) for rows in ([0, 1], [2, 3]))
    (expected,) = StepBatches(split, batch_size=4, order_seed=0).evaluation_batches([2, 3])
    assert torch.equal(second[0], expected[0])
    assert not torch.equal(first[0], second[0])


def test_evaluation_of_another_split_keeps_the_training_statistics(split: ImageSplit) -> None:
    dark = ImageSplit.from_arrays(split.images // 2, split.labels, split.class_names)
    batches = StepBatches(split, batch_size=4, order_seed=0)
    images, _ = next(iter(batches.evaluation_batches([0], split=dark)))
    mean, std = split.channel_statistics()
    expected = (dark.images[0].transpose(2, 0, 1) - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(images[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalisation_is_that_of_the_split_whatever_the_subset(split: ImageSplit) -> None:
    mean, std = split.channel_statistics()
    np.testing.assert_allclose(mean, split.images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, split.images.std((0, 1, 2)), rtol=1e-12)
    assert StepBatches(split, [1], batch_size=2, order_seed=0).normalization == Normalization(mean, std)
    images = torch.cat([part for part, _ in StepBatches(split, batch_size=2, order_seed=0).evaluation_batches()])
    np.testing.assert_allclose(images.mean((0, 2, 3)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 2, 3), correction=0).numpy(), 1, atol=1e-5)


def test_images_left_on_disk_give_the_same_batches(split: ImageSplit) -> None:
    arguments = {"augmentation": ("crop", "flip"), "indices": np.arange(5, 50)}
    for step in range(5):
        expected, labels = build(split, **arguments).batch_at(step)
        images, same_labels = build(split, **arguments, resident=False).batch_at(step)
        assert torch.equal(images, expected)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_a_batch_without_changing_it(split: ImageSplit, world_size: int) -> None:
    batches = build(split, augmentation=("crop", "flip"))
    whole, labels = batches.batch_at(3)
    for rank in range(world_size):
        images, own_labels = batches.batch_at(3, rank=rank, world_size=world_size)
        assert torch.equal(images, whole[rank::world_size])
        assert torch.equal(own_labels, labels[rank::world_size])


def test_random_integers_are_uniform_and_independent() -> None:
    draws = torch.stack([random_integers(3, step, (3, 64), CPU) for step in range(500)]).numpy()
    assert draws.min() >= 0
    assert len(np.unique(draws)) == draws.size
    counts = np.bincount((draws % 9).ravel(), minlength=9)
    assert ((counts - draws.size / 9) ** 2 / (draws.size / 9)).sum() < 30  # chi-squared, 8 degrees: p = .0002
    bits = (draws[..., None] >> np.arange(62)) & 1
    assert np.abs(bits.reshape(-1, 62).mean(0) - 0.5).max() < 0.01
    correlation = np.corrcoef((draws % 9).transpose(1, 0, 2).reshape(3, -1))
    assert np.abs(correlation - np.eye(3)).max() < 0.03
    other_seed = random_integers(4, 0, (3, 64), CPU).numpy()
    assert not np.array_equal(other_seed, draws[0])
    assert not np.array_equal(random_integers(0, 3, (3, 64), CPU), random_integers(3, 0, (3, 64), CPU))


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 2), (2**62, 10**6)])
def test_random_integers_are_splitmix64(seed: int, step: int) -> None:
    """Against the published algorithm in Python's unbounded integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        return value ^ value >> 31

    streams = [mix(word * golden & mask) for word in (seed, step)]
    key = mix(streams[0] ^ (streams[1] << 32 & mask | streams[1] >> 32))
    expected = [[mix(key + (slot * 3 + draw + 1) * golden & mask) >> 2 for slot in range(5)] for draw in range(3)]
    assert random_integers(seed, step, (3, 5), CPU).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"indices": [60]}, "none outside"),
        ({"indices": []}, "at least one"),
        ({"augmentation": ("rotate",)}, "'rotate' is unknown; choose from crop, flip"),
        ({"permutation": PixelPermutation("pixels", 16)}, "for images of 16 pixels, the split has 8"),
    ],
)
def test_contradictions_are_refused(split: ImageSplit, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(split, **changes)


def test_a_negative_step_and_an_uneven_share_are_refused(split: ImageSplit) -> None:
    with pytest.raises(DataError, match="step -1"):
        build(split).batch_at(-1)
    with pytest.raises(DataError, match="16 images cannot be split evenly over 3"):
        build(split).batch_at(0, world_size=3)
