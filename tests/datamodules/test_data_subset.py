"""Subsets are nested, stratified, pure; validation is untouched by everything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, carve_validation, index_hash, nested_subset, smallest_complete_size

labelled = st.lists(st.integers(1, 40), min_size=1, max_size=6).flatmap(
    lambda counts: st.permutations([label for label, count in enumerate(counts) for _ in range(count)])
)


@settings(max_examples=60, deadline=None)
@given(labels=labelled, seed=st.integers(0, 2**32))
def test_every_prefix_holds_each_class_within_one_of_its_share(labels: list[int], seed: int) -> None:
    labels_array = np.asarray(labels)
    order = nested_subset(labels_array, len(labels), seed=seed)
    assert sorted(order) == list(range(len(labels)))
    for label in range(labels_array.max() + 1):
        seen = np.cumsum(labels_array[order] == label)
        share = np.mean(labels_array == label)
        assert np.abs(seen - share * np.arange(1, len(labels) + 1)).max() < 1


@settings(max_examples=40, deadline=None)
@given(labels=labelled, seed=st.integers(0, 100), data=st.data())
def test_a_smaller_subset_is_a_prefix_of_a_larger_one(labels: list[int], seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(1, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    np.testing.assert_array_equal(
        nested_subset(labels, small, seed=seed), nested_subset(labels, large, seed=seed)[:small]
    )


@settings(max_examples=40, deadline=None)
@given(labels=labelled, seed=st.integers(0, 100))
def test_every_class_is_present_from_the_stated_size_on(labels: list[int], seed: int) -> None:
    size = smallest_complete_size(labels)
    chosen = nested_subset(labels, size, seed=seed)
    assert set(np.asarray(labels)[chosen]) == set(labels)


def test_equal_classes_are_all_present_from_one_image_per_class_on() -> None:
    labels = np.arange(1000) % 10
    for size in range(10, 60):
        counts = np.bincount(labels[nested_subset(labels, size, seed=5)], minlength=10)
        assert counts.min() >= size // 10
        assert counts.max() <= -(-size // 10)


def test_subsets_depend_on_the_seed_and_on_nothing_else() -> None:
    labels = np.random.default_rng(1).integers(0, 4, 500)
    first = nested_subset(labels, 100, seed=7)
    np.random.default_rng(3).random(10)
    assert index_hash(first) == index_hash(nested_subset(labels, 100, seed=7))
    assert index_hash(first) != index_hash(nested_subset(labels, 100, seed=8))
    # Known answer: a change of the order is a change of the protocol.
    assert index_hash(first)[:16] == "22b6710d44f772c7"


def test_a_different_seed_chooses_different_images_and_not_only_another_order() -> None:
    labels = np.arange(1000) % 2
    first, second = (set(nested_subset(labels, 100, seed=seed)) for seed in (0, 1))
    assert len(first & second) < 40  # 10 are expected by chance


@settings(max_examples=40, deadline=None)
@given(labels=labelled, seed=st.integers(0, 100), data=st.data())
def test_validation_and_pool_partition_the_images(labels: list[int], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(labels) - 1))
    pool, validation = carve_validation(labels, size, seed=seed)
    assert len(validation) == size
    assert sorted([*pool, *validation]) == list(range(len(labels)))
    for label in set(labels):
        share = np.mean(np.asarray(labels) == label)
        assert abs(np.sum(np.asarray(labels)[validation] == label) - share * size) < 1


def test_subset_seeds_never_touch_validation() -> None:
    labels = np.arange(300) % 3
    pool, validation = carve_validation(labels, 60, seed=0)
    for seed in range(5):
        assert not set(pool[nested_subset(labels[pool], 200, seed=seed)]) & set(validation)


def test_the_orders_of_validation_and_subsets_are_unrelated() -> None:
    labels = np.arange(400) % 2
    validation = carve_validation(labels, 100, seed=0)[1]
    assert set(validation) != set(nested_subset(labels, 100, seed=0))


@pytest.mark.parametrize("size", [0, 301, -1])
def test_a_size_outside_the_pool_names_both_numbers(size: int) -> None:
    with pytest.raises(DataError, match=rf"size of {size} .* pool of 300"):
        nested_subset(np.arange(300) % 3, size, seed=0)


def test_validation_must_leave_something_to_train_on() -> None:
    with pytest.raises(DataError, match=r"num_validation 300 .* 300 training images"):
        carve_validation(np.arange(300) % 3, 300, seed=0)
