"""Which images a run may see: validation carved first, then nested stratified subsets; pure functions of the labels.

One *stratified order* is drawn per seed and the subset of size N is its first N entries, so subsets are nested by
construction. In every prefix the count of each class lies within one of its proportional share: the j-th image of a
class with frequency p = n_c / n is placed in the window of slots `floor((j - 1) / p) + 1 .. ceil(j / p)`, windows which
earliest-deadline-first scheduling always meets (Tijdeman 1980, "The chairman assignment problem"; Baruah et al. 1996,
"Proportionate progress").

With equal class counts every prefix of `num_classes` or more images holds every class. With unequal ones a rare class
must appear by `ceil(n / n_c)` (`smallest_complete_size`): earlier presence and proportionality exclude each other.
"""

import hashlib
import heapq

import numpy as np
import numpy.typing as npt

from datamodules.images import Int64Array
from datamodules.info import DataError

_SUBSET_KEY, _VALIDATION_KEY = 0x737562736574, 0x76616C  # separate the random streams of subsets and of validation


def carve_validation(labels: npt.ArrayLike, num_validation: int, *, seed: int) -> tuple[Int64Array, Int64Array]:
    """Splits the training images into a pool and a stratified validation set.

    Args:
        labels: Training labels `[n]`.
        num_validation: Images to set aside; 0 is allowed.
        seed: The validation seed, the same for all sizes and families. A study gives each replicate its own.

    Returns:
        Indices into `labels` of the pool and of the validation set, each sorted.

    Raises:
        DataError: `num_validation` leaves no image to train on.
    """
    pool = np.asarray(labels)
    if not 0 <= num_validation < len(pool):
        raise DataError(f"num_validation {num_validation} must be at least 0 and below the {len(pool)} training images")
    held_out = _stratified_order(pool, seed, _VALIDATION_KEY, num_validation)
    remain = np.ones(len(pool), dtype=np.bool_)
    remain[held_out] = False
    return np.flatnonzero(remain), np.sort(held_out)


def nested_subset(labels: npt.ArrayLike, size: int, *, seed: int) -> Int64Array:
    """The first `size` images of the stratified order of `seed`.

    Args:
        labels: Labels of the pool `[n]`.
        size: Images wanted.
        seed: The subset seed.

    Returns:
        Indices into `labels`, in stratified order; a prefix of those of any larger size.

    Raises:
        DataError: `size` is not between 1 and the size of the pool.
    """
    pool = np.asarray(labels)
    if not 1 <= size <= len(pool):
        raise DataError(
            f"a training size of {size} was asked of a pool of {len(pool)} images (validation is carved first)"
        )
    return _stratified_order(pool, seed, _SUBSET_KEY, size)


def smallest_complete_size(labels: npt.ArrayLike) -> int:
    """Smallest size from which every subset, whatever its seed, holds every class that occurs in `labels`."""
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return -(-int(counts.sum()) // int(counts.min()))


def index_hash(indices: npt.ArrayLike) -> str:
    """SHA-256 (hexadecimal) of the indices in their order, as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").data).hexdigest()


def _stratified_order(labels: npt.NDArray[np.integer], seed: int, key: int, length: int) -> Int64Array:
    """The first `length` places of the order, every prefix of which holds each class within one of its share."""
    if labels.ndim != 1 or len(labels) == 0:
        raise DataError(f"labels must be a non-empty vector, got shape {list(labels.shape)}")
    generator = np.random.Generator(np.random.Philox(key=[seed, key]))
    total = len(labels)
    shuffled = generator.permutation(total)
    members = shuffled[np.argsort(labels[shuffled], kind="stable")]  # class by class, shuffled within
    counts = np.unique(labels, return_counts=True)[1]
    rank = np.concatenate([np.arange(count) for count in counts])
    size = np.repeat(counts, counts)
    release = rank * total // size
    deadline = -(-(rank + 1) * total // size)
    lottery = generator.permutation(total)  # breaks ties of equal deadlines

    order = np.empty(length, dtype=np.int64)
    released_in_time = np.flatnonzero(release < length)  # the others cannot be among the first
    keys = (lottery[released_in_time], deadline[released_in_time], release[released_in_time])
    by_release = released_in_time[np.lexsort(keys)]
    jobs = list(
        zip(deadline[by_release].tolist(), lottery[by_release].tolist(), members[by_release].tolist(), strict=True)
    )
    releases = release[by_release].tolist()
    waiting: list[tuple[int, int, int]] = []
    released = 0
    for slot in range(length):
        while released < len(releases) and releases[released] <= slot:
            heapq.heappush(waiting, jobs[released])
            released += 1
        order[slot] = heapq.heappop(waiting)[2]
    return order
