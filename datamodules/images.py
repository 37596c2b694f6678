"""A split of a data set, decoded: uint8 pixels, labels, and a checksum over both."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datamodules.info import DataError

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

_BLOCK_BYTES = 1 << 24  # bytes hashed or counted at a time, so that a memory-mapped split never has to fit in memory


@dataclass(frozen=True)
class ImageSplit:
    """Decoded images of one split.

    Attributes:
        images: uint8 `[n, H, W, C]`, possibly a read-only memory map.
        labels: int64 `[n]`.
        class_names: One name per class, in label order.
        checksum: SHA-256 over the pixels, then the labels, both in row order.
        histogram: How often each channel takes each value, int64 `[C, 256]`; counted on first use when absent.
    """

    images: UInt8Array
    labels: Int64Array
    class_names: tuple[str, ...]
    checksum: str
    histogram: Int64Array | None = field(default=None, repr=False, compare=False)

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
