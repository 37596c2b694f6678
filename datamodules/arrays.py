"""Images that are arrays already: `.npy` files, an `.npz` archive, or arrays in memory."""

from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from datamodules.images import ImageSplit, UInt8Array
from datamodules.info import DataError, DataInfo
from datamodules.source import LABEL_PATTERN, DataSource, Split, fingerprint

_FORMAT = "arrays-1"  # part of the fingerprint: a change of the reading must change it
_FIELDS = ("train_images", "train_labels", "test_images", "test_labels")

ArrayOrPath = npt.NDArray[np.generic] | Path


class ArrayData(DataSource):
    """Images `[n, H, W]` or `[n, H, W, C]` of uint8 with integer labels `[n]` from 0.

    Give either `archive`, an `.npz` file with arrays named like the four fields, or the four fields themselves, as
    paths of `.npy` files or, in Python, as arrays.

    Attributes:
        kind: "arrays".
        archive: An `.npz` file.
        train_images: Training images.
        train_labels: Their labels.
        test_images: Test images.
        test_labels: Their labels.
        class_names: One name per class; the label numbers if empty.
        label: Short name for figures.
    """

    kind: Literal["arrays"] = "arrays"
    archive: Path | None = None
    train_images: ArrayOrPath | None = None
    train_labels: ArrayOrPath | None = None
    test_images: ArrayOrPath | None = None
    test_labels: ArrayOrPath | None = None
    class_names: tuple[str, ...] = ()
    label: str = Field(default="arrays", pattern=LABEL_PATTERN)

    @model_validator(mode="after")
    def _check(self) -> "ArrayData":
        given = [field for field in _FIELDS if getattr(self, field) is not None]
        if (self.archive is None) != (len(given) == len(_FIELDS)) or (self.archive is not None and given):
            raise ValueError(f"give either archive or all of {', '.join(_FIELDS)}; given: {', '.join(given) or 'none'}")
        return self

    def describe(self) -> DataInfo:
        """Facts from the arrays; their contents are hashed."""
        train, test = self.load("train"), self.load("test")
        if train.images.shape[1:] != test.images.shape[1:]:
            raise DataError(
                f"training images are {list(train.images.shape[1:])}, test images {list(test.images.shape[1:])}; "
                "height, width and channels must agree"
            )
        return DataInfo(
            name=self.label,
            num_train=len(train),
            num_test=len(test),
            image_size=train.images.shape[1],
            in_channels=train.images.shape[3],
            num_classes=len(train.class_names),
            class_names=train.class_names,
            fingerprint=fingerprint(format=_FORMAT, train=train.checksum, test=test.checksum),
        )

    def load(self, split: Split, *, seed: int = 0, cache: Path | None = None) -> ImageSplit:
        """The arrays of a split; files are memory-mapped, and nothing is cached."""
        images = _as_images(self._array(f"{split}_images"), f"data.{split}_images")
        labels = self._labels(split)
        if len(labels) != len(images):
            raise DataError(f"data.{split}_labels: {len(labels)} labels for {len(images)} images")
        return ImageSplit.from_arrays(images, labels, self._names())

    def _names(self) -> tuple[str, ...]:
        num_classes = 1 + max(int(self._labels(split).max()) for split in ("train", "test"))
        if self.class_names and len(self.class_names) < num_classes:
            raise DataError(f"data.class_names: {len(self.class_names)} names for {num_classes} classes")
        return self.class_names or tuple(str(code) for code in range(num_classes))

    def _labels(self, split: str) -> npt.NDArray[np.integer]:
        labels = self._array(f"{split}_labels")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0:
            raise DataError(
                f"data.{split}_labels: expected a vector of integers from 0, got {labels.dtype} {list(labels.shape)}"
            )
        return labels.astype(np.int64)

    def _array(self, field: str) -> npt.NDArray[np.generic]:
        value = getattr(self, field)
        if isinstance(value, np.ndarray):
            return value
        named = "archive" if value is None else field
        path: Path = getattr(self, named)
        try:
            content = np.load(path, mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(f"data.{named}: there is no file {path}") from error
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise DataError(f"data.{named}: {path} cannot be read as a numpy file ({error})") from error
        if isinstance(content, np.ndarray):
            if named == "archive":
                raise DataError(f"data.archive: {path} holds one array; give an .npz with {', '.join(_FIELDS)}")
            return content
        with content:
            if field not in content.files:
                raise DataError(f"data.archive: {path} has no array {field!r}; it has {', '.join(content.files)}")
            array: npt.NDArray[np.generic] = content[field]
        return array


def _as_images(array: npt.NDArray[np.generic], field: str) -> UInt8Array:
    if array.dtype != np.uint8:
        raise DataError(f"{field}: pixels must be uint8 from 0 to 255, got {array.dtype}; convert them first")
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] not in (1, 3):
        raise DataError(
            f"{field}: expected square images [n, H, W] or [n, H, W, C] with 1 or 3 channels, got {list(array.shape)}"
        )
    return images.view(np.uint8)
