"""Sources whose images lie compressed somewhere: each image is checked and decoded once, then cached."""

import io
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from datamodules.cache import SplitShape, cache_folder, cached_split
from datamodules.images import ImageSplit, Int64Array, UInt8Array
from datamodules.info import DataError, DataInfo
from datamodules.source import DataSource, Split

_CHANNELS_OF_MODE = {"1": 1, "L": 1, "RGB": 3}
_CHUNK_BYTES = 1 << 24  # decoded images held in memory at a time

Examples = Iterable[tuple[str, "bytes | Image.Image", int]]


class DecodedSource(DataSource):
    """A source of encoded images.

    Attributes:
        image_size: Height and width of the images; taken from the first image if None.
        in_channels: 1 or 3; images of another colour mode are converted to it. Taken from the first image if None, and
            then every image must have that mode.
        resize: Bring images of another size to `image_size`: shorter side by bicubic interpolation with antialiasing,
            then the centre square. If False, such an image is an error.
    """

    image_size: int | None = Field(default=None, ge=1)
    in_channels: Literal[1, 3] | None = None
    resize: bool = False

    @abstractmethod
    def examples(self, split: Split) -> Examples:
        """Yields `(where, image, label)` in row order; `where` names file and row for error messages."""

    def load(self, split: Split, *, seed: int = 0, cache: Path | None = None) -> ImageSplit:
        """The decoded split, from the cache if it is there; `seed` is not used."""
        info = self.describe()
        count = info.num_train if split == "train" else info.num_test
        shape = SplitShape(count, info.image_size, info.in_channels, info.class_names)
        folder = cache_folder(cache) / f"{info.name}-{info.fingerprint[:16]}" / split
        return cached_split(folder, shape, lambda: self._chunks(split, info))

    def _chunks(self, split: Split, info: DataInfo) -> Iterator[tuple[UInt8Array, Int64Array]]:
        limit = max(1, _CHUNK_BYTES // (info.image_size**2 * info.in_channels))
        images: list[UInt8Array] = []
        labels: list[int] = []
        for where, image, label in self.examples(split):
            images.append(self._decode(image, info, where))
            labels.append(label)
            if len(images) == limit:
                yield np.stack(images), np.asarray(labels, dtype=np.int64)
                images, labels = [], []
        if images:
            yield np.stack(images), np.asarray(labels, dtype=np.int64)

    def _decode(self, encoded: bytes | Image.Image, info: DataInfo, where: str) -> UInt8Array:
        """Decodes one image to uint8 `[S, S, C]`."""
        image = open_image(encoded, where)
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{where}: the image cannot be decoded ({_reason(error)}); repair or remove it") from error
        if _CHANNELS_OF_MODE.get(image.mode) != info.in_channels:
            if self.in_channels is None:
                raise DataError(
                    f"{where}: the image has colour mode {image.mode} where the first one has {info.in_channels} "
                    "channel(s); set data.in_channels to convert all images to 1 or 3 channels"
                )
            image = image.convert("L" if info.in_channels == 1 else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
        size = info.image_size
        if image.size != (size, size):
            if not self.resize:
                raise DataError(
                    f"{where}: the image is {image.height}x{image.width} pixels where {size}x{size} is expected; set "
                    "data.image_size and data.resize=true to bring all images to one size"
                )
            image = _square(image, size)
        return np.asarray(image, dtype=np.uint8).reshape(size, size, info.in_channels)

    def size_and_channels(self, first: bytes | Image.Image, where: str) -> tuple[int, int]:
        """Image size and channels: as declared, else as the header of the first image says."""
        if self.image_size is not None and self.in_channels is not None:
            return self.image_size, self.in_channels
        image = open_image(first, where)
        if self.image_size is None and image.height != image.width:
            raise DataError(
                f"{where}: the image is {image.height}x{image.width} pixels, not square; set data.image_size and "
                "data.resize=true"
            )
        if self.in_channels is None and image.mode not in _CHANNELS_OF_MODE:
            raise DataError(f"{where}: the image has colour mode {image.mode}; set data.in_channels to 1 or 3")
        return self.image_size or image.height, self.in_channels or _CHANNELS_OF_MODE[image.mode]


def open_image(encoded: bytes | Image.Image, where: str) -> Image.Image:
    """Reads an image's header.

    Raises:
        DataError: The bytes are no image.
    """
    if isinstance(encoded, Image.Image):
        return encoded
    try:
        return Image.open(io.BytesIO(encoded))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({_reason(error)}); repair or remove it") from error


def _square(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    """What a decoder says, without the address of the buffer it was given."""
    return re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))
