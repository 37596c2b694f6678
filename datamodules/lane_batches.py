"""The training batches of several runs at once: one pool of pixels, and per step a table of its rows.

A lane is one run: its own images, order and augmentation. The orders of a chunk of steps are worked out beforehand on
the host, as rows of the pool; what remains is a function of tensors that asks the host nothing, so that a CUDA graph
can hold it. Every lane sees the bits it would see from its own `StepBatches`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.augment import NUM_DRAWS, drawn_pixels, random_integers_of
from datamodules.batches import StepBatches
from datamodules.images import Int64Array
from datamodules.info import DataError
from datamodules.pixels import pixels_of


def pool_bytes(lanes: Sequence[StepBatches]) -> int:
    """Bytes of the pixels that a pool of these runs holds, at most: images that runs of one split share count once."""
    wanted: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for one in lanes:
        key = one.split.checksum
        wanted[key] = wanted.get(key, 0) + one.num_examples
        sizes[key] = len(one.split), int(np.prod(one.split.images.shape[1:]))
    return sum(min(wanted[key], count) * size for key, (count, size) in sizes.items())


class LaneBatches:
    """The batches of L runs of one batch size, image shape, augmentation and permutation.

    Images that several lanes use lie in the pool once: lanes of one split share its rows.

    Args:
        lanes: One `StepBatches` per run; they may be built with `resident=False`, since theirs is not used.
        device: Where batches are made.

    Raises:
        DataError: The runs do not fit together.
    """

    def __init__(self, lanes: Sequence[StepBatches], device: torch.device | str = "cpu") -> None:
        shapes = {(one.batch_size, one.split.images.shape[1:], one.augmentation) for one in lanes}
        orders = {None if one.pixel_order is None else tuple(one.pixel_order.tolist()) for one in lanes}
        if len(shapes) != 1 or len(orders) != 1:
            raise DataError(
                "lanes need one batch size, image shape, augmentation and permutation; got "
                f"{sorted(map(str, shapes))} and {len(orders)} permutations"
            )
        self.device = torch.device(device)
        self.num_lanes = len(lanes)
        self.batch_size = lanes[0].batch_size
        self.augmentation = lanes[0].augmentation
        _, self.image_size, _, self.in_channels = lanes[0].split.images.shape
        self._lanes = tuple(lanes)
        order = lanes[0].pixel_order
        self._pixel_order = None if order is None else order.to(self.device)
        seeds = [one.augmentation_seed for one in lanes]
        self._seeds = torch.tensor(seeds, dtype=torch.int64, device=self.device)
        statistics = [one.normalization.scale_and_offset(self.device) for one in lanes]
        self._scale, self._offset = (torch.stack(parts)[:, None] for parts in zip(*statistics, strict=True))
        self._pixels, self._labels, self._row_of_place = self._pool()

    @property
    def num_pooled(self) -> int:
        """Images in the pool."""
        return len(self._labels)

    def rows_between(self, start: int, stop: int) -> Tensor:
        """Rows of the pool in the batches at steps `start .. stop - 1`, int64 `[stop - start, L, B]`, on the host."""
        rows = [
            row_of_place[one.places_between(start, stop)]
            for one, row_of_place in zip(self._lanes, self._row_of_place, strict=True)
        ]
        return torch.from_numpy(np.stack(rows, axis=1))

    def batch(self, rows: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """One batch of every lane, augmented, permuted and normalised; tensors only, nothing waits for the host.

        Args:
            rows: Rows of the pool int64 `[L, B]`, on the device.
            step: The optimiser step, int64 `[1]`, on the device; draws the augmentation.

        Returns:
            float32 `[L, B, C, H, W]` and int64 labels `[L, B]`.
        """
        flat = rows.flatten()
        pixels, inside = self._pixels.index_select(0, flat), None
        if self.augmentation:
            draws = random_integers_of(self._seeds, step, (NUM_DRAWS, self.batch_size))
            sources, inside = drawn_pixels(self.augmentation, draws.transpose(0, 1).flatten(1), self.image_size)
            if self._pixel_order is not None:
                sources, inside = (one.index_select(1, self._pixel_order) for one in (sources, inside))
            pixels = pixels.gather(2, sources[:, None, :].expand_as(pixels))
        elif self._pixel_order is not None:
            pixels = pixels.index_select(2, self._pixel_order)
        by_lane = pixels.view(*rows.shape, self.in_channels, -1)
        images = by_lane.to(torch.float32).mul_(self._scale).add_(self._offset)
        if inside is not None and "crop" in self.augmentation:
            images.mul_(inside.view(*rows.shape, 1, -1))  # outside the image: the data set's mean colour
        size = self.image_size
        return images.view(*rows.shape, self.in_channels, size, size), self._labels.index_select(0, flat).view_as(rows)

    def _pool(self) -> tuple[Tensor, Tensor, list[Int64Array]]:
        """Pixels `[P, C, H * W]` and labels `[P]` of all lanes, and for each lane the pool's row of each of its places.

        Splits are told apart by their checksum: replicates of real data load the same one several times.
        """
        by_split: dict[str, list[int]] = {}
        for lane, one in enumerate(self._lanes):
            by_split.setdefault(one.split.checksum, []).append(lane)
        pixels, labels, row_of_place, pooled = [], [], dict[int, Int64Array](), 0
        for lanes in by_split.values():
            split = self._lanes[lanes[0]].split
            used = np.unique(np.concatenate([self._lanes[lane].indices for lane in lanes]))
            pixels.append(pixels_of(split, used, self.device))
            labels.append(torch.from_numpy(split.labels[used]).to(self.device))
            for lane in lanes:
                row_of_place[lane] = pooled + np.searchsorted(used, self._lanes[lane].indices)
            pooled += len(used)
        return torch.cat(pixels), torch.cat(labels), [row_of_place[lane] for lane in range(self.num_lanes)]
