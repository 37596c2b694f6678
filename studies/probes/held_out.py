"""The images that probes look at: a cell's validation images, as the cell sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules import StepBatches, nested_subset
from studies.cell import Cell
from studies.course import batches_of
from studies.job_data import JobData

BATCH_SIZE = 100
"""Images per batch of a measure, so that small machines and gradients have room."""


class HeldOut:
    """Validation images of a cell: never trained on, normalised and permuted as in its training.

    Args:
        cell: whose images.
        data: where they come from.
        device: where batches are made.

    Attributes:
        batches: what prepares images as in training.
        checksum: of the decoded split that they belong to.
    """

    def __init__(self, cell: Cell, data: JobData, device: str) -> None:
        self.cell, self.data, self.device = cell, data, device
        self.batches: StepBatches = batches_of(cell, data, device, pooled=True)
        self.checksum = self.batches.split.checksum
        _, self._rows = data.rows(cell)

    def first(self, num_images: int, *, batch_size: int = BATCH_SIZE) -> Sequence[tuple[Tensor, Tensor]]:
        """The first images of a stratified order, so that classes are as frequent among few as among all.

        Args:
            num_images: how many; all there are where these are fewer.
            batch_size: images per batch; the last one may be smaller.

        Returns:
            Batches of float32 `[b, C, H, W]` and int64 labels `[b]`, on the device.
        """
        labels = self.batches.split.labels[self._rows]
        chosen = nested_subset(labels, min(num_images, len(labels)), seed=self.cell.seeds.subset)
        return list(self.batches.evaluation_batches(self._rows[chosen], batch_size=batch_size))

    def close(self) -> None:
        """Ends what reads ahead."""
        self.batches.close()

    @property
    def chance(self) -> float:
        """Share of the commonest class."""
        counts = torch.from_numpy(self.batches.split.labels[self._rows]).bincount()
        return float(counts.max() / counts.sum())
