"""Any map-style torch data set: something with a length whose items are `(image, label)`."""

import importlib
import operator
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from datamodules.decoded import DecodedSource, Examples
from datamodules.images import ImageSplit
from datamodules.info import DataError, DataInfo
from datamodules.source import LABEL_PATTERN, Split, fingerprint

_FORMAT = "dataset-1"  # part of the fingerprint: a change of the decoding must change it


class MapStyle(Protocol):
    """What is asked of a data set: torch's and torchvision's all comply."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class MapStyleData(DecodedSource):
    """A map-style data set, by the import string of its factory or, in Python, as two objects.

    Items are `(image, label)`: a PIL image, a uint8 array `[H, W]` or `[H, W, C]`, or a uint8 tensor `[C, H, W]`;
    labels are integers from 0. Random transforms do not belong in it: each image is read once.

    Attributes:
        kind: "dataset".
        factory: `package.module:function`, called as `function(split="train", **arguments)` and with "test".
        arguments: Further keyword arguments of the factory.
        version: Names the state of the data. With it the decoded images are cached under that name and the fingerprint
            is known without reading an image; without it every image is read to compute the fingerprint.
        train: The training data set, instead of `factory`.
        test: The test data set, instead of `factory`.
        num_classes: Number of classes; the length of the data set's `classes` if None.
        label: Short name for figures and cache folders.
    """

    kind: Literal["dataset"] = "dataset"
    factory: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    version: str | None = None
    train: Any = None
    test: Any = None
    num_classes: int | None = Field(default=None, ge=2)
    label: str = Field(default="dataset", pattern=LABEL_PATTERN)

    @model_validator(mode="after")
    def _check(self) -> "MapStyleData":
        objects = (self.train is not None) + (self.test is not None)
        if objects == 1 or (self.factory is None) == (objects == 0):
            raise ValueError("give either factory or both train and test")
        return self

    @cached_property
    def opened(self) -> dict[Split, MapStyle]:
        """Both data sets, built by the factory if there is one."""
        if self.factory is None:
            return {"train": self.train, "test": self.test}
        module, _, name = self.factory.partition(":")
        try:
            build = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise DataError(f"data.factory: {self.factory} cannot be imported ({error})") from error
        return {"train": build(split="train", **self.arguments), "test": build(split="test", **self.arguments)}

    @cached_property
    def decoded(self) -> dict[Split, ImageSplit]:
        """Both splits read into memory; for data without a version."""
        info = self._facts("")
        splits: dict[Split, ImageSplit] = {}
        for split in get_args(Split):
            chunks = list(self._chunks(split, info))
            images, labels = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
            splits[split] = ImageSplit.from_arrays(images, labels, info.class_names)
        return splits

    def describe(self) -> DataInfo:
        """Facts from the lengths, the first item and the version; without a version every image is read."""
        if self.version is not None:
            info = self._facts("")
            pixels = (info.image_size, info.in_channels, self.resize)
            origin = (self.factory, dict(self.arguments), self.version, self.label)
            return self._facts(fingerprint(format=_FORMAT, pixels=pixels, origin=origin))
        checksums = {split: decoded.checksum for split, decoded in self.decoded.items()}
        return self._facts(fingerprint(format=_FORMAT, **checksums))

    def load(self, split: Split, *, seed: int = 0, cache: Path | None = None) -> ImageSplit:
        """The decoded split, cached on disk if the data set has a version."""
        return self.decoded[split] if self.version is None else super().load(split, seed=seed, cache=cache)

    def examples(self, split: Split) -> Examples:
        """Reads item by item."""
        dataset = self.opened[split]
        for row in range(len(dataset)):
            where = f"{self._origin()} split {split} row {row}"
            try:
                image, label = dataset[row]
            except DataError:
                raise
            except Exception as error:  # whatever the user's data set raises, the row is what helps
                raise DataError(f"{where}: the data set raised {type(error).__name__}: {error}") from error
            yield where, _as_pil(image, where), _as_label(label, where)

    def _origin(self) -> str:
        return self.factory or self.label

    def _facts(self, content: str) -> DataInfo:
        train, test = self.opened["train"], self.opened["test"]
        for split, dataset in self.opened.items():
            if len(dataset) == 0:
                raise DataError(f"{self._origin()} split {split} is empty")
        classes = tuple(str(name) for name in getattr(train, "classes", ()))
        num_classes = self.num_classes or len(classes)
        if num_classes < 2:
            raise DataError(f"data.num_classes must be declared: {self._origin()} has no attribute `classes`")
        where = f"{self._origin()} split train row 0"
        image_size, in_channels = self.size_and_channels(_as_pil(train[0][0], where), where)
        return DataInfo(
            name=self.label,
            num_train=len(train),
            num_test=len(test),
            image_size=image_size,
            in_channels=in_channels,
            num_classes=num_classes,
            class_names=classes if len(classes) == num_classes else tuple(str(code) for code in range(num_classes)),
            fingerprint=content,
        )


def _as_pil(image: Any, where: str) -> Image.Image:  # noqa: ANN401 - whatever a user's data set returns
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if not isinstance(image, np.ndarray) and array.ndim == 3:  # a tensor: channels first
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(
            f"{where}: expected a PIL image, a uint8 array [H, W] or [H, W, C], or a uint8 tensor [C, H, W] with 1 or "
            f"3 channels, got {type(image).__name__} {array.dtype} {list(array.shape)}; return pixels before ToTensor"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _as_label(label: Any, where: str) -> int:  # noqa: ANN401 - whatever a user's data set returns
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except TypeError as error:
        raise DataError(f"{where}: the label {label!r} is no integer") from error
