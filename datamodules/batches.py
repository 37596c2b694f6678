"""Batches indexed by step: the batch at step s is a pure function of the seeds and s, whenever it is asked for.

The order of a run is the endless concatenation of `permutation(order_seed, epoch)` for epoch 0, 1, 2, ...; the batch at
step s covers its places `s B .. (s + 1) B - 1`. So no image is ever dropped at the end of an epoch, and a training set
smaller than a batch simply wraps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augment import check_augmentation_names, source_pixels
from datamodules.controls import PixelPermutation
from datamodules.images import ImageSplit, Int64Array
from datamodules.info import DataError

_ORDER_KEY = 0x6F72646572


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation, in pixel values 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: ImageSplit) -> "Normalization":
        """Statistics of a whole training split, validation included.

        One normalisation per data set, so that train size, validation size and seeds leave it alone.
        """
        return cls(*train.channel_statistics())

    def scale_and_offset(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`x * scale + offset` standardises; both float32 `[C, 1]`."""
        mean = torch.tensor(self.mean, dtype=torch.float64)[:, None]
        std = torch.tensor(self.std, dtype=torch.float64)[:, None]
        return (1 / std).to(device, torch.float32), (-mean / std).to(device, torch.float32)


class StepBatches:
    """The training batches of one run, and evaluation batches prepared in the same way.

    The images of the run lie on the device as uint8; a batch is one gather (which also crops, flips and permutes)
    followed by one multiply-add.

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
        resident: Keep the run's images on the device. False gathers from the memory map at each step, for sets that
            fit in no memory.

    Attributes:
        pixel_order: The table of the permutation on the device, int64 `[H * W]`; None without one.

    Raises:
        DataError: The arguments contradict each other or the split.
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
        resident: bool = True,
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
        self.order_seed = order_seed
        self.augmentation_seed = augmentation_seed
        self.augmentation = tuple(augmentation)
        self.device = torch.device(device)
        self.normalization = normalization or Normalization.of(split)
        self._scale, self._offset = self.normalization.scale_and_offset(self.device)
        self.pixel_order: Tensor | None = None
        if permutation is not None and permutation.scope != "none":
            self.pixel_order = torch.from_numpy(permutation.table()).to(self.device)
        self._labels = torch.from_numpy(split.labels[self.indices]).to(self.device)
        self._pixels = channels_first(split, self.indices, self.device) if resident else None
        self._epoch_order = lru_cache(maxsize=4)(self._draw_epoch_order)

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
        return self.indices[self._places_at(step)]

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
        places = torch.from_numpy(self._places_at(step)[mine]).to(self.device)
        if self._pixels is not None:
            pixels = self._pixels.index_select(0, places)
        else:
            pixels = channels_first(self.split, self.indices_at(step)[mine], self.device)
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
        return images.view(-1, pixels.shape[1], size, size), self._labels.index_select(0, places)

    def evaluation_batches(
        self, indices: npt.ArrayLike | None = None, *, split: ImageSplit | None = None, batch_size: int = 512
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in row order without augmentation, permuted and normalised as in training.

        Args:
            indices: Rows to evaluate, in this order; all of the split if None.
            split: The split they belong to (the test split, for instance); the training split if None.
            batch_size: Images per batch; the last one may be smaller.

        Yields:
            float32 `[b, C, H, W]` and int64 labels `[b]`, on the device.
        """
        source = split or self.split
        rows: Int64Array = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
        for start in range(0, len(rows), batch_size):
            yield self.evaluation_batch(rows[start : start + batch_size], split=source)

    def evaluation_batch(self, rows: Int64Array, *, split: ImageSplit | None = None) -> tuple[Tensor, Tensor]:
        """The given rows of a split, permuted and normalised: float32 `[b, C, H, W]` and int64 `[b]`."""
        source = split or self.split
        size = source.images.shape[1]
        pixels = channels_first(source, rows, self.device)
        images = self._standardise(self._permuted(pixels)).view(-1, pixels.shape[1], size, size)
        return images, torch.from_numpy(source.labels[rows]).to(self.device)

    def places_between(self, start: int, stop: int) -> Int64Array:
        """Places within `indices` of the batches at steps `start .. stop - 1`: int64 `[stop - start, B]`."""
        first_place, past_place = start * self.batch_size, stop * self.batch_size
        first, last = first_place // self.num_examples, (past_place - 1) // self.num_examples
        orders = [self._epoch_order(epoch) for epoch in range(first, last + 1)]
        stream = orders[0] if len(orders) == 1 else np.concatenate(orders)
        offset = first * self.num_examples
        return stream[first_place - offset : past_place - offset].reshape(-1, self.batch_size)

    def _places_at(self, step: int) -> Int64Array:
        """Places within `indices` of the batch at `step`."""
        if step < 0:
            raise DataError(f"step {step} must not be negative")
        places: Int64Array = self.places_between(step, step + 1)[0]
        return places

    def _draw_epoch_order(self, epoch: int) -> Int64Array:
        generator = np.random.Generator(np.random.Philox(key=[self.order_seed, _ORDER_KEY], counter=[0, 0, epoch, 0]))
        return generator.permutation(self.num_examples)

    def _permuted(self, pixels: Tensor) -> Tensor:
        return pixels if self.pixel_order is None else pixels.index_select(2, self.pixel_order)

    def _standardise(self, pixels: Tensor) -> Tensor:
        """Normalised float32 of uint8 `[B, C, H * W]`."""
        return pixels.to(torch.float32).mul_(self._scale).add_(self._offset)  # in place: 5 times faster than addcmul


def channels_first(split: ImageSplit, rows: Int64Array, device: torch.device) -> Tensor:
    """Rows of a split as uint8 `[n, C, H * W]` on a device."""
    size, channels = split.images.shape[1], split.images.shape[3]
    taken = torch.from_numpy(split.images[rows]).to(device)  # fancy indexing copies, so the map stays read-only
    return taken.reshape(len(rows), size * size, channels).transpose(1, 2).contiguous()
