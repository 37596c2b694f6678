"""The ordinary Lightning way to the same data: a data module whose training order survives a resume exactly."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from datamodules.batches import StepBatches
from datamodules.controls import PermutationScope, PixelPermutation
from datamodules.images import ImageSplit, Int64Array
from datamodules.info import DataError
from datamodules.normalization import Normalization
from datamodules.shipped import shipped_data, shipped_names
from datamodules.source import DataSource
from datamodules.sources import parse_data
from datamodules.subset import carve_validation, nested_subset

Batch = tuple[Tensor, Tensor]

_VALIDATION_SHARE = 10  # by default one training image in ten validates, at most 5,000


class SubsetDataModule(pl.LightningDataModule):
    """A nested, stratified subset of a data set, with validation carved first.

    Batches are float32 `[B, C, H, W]` and int64 `[B]`, augmented, permuted and normalised. The training batch is a
    function of how many batches the trainer has trained on, so a fit resumed in the middle of an epoch equals the
    uninterrupted one. A Lightning epoch is `ceil(N / batch_size)` batches of one endless order; none is dropped or cut
    short.

    With several devices `batch_size` is that of all together: each process trains on every world-size-th image of a
    batch, so that the run is the same whatever their number.

    Args:
        data: Name of a shipped data set, path of an image folder or of a folder in the hub's layout, a mapping as in
            `configs/data`, or a source such as `DialData()`.
        num_train: Training images; all that remain after validation if None.
        num_validation: Validation images; a tenth of the training split, at most 5,000, if None.
        batch_size: Images per optimiser step, over all devices.
        subset_seed: Chooses the subset.
        order_seed: Chooses the order of images.
        augmentation_seed: Chooses crops and flips.
        validation_seed: Chooses the validation images.
        data_seed: The replicate of a procedural source.
        augmentation: Any of "crop" and "flip"; refused if the data set does not declare them to keep labels true.
        permutation: Scope of the control permutation: "none", "within_patch", "patches" or "pixels".
        permutation_patch_size: Patch size of the control.
        permutation_seed: Chooses the permutation.
        evaluation_batch_size: Images per validation, test or prediction batch; what suits the device if None.
        cache: Folder of decoded images.

    Raises:
        DataError: The data set, a size or an augmentation is refused; the message says why.
    """

    def __init__(
        self,
        data: str | Path | Mapping[str, Any] | DataSource,
        num_train: int | None = None,
        *,
        num_validation: int | None = None,
        batch_size: int = 128,
        subset_seed: int = 0,
        order_seed: int = 0,
        augmentation_seed: int = 0,
        validation_seed: int = 0,
        data_seed: int = 0,
        augmentation: tuple[str, ...] | list[str] = (),
        permutation: PermutationScope = "none",
        permutation_patch_size: int = 4,
        permutation_seed: int = 0,
        evaluation_batch_size: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.source = data if isinstance(data, DataSource) else parse_data(_as_mapping(data))
        self.info = self.source.describe()
        self.augmentation = tuple(augmentation)
        self.source.check_augmentation(self.augmentation)
        if num_validation is None:
            num_validation = min(self.info.num_train // _VALIDATION_SHARE, 5_000)
        if num_train is None:
            num_train = self.info.num_train - num_validation
        if not 1 <= num_train <= self.info.num_train - num_validation:
            raise DataError(
                f"num_train {num_train} with num_validation {num_validation}: the training split of {self.info.name} "
                f"has {self.info.num_train} images, at most {self.info.num_train - num_validation} remain"
            )
        self.num_train, self.num_validation = num_train, num_validation
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.subset_seed, self.order_seed, self.augmentation_seed = subset_seed, order_seed, augmentation_seed
        self.validation_seed, self.data_seed = validation_seed, data_seed
        self.permutation = PixelPermutation(permutation, self.info.image_size, permutation_patch_size, permutation_seed)
        self.cache = None if cache is None else Path(cache)
        self._batches: StepBatches | None = None
        self._validation: Int64Array = np.zeros(0, dtype=np.int64)
        self._test: ImageSplit | None = None

    def prepare_data(self) -> None:
        """Decodes both splits into the cache, in one process per machine."""
        for split in ("train", "test"):
            self.source.load(split, seed=self.data_seed, cache=self.cache)

    def setup(self, stage: str | None = None) -> None:
        """Carves validation, takes the subset and puts its images on the trainer's device."""
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self._batches is None or self._batches.device != device:
            train = self.source.load("train", seed=self.data_seed, cache=self.cache)
            pool, self._validation = carve_validation(train.labels, self.num_validation, seed=self.validation_seed)
            subset = pool[nested_subset(train.labels[pool], self.num_train, seed=self.subset_seed)]
            self._batches = StepBatches(
                train,
                subset,
                batch_size=self.batch_size,
                order_seed=self.order_seed,
                augmentation_seed=self.augmentation_seed,
                augmentation=self.augmentation,
                permutation=self.permutation,
                normalization=Normalization.of(train),
                device=device,
            )
        if stage in ("test", "predict", None) and self._test is None:
            self._test = self.source.load("test", seed=self.data_seed, cache=self.cache)

    @property
    def batches(self) -> StepBatches:
        """The step-indexed batches behind the loaders; available after `setup`."""
        if self._batches is None:
            raise RuntimeError("call setup() first, or let the Trainer do it")
        return self._batches

    def train_dataloader(self) -> "StepLoader":
        """Training batches from where the trainer stands."""
        world_size = 1 if self.trainer is None else self.trainer.world_size
        rank = 0 if self.trainer is None else self.trainer.global_rank
        if self.batch_size % world_size:
            raise DataError(f"batch_size {self.batch_size} cannot be split evenly over {world_size} devices")
        dataset = _TrainingSteps(self.batches, rank, world_size)
        sampler = StepSampler(range(0), 1, False, num_steps=self.batches.steps_per_epoch, trainer=self.trainer)
        return StepLoader(dataset, batch_sampler=sampler, collate_fn=_only)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Validation batches; no loader if nothing was carved."""
        if self.num_validation == 0:
            return []
        return self._evaluation_loader(self.batches.split, self._validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches in row order."""
        if self._test is None:
            raise RuntimeError('call setup("test") first, or let the Trainer do it')
        return self._evaluation_loader(self._test, np.arange(len(self._test)))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test images, in row order."""
        return self.test_dataloader()

    def _evaluation_loader(self, split: ImageSplit, rows: Int64Array) -> DataLoader[Batch]:
        size = self.evaluation_batch_size or self.batches.evaluation_batch_size
        batches = _EvaluationBatches(self.batches, split, rows, size)
        return DataLoader(batches, batch_size=1, collate_fn=_only)


class StepSampler(BatchSampler):
    """Yields the numbers of training batches from where the trainer stands, one epoch's worth.

    Lightning does not rewind a loader on resume; it takes what the loader yields next and ends the epoch when it has
    counted `len(loader)` batches, those before the interruption included. So this sampler starts at the trainer's
    progress, which checkpoints carry, and its length is always the whole epoch's: with the remaining length a resumed
    epoch would end early.

    It must be a `BatchSampler` with these first three arguments, because under distributed strategies Lightning
    rebuilds it with a sampler of its own; that one is ignored, and the data set hands each process its share of every
    batch.

    Args:
        sampler: Ignored.
        batch_size: Ignored; a step is one entry.
        drop_last: Ignored; nothing is ever dropped.
        num_steps: Batches in an epoch.
        trainer: Whose progress to ask; without one every epoch starts at batch 0.
    """

    def __init__(
        self,
        sampler: Sampler[int] | range,
        batch_size: int = 1,
        drop_last: bool = False,
        *,
        num_steps: int,
        trainer: pl.Trainer | None,
    ) -> None:
        super().__init__(sampler, 1, False)
        self.num_steps = num_steps
        self.trainer = trainer

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        done = self._batches_done()
        for step in range(done, done + self.num_steps):
            yield [step]

    def _batches_done(self) -> int:
        """Batches the trainer has trained on, in all epochs and before a resume too.

        Without gradient accumulation this is `trainer.global_step`; with it a step spans several batches, so the loop's
        count of batches is asked.
        """
        return 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop.batch_progress.total.completed


class StepLoader(DataLoader[Batch]):
    """A loader whose place is the trainer's progress, which tells Lightning that it may be resumed in mid-epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the checkpoint holds the trainer's progress already."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores nothing; `StepSampler` reads the restored progress."""


class _TrainingSteps(Dataset[Batch]):
    """Maps the number of a step to this process's share of its batch."""

    def __init__(self, batches: StepBatches, rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __len__(self) -> int:
        return self.batches.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        return self.batches.batch_at(step, rank=self.rank, world_size=self.world_size)


class _EvaluationBatches(Dataset[Batch]):
    """Maps a number to an evaluation batch.

    Under distributed strategies Lightning deals out these batches and repeats some if they do not divide evenly.
    """

    def __init__(self, batches: StepBatches, split: ImageSplit, rows: Int64Array, batch_size: int) -> None:
        self.batches, self.split = batches, split
        self.parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Batch:
        return self.batches.evaluation_batch(self.parts[index], split=self.split)


def _only(batches: list[Batch]) -> Batch:
    """Takes the one batch out of the list a loader makes."""
    return batches[0]


def _as_mapping(data: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """A shipped name, a folder or a mapping, as a mapping."""
    if isinstance(data, Mapping):
        return data
    folder = Path(data).expanduser()
    if isinstance(data, str) and data in shipped_names():
        return shipped_data(data)
    if not folder.is_dir():
        raise DataError(f"data {str(data)!r} is neither a folder nor a shipped data set ({', '.join(shipped_names())})")
    if next(folder.rglob("*.parquet"), None) is not None:
        return {"kind": "hub", "name": str(folder.resolve())}
    return {"kind": "folder", "root": str(folder)}
