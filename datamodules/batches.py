"""Batches indexed by step: the batch at step s is a pure function of the seeds and s, whenever it is asked for.

Its images come from the device's memory where they fit, else from the split as it lies on disk, read one step ahead.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augment import check_augmentation_names, source_pixels
from datamodules.controls import PixelPermutation
from datamodules.images import ImageSplit, Int64Array
from datamodules.info import DataError
from datamodules.normalization import Normalization
from datamodules.order import StepOrder
from datamodules.pixels import PixelStream, pixels_of
from datamodules.residency import evaluation_batch_size, fits

_PREPARED_SETS = 2  # evaluation sets kept on the device: validation and test


class StepBatches:
    """The training batches of one run, and evaluation batches prepared in the same way.

    Images are uint8 on the device; a batch is one gather (which also crops, flips and permutes) followed by one
    multiply-add. All of it is used from one thread.

    Args:
        split: The training split.
        indices: Rows of `split` the run may see `[N]`; all of them if None.
        batch_size: Images per step (B).
        order_seed: Draws the order of images.
        augmentation_seed: Draws crops and flips.
        augmentation: Any of "crop" and "flip".
        permutation: A fixed permutation of pixels, applied after augmentation; None or scope "none" for no control.
        normalization: Statistics; those of `split` if None.
        device: Where batches are made.
        resident: Keep the run's images on the device; "auto" does so where they fit in half of what is free there.
            Otherwise a thread reads each batch one step ahead. The batches are the same.

    Attributes:
        pixel_order: The table of the permutation on the device, int64 `[H * W]`; None without one.

    Raises:
        DataError: The arguments contradict each other or the split, or an image is damaged.
    """

    def __init__(
        self,
        split: ImageSplit,
        indices: npt.ArrayLike | None = None,
        *,
        batch_size: int,
        order_seed: int,
        augmentation_seed: int = 0,
        augmentation: tuple[str, ...] = (),
        permutation: PixelPermutation | None = None,
        normalization: Normalization | None = None,
        device: torch.device | str = "cpu",
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size {batch_size} must be at least 1")
        check_augmentation_names(augmentation)
        if permutation is not None and permutation.image_size != split.images.shape[1]:
            raise DataError(
                f"the permutation is for images of {permutation.image_size} pixels, "
                f"the split has {split.images.shape[1]}"
            )
        self.split = split
        self.indices: Int64Array = np.arange(len(split)) if indices is None else np.asarray(indices, dtype=np.int64)
        if len(self.indices) == 0 or self.indices.min() < 0 or self.indices.max() >= len(split):
            raise DataError(f"indices must name at least one of the {len(split)} rows of the split and none outside")
        self.batch_size = batch_size
        self.order = StepOrder(len(self.indices), batch_size, order_seed)
        self.augmentation_seed = augmentation_seed
        self.augmentation = tuple(augmentation)
        self.device = torch.device(device)
        self.normalization = normalization or Normalization.of(split)
        self._scale, self._offset = self.normalization.scale_and_offset(self.device)
        self.pixel_order: Tensor | None = None
        if permutation is not None and permutation.scope != "none":
            self.pixel_order = torch.from_numpy(permutation.table()).to(self.device)
        self._labels = torch.from_numpy(split.labels[self.indices]).to(self.device)
        self.resident = self._fits(split, len(self.indices)) if resident == "auto" else resident
        self._pixels = pixels_of(split, self.indices, self.device) if self.resident else None
        self._streams: dict[tuple[int, int], PixelStream] = {}  # one per (rank, world_size) that asks
        self._prepared: list[tuple[ImageSplit, Int64Array, Tensor]] = []

    @property
    def num_examples(self) -> int:
        """Images the run may see (N)."""
        return len(self.indices)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every image has been seen at least once: `ceil(N / B)`."""
        return -(-self.num_examples // self.batch_size)

    def indices_at(self, step: int) -> Int64Array:
        """Rows of the split in the batch at `step`: int64 `[B]`."""
        return self.indices[self.order.places_at(step)]

    def places_between(self, start: int, stop: int) -> Int64Array:
        """Places within `indices` of the batches at steps `start .. stop - 1`: int64 `[stop - start, B]`."""
        return self.order.places_between(start, stop)

    def batch_at(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """The batch at `step`, augmented, permuted and normalised.

        Args:
            step: The optimiser step, from 0.
            rank: Which of `world_size` processes asks; it gets rows `rank, rank + world_size, ...` of the batch, so
                that all together train on the same batch as one process would.
            world_size: Number of processes; must divide the batch size.

        Returns:
            float32 `[B / world_size, C, H, W]` and int64 labels `[B / world_size]`, on the device.
        """
        if self.batch_size % world_size:
            raise DataError(f"a batch of {self.batch_size} images cannot be split evenly over {world_size} processes")
        mine = slice(rank, None, world_size)
        places = torch.from_numpy(self.order.places_at(step)[mine]).to(self.device)
        if self._pixels is not None:
            pixels = self._pixels.index_select(0, places)
        else:
            pixels = self._stream(rank, world_size).at(step)
        size = self.split.images.shape[1]
        if self.augmentation:
            sources, inside = source_pixels(
                self.augmentation,
                seed=self.augmentation_seed,
                step=step,
                batch_size=self.batch_size,
                image_size=size,
                device=self.device,
            )
            sources, inside = sources[mine], inside[mine]
            if self.pixel_order is not None:
                sources, inside = sources[:, self.pixel_order], inside[:, self.pixel_order]
            gathered = pixels.gather(2, sources[:, None, :].expand_as(pixels))
            images = self._standardise(gathered)
            if "crop" in self.augmentation:
                images.mul_(inside[:, None, :])  # outside the image: the data set's mean colour
        else:
            images = self._standardise(self._permuted(pixels))
        return self._as_images(images), self._labels.index_select(0, places)

    def evaluation_batches(
        self, indices: npt.ArrayLike | None = None, *, split: ImageSplit | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in row order without augmentation, permuted and normalised as in training.

        The last two sets asked for stay on the device where they fit: the branches of a run share them.

        Args:
            indices: Rows to evaluate, in this order; all of the split if None.
            split: The split they belong to (the test split, for instance); the training split if None.
            batch_size: Images per batch, the last one may be smaller; `evaluation_batch_size` if None.

        Yields:
            float32 `[b, C, H, W]` and int64 labels `[b]`, on the device.
        """
        source = split or self.split
        rows: Int64Array = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
        labels = torch.from_numpy(source.labels[rows]).to(self.device)
        size = batch_size or self.evaluation_batch_size
        pixels_at = self._evaluation_pixels(source, rows, size)
        for number, start in enumerate(range(0, len(rows), size)):
            yield self._as_images(self._standardise(pixels_at(number))), labels[start : start + size]

    def evaluation_batch(self, rows: Int64Array, *, split: ImageSplit | None = None) -> tuple[Tensor, Tensor]:
        """The given rows of a split, permuted and normalised: float32 `[b, C, H, W]` and int64 `[b]`."""
        source = split or self.split
        pixels = self._permuted(pixels_of(source, rows, self.device))
        return self._as_images(self._standardise(pixels)), torch.from_numpy(source.labels[rows]).to(self.device)

    def pixel_values(self, images: Tensor) -> Tensor:
        """The pixels that normalised images were made of: whole numbers from 0 to 255, float32 `[b, C, H, W]`.

        What a crop has left empty is the data set's mean colour, rounded.
        """
        return images.float().sub(self._offset[:, :, None]).div_(self._scale[:, :, None]).round_()

    @property
    def evaluation_batch_size(self) -> int:
        """Images per evaluation batch that suit the device."""
        return evaluation_batch_size(self.device, math.prod(self.split.images.shape[1:]))

    def close(self) -> None:
        """Ends the threads that read ahead; dropping the object does the same."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def _stream(self, rank: int, world_size: int) -> PixelStream:
        """Reads this process's share of the batches ahead."""
        if (rank, world_size) not in self._streams:
            rows_at = partial(_share_at, self.indices, self.order, rank, world_size)
            stream = PixelStream(self.split, rows_at, self.batch_size // world_size, self.device)
            self._streams[rank, world_size] = stream
        return self._streams[rank, world_size]

    def _evaluation_pixels(self, split: ImageSplit, rows: Int64Array, size: int) -> Callable[[int], Tensor]:
        """Number of an evaluation batch -> its permuted pixels, uint8 `[b, C, H * W]`."""
        for known, known_rows, pixels in self._prepared:
            if known is split and np.array_equal(known_rows, rows):
                return lambda number: pixels[number * size : (number + 1) * size]
        if self._fits(split, len(rows)):
            pixels = self._permuted(pixels_of(split, rows, self.device))
            self._prepared = [*self._prepared, (split, rows, pixels)][-_PREPARED_SETS:]
            return lambda number: pixels[number * size : (number + 1) * size]
        parts = -(-len(rows) // size)
        stream = PixelStream(
            split, lambda number: rows[number * size : (number + 1) * size], size, self.device, num_batches=parts
        )
        return lambda number: self._permuted(stream.at(number))

    def _fits(self, split: ImageSplit, num_images: int) -> bool:
        return fits(num_images * math.prod(split.images.shape[1:]), self.device)

    def _as_images(self, pixels: Tensor) -> Tensor:
        """Float32 `[b, C, H * W]` as `[b, C, H, W]`."""
        size = math.isqrt(pixels.shape[2])
        return pixels.view(-1, pixels.shape[1], size, size)

    def _permuted(self, pixels: Tensor) -> Tensor:
        return pixels if self.pixel_order is None else pixels.index_select(2, self.pixel_order)

    def _standardise(self, pixels: Tensor) -> Tensor:
        """Normalised float32 of uint8 `[B, C, H * W]`."""
        return pixels.to(torch.float32).mul_(self._scale).add_(self._offset)  # in place: 5 times faster than addcmul


def _share_at(indices: Int64Array, order: StepOrder, rank: int, world_size: int, step: int) -> Int64Array:
    """Rows of the split that one of several processes trains on at a step."""
    return indices[order.places_at(step)[rank::world_size]]
