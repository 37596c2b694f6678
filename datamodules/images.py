"""A split of a data set, decoded: uint8 pixels, labels, and a checksum over both.

A split on disk has a hash per image beside it, so that a run verifies exactly the images it reads, while it reads them,
and not a whole data set for a small subset.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datamodules.info import DataError

UInt8Array = npt.NDArray[np.uint8]
UInt32Array = npt.NDArray[np.uint32]
Int64Array = npt.NDArray[np.int64]

_BLOCK_BYTES = 1 << 24  # bytes hashed or counted at a time, so that a memory-mapped split never has to fit in memory
_TAKEN_BYTES = 1 << 20  # bytes gathered, hashed and stored at a time: they stay in a cache in between
_HASH_KEY = 0x726F77


@dataclass(frozen=True)
class ImageSplit:
    """Decoded images of one split.

    Attributes:
        images: uint8 `[n, H, W, C]`, possibly a read-only memory map.
        labels: int64 `[n]`.
        class_names: One name per class, in label order.
        checksum: SHA-256 over the pixels, then the labels, both in row order.
        histogram: How often each channel takes each value, int64 `[C, 256]`; counted on first use when absent.
        row_hashes: `row_hashes` of the images as they were decoded, uint32 `[n]`; None for arrays in memory.
        folder: Where the split lies decoded, for messages.
    """

    images: UInt8Array
    labels: Int64Array
    class_names: tuple[str, ...]
    checksum: str
    histogram: Int64Array | None = field(default=None, repr=False, compare=False)
    row_hashes: UInt32Array | None = field(default=None, repr=False, compare=False)
    folder: Path | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(f"images must be uint8 [n, H, W, C], got {self.images.dtype} {list(self.images.shape)}")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DataError(
                f"labels must be int64 [{len(self.images)}], one per image, "
                f"got {self.labels.dtype} {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_arrays(
        cls, images: UInt8Array, labels: npt.NDArray[np.integer], class_names: tuple[str, ...]
    ) -> "ImageSplit":
        """Wraps arrays already in memory and computes their checksum."""
        codes: Int64Array = np.ascontiguousarray(labels, dtype=np.int64)
        return cls(images, codes, class_names, pixel_checksum(images, codes))

    def read(self, rows: Int64Array, out: UInt8Array) -> None:
        """Copies rows, channels first, and verifies the bytes that were copied.

        Rows are read in ascending order, whatever the order asked for, so that a disk is read forwards.

        Args:
            rows: Rows of the split `[m]`.
            out: Takes them in the order of `rows`, uint8 `[m, C, H * W]`.

        Raises:
            DataError: An image is not the one that was decoded; names folder and row.
        """
        order = np.argsort(rows, kind="stable")
        size, channels = self.images.shape[1], self.images.shape[3]
        step = max(1, _TAKEN_BYTES // max(1, self.images[:1].nbytes))
        for start in range(0, len(rows), step):
            places = order[start : start + step]
            wanted = rows[places]
            taken = self.images[wanted]
            self._check(taken, wanted)
            out[places] = taken.reshape(-1, size * size, channels).transpose(0, 2, 1)

    def verify(self) -> None:
        """Reads every image and the labels and compares them with the checksum.

        Raises:
            DataError: They are not what was decoded; says what to delete.
        """
        found = pixel_checksum(self.images, self.labels)
        if found != self.checksum:
            where = "the split" if self.folder is None else f"the decoded images in {self.folder}"
            raise DataError(
                f"{where}: damaged (SHA-256 is {found[:16]}..., expected {self.checksum[:16]}...)" + self._advice()
            )

    def _check(self, taken: UInt8Array, rows: Int64Array) -> None:
        if self.row_hashes is None:
            return
        differing = np.flatnonzero(row_hashes(taken) != self.row_hashes[rows])
        if len(differing):
            raise DataError(
                f"the decoded image in row {rows[differing[0]]} of {self.folder}/images.npy is damaged{self._advice()}"
            )

    def _advice(self) -> str:
        return "" if self.folder is None else f"; delete {self.folder}, it is decoded again"

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel, in pixel values 0 to 255.

        Computed from an exact histogram in integers, so the result does not depend on chunking, memory layout or
        machine. A constant channel gets standard deviation 1.
        """
        histogram = self.histogram if self.histogram is not None else channel_histogram(self.images)
        means, stds = [], []
        for counts in histogram:
            total = int(counts.sum())
            first = sum(value * int(count) for value, count in enumerate(counts))
            second = sum(value * value * int(count) for value, count in enumerate(counts))
            variance = (second * total - first * first) / total**2 if total else 0.0
            means.append(first / total if total else 0.0)
            stds.append(variance**0.5 or 1.0)
        return tuple(means), tuple(stds)


def pixel_checksum(images: UInt8Array, labels: Int64Array) -> str:
    """SHA-256 (hexadecimal) over the pixels of `images` and then `labels` as little-endian int64."""
    digest = hashlib.sha256()
    for block in row_blocks(images):
        digest.update(np.ascontiguousarray(block).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def row_hashes(images: UInt8Array) -> UInt32Array:
    """A hash of every image: uint32 `[n]` of uint8 `[n, ...]`.

    Multilinear hashing of 32-bit words `s_i` with random 64-bit multipliers, `(sum m_i s_i mod 2^64) >> 32`: any change
    of an image goes unnoticed with probability 2^-32 (Lemire and Kaser 2014, "Strongly universal string hashing is
    fast", arXiv 1202.4961, section 3). Against damage, not against forgery.
    """
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    padding = -flat.shape[1] % 8
    words = (np.pad(flat, ((0, 0), (0, padding))) if padding else flat).view("<u8")
    multipliers = _multipliers(2 * words.shape[1])
    low, high = words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)
    sums = low @ multipliers[: words.shape[1]] + high @ multipliers[words.shape[1] :]
    hashes: UInt32Array = (sums >> np.uint64(32)).astype(np.uint32)
    return hashes


@lru_cache
def _multipliers(count: int) -> npt.NDArray[np.uint64]:
    generator = np.random.Generator(np.random.Philox(key=[0, _HASH_KEY]))
    return generator.integers(2**64, size=count, dtype=np.uint64)


def channel_histogram(images: UInt8Array) -> Int64Array:
    """Counts the values of each channel of uint8 `[n, H, W, C]`: int64 `[C, 256]`."""
    histogram = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for block in row_blocks(images):
        for channel, counts in enumerate(histogram):
            counts += np.bincount(block[..., channel].reshape(-1), minlength=256)
    return histogram


def row_blocks(images: UInt8Array) -> list[UInt8Array]:
    """Cuts an array into views of consecutive rows of about 16 MiB each."""
    rows = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
    return [images[start : start + rows] for start in range(0, len(images), rows)]
