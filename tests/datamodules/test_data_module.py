"""The ordinary Lightning way: fit, validate, test, predict, and a resume that changes nothing."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.data import _replace_dunder_methods
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.data import _update_dataloader
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from datamodules import DataError, DialData, SubsetDataModule
from datamodules.datamodule import StepSampler

# Lightning's own advice about machines and about its own imports.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboardX.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
DIAL = DialData(num_train=400, num_test=100)


class Linear(pl.LightningModule):
    """A small classifier that remembers which batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(256, 2)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: list[float] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(float(batch[0].sum()))
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.log("val_error", (self(batch[0]).argmax(1) != batch[1]).float().mean())

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.log("test_error", (self(batch[0]).argmax(1) != batch[1]).float().mean())

    def predict_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def module(**changes: object) -> SubsetDataModule:
    return SubsetDataModule(
        DIAL, 100, **{"num_validation": 50, "batch_size": 16, "evaluation_batch_size": 40, **changes}
    )


def trainer(tmp_path: Path, callbacks: list[Callback] | None = None, **changes: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": tmp_path,
        "enable_checkpointing": bool(callbacks),
    }
    return pl.Trainer(**{**quiet, **defaults, "callbacks": callbacks, **changes})


def test_fit_validate_test_predict(tmp_path: Path) -> None:
    data, model = module(), Linear()
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=data)
    assert run.global_step == 14  # ceil(100 / 16) per epoch
    assert 0 <= run.validate(model, datamodule=data, verbose=False)[0]["val_error"] <= 1
    assert 0 <= run.test(model, datamodule=data, verbose=False)[0]["test_error"] <= 1
    predictions = run.predict(model, datamodule=data)
    assert predictions is not None
    assert torch.cat(predictions).shape == (100, 2)  # type: ignore[arg-type]


def test_the_trainer_sees_the_step_indexed_batches(tmp_path: Path) -> None:
    data, model = module(), Linear()
    trainer(tmp_path, max_steps=20).fit(model, datamodule=data)
    assert model.seen == [float(data.batches.batch_at(step)[0].sum()) for step in range(20)]


def saver(folder: Path, steps: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)


RESUMES = [
    ({"max_steps": 20}, 4, {}),  # in the first epoch
    ({"max_steps": 20}, 7, {}),  # at its end
    ({"max_steps": 20}, 11, {}),  # in the second
    ({"max_epochs": 3}, 11, {}),
    ({"max_epochs": 4}, 3, {"accumulate_grad_batches": 3}),  # an epoch of 7 batches is 3 steps
    ({"max_steps": 11}, 4, {"accumulate_grad_batches": 3}),
    ({"max_steps": 18}, 8, {"limit_train_batches": 5}),
    ({"max_steps": 20}, 9, {"val_check_interval": 3}),
]


@pytest.mark.parametrize(("limit", "interruption", "settings"), RESUMES)
def test_a_resumed_fit_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, limit: dict[str, int], interruption: int, settings: dict[str, Any]
) -> None:
    whole = Linear()
    trainer(tmp_path, **limit, **settings).fit(whole, datamodule=module())

    before = Linear()
    trainer(tmp_path, [saver(tmp_path, interruption)], max_steps=interruption, **settings).fit(
        before, datamodule=module()
    )
    after = Linear()
    resumed = trainer(tmp_path, [saver(tmp_path, interruption)], **limit, **settings)
    resumed.fit(after, datamodule=module(), ckpt_path=tmp_path / f"step={interruption}.ckpt")

    assert before.seen + after.seen == whole.seen
    assert torch.equal(after.layer.weight, whole.layer.weight)
    assert torch.equal(after.layer.bias, whole.layer.bias)


def test_a_run_killed_between_batches_resumes_exactly(tmp_path: Path) -> None:
    """The checkpoint is older than the last batch trained on."""

    class Crash(Callback):
        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
        ) -> None:
            if trainer.global_step == 13:
                raise KeyError("killed")

    whole = Linear()
    trainer(tmp_path, max_steps=20).fit(whole, datamodule=module())
    with pytest.raises(KeyError, match="killed"):
        trainer(tmp_path, [saver(tmp_path, 5), Crash()], max_steps=20).fit(Linear(), datamodule=module())
    after = Linear()
    resumed = trainer(tmp_path, [saver(tmp_path, 5)], max_steps=20)
    resumed.fit(after, datamodule=module(), ckpt_path=tmp_path / "step=10.ckpt")
    assert after.seen == whole.seen[10:]
    assert torch.equal(after.layer.weight, whole.layer.weight)


def test_the_sampler_survives_lightnings_rebuilding() -> None:
    """As under a distributed strategy, where Lightning rebuilds the loader with a sampler of its own."""
    data = module()
    data.setup()
    with _replace_dunder_methods(DataLoader, "dataset"), _replace_dunder_methods(BatchSampler):  # as Lightning calls it
        loader = data.train_dataloader()
    rebuilt = _update_dataloader(loader, SequentialSampler(range(3)))
    assert isinstance(rebuilt.batch_sampler, StepSampler)
    assert len(rebuilt) == len(loader) == 7
    assert [float(images.sum()) for images, _ in rebuilt] == [float(images.sum()) for images, _ in loader]


def test_each_seed_of_the_module_changes_only_its_own_thing() -> None:
    def rows(**changes: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        data = module(**changes)
        data.setup()
        images = torch.cat([images for images, _ in data.val_dataloader()])  # type: ignore[arg-type]
        return data.batches.indices, data.batches.indices_at(0), images.numpy()

    subset, order, validation = rows()
    other = rows(subset_seed=1)
    assert set(other[0]) != set(subset)
    np.testing.assert_array_equal(other[2], validation)
    other = rows(order_seed=1)
    np.testing.assert_array_equal(other[0], subset)
    assert not np.array_equal(other[1], order)
    np.testing.assert_array_equal(other[2], validation)
    other = rows(augmentation_seed=1)
    np.testing.assert_array_equal(other[0], subset)
    np.testing.assert_array_equal(other[1], order)
    other = rows(validation_seed=1)
    assert not np.array_equal(other[2], validation)
    other = rows(permutation="pixels")
    np.testing.assert_array_equal(other[0], subset)
    np.testing.assert_array_equal(other[1], order)
    assert not np.array_equal(other[2], validation)
    assert not np.array_equal(rows(permutation="pixels", permutation_seed=1)[2], other[2])


def test_larger_subsets_contain_smaller_ones_and_never_validation() -> None:
    small, large = (SubsetDataModule(DIAL, size, num_validation=50) for size in (20, 300))
    for data in (small, large):
        data.setup()
    np.testing.assert_array_equal(large.batches.indices[:20], small.batches.indices)
    np.testing.assert_array_equal(small._validation, large._validation)
    assert not set(large.batches.indices) & set(large._validation)


def test_data_may_be_a_name_a_mapping_or_a_folder(tmp_path: Path, pixels: np.ndarray) -> None:
    from written_files import encoded

    assert SubsetDataModule("dial_position", 100).info.num_train == 20_000
    assert SubsetDataModule({"kind": "dial", "num_train": 50}).num_train == 45
    for row, image in enumerate(pixels):
        path = tmp_path / "mine" / ("train" if row < 20 else "test") / ("cat" if row % 2 else "dog") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    data = SubsetDataModule(tmp_path / "mine", 10)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (128, 3, 8, 8)
    assert labels.dtype == torch.int64


def test_what_cannot_be_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"num_train 351 with num_validation 50: .* 400 images, at most 350 remain"):
        SubsetDataModule(DIAL, 351, num_validation=50)
    with pytest.raises(DataError, match=r"'cifar11' is neither a folder nor a shipped data set .*cifar10"):
        SubsetDataModule("cifar11")
    with pytest.raises(DataError, match="augmentation flip is not declared to keep the labels of dial true"):
        SubsetDataModule(DIAL, 10, augmentation=("flip",))


def test_no_warning_about_an_unresumable_loader(tmp_path: Path) -> None:
    trainer(tmp_path, [saver(tmp_path, 3)], max_steps=3).fit(Linear(), datamodule=module())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, max_steps=5).fit(Linear(), datamodule=module(), ckpt_path=tmp_path / "step=3.ckpt")
    assert not [warning for warning in caught if "resum" in str(warning.message)]
