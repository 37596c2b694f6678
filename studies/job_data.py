"""The images of one job: what several of its cells read is read, counted and ordered once."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from datamodules import DataConfig, DataInfo, ImageSplit, Normalization, carve_validation, nested_subset

from .cell import Cell

Rows = npt.NDArray[np.int64]


class JobData:
    """A data set as the cells of a job see it.

    Cells of one replicate share splits, validation images and the order that their nested subsets are cut from.
    """

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self.describe = cache(self._describe)
        self.train_split = cache(self._train_split)
        self.normalization = cache(self._normalization)
        self._orders = cache(self._draw_orders)

    def rows(self, cell: Cell) -> tuple[Rows, Rows]:
        """Rows of the training split that a cell trains on [N], and those held out [V]."""
        order, validation = self._orders(cell.seeds.subset, cell.num_validation)
        if cell.num_train > len(order):  # says what is wrong
            nested_subset(np.zeros(len(order), dtype=np.int64), cell.num_train, seed=cell.seeds.subset)
        return order[: cell.num_train], validation

    def pool(self, cell: Cell) -> Rows:
        """Rows of the training split that are not held out, the cell's own first."""
        return self._orders(cell.seeds.subset, cell.num_validation)[0]

    def test_split(self, seed: int) -> ImageSplit:
        """The test images of a replicate; read when asked for, and not kept."""
        return self._data.load("test", seed=seed)

    def _describe(self) -> DataInfo:
        return self._data.describe()

    def _train_split(self, seed: int) -> ImageSplit:
        return self._data.load("train", seed=seed)

    def _normalization(self, seed: int) -> Normalization:
        return Normalization.of(self.train_split(seed))

    def _draw_orders(self, seed: int, num_validation: int) -> tuple[Rows, Rows]:
        """The stratified order of all images that may be trained on, and the validation images."""
        labels = self.train_split(seed).labels
        pool, validation = carve_validation(labels, num_validation, seed=seed)
        return pool[nested_subset(labels[pool], len(pool), seed=seed)], validation
