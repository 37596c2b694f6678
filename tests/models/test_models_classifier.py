"""`ImageClassifier` in the hands of an ordinary Lightning user."""

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from models import ImageClassifier, build_optimizer, learning_rate_factor
from models.registry import build_network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # Lightning 2.6 asks this of a newer torch
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
NUM_IMAGES, BATCH_SIZE, NUM_CLASSES = 32, 8, 3


def new_classifier(**options: object) -> ImageClassifier:
    settings: dict[str, Any] = {
        "image_size": 16,
        "num_classes": NUM_CLASSES,
        "in_channels": 1,
        "initialization_seed": 7,
    }
    return ImageClassifier("mlp", "nano", **(settings | options))


def batches() -> DataLoader[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_IMAGES, 1, 16, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(NUM_IMAGES) % NUM_CLASSES), batch_size=BATCH_SIZE)


def new_trainer(**options: object) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 8,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(settings | options))


def weights(classifier: ImageClassifier) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in classifier.network.parameters()])


def test_fit_is_the_loop_one_would_write_by_hand() -> None:
    classifier = new_classifier(learning_rate=3e-3, warmup_fraction=0.25, cooldown_fraction=0.5)
    new_trainer(gradient_clip_val=1.0).fit(classifier, batches())

    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = build_network("mlp", "nano", image_size=16, in_channels=1, num_classes=NUM_CLASSES)
    optimizer = build_optimizer(network, 3e-3, 0.05, fused=True)
    for step, (images, labels) in enumerate([*batches(), *batches()]):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * learning_rate_factor(step, total_steps=8, warmup_steps=2, cooldown_steps=4)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        # Lightning sums the norm in the optimiser's order, and the last bit depends on it
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert torch.equal(weights(classifier), expected)


def test_validate_and_test_give_loss_error_and_calibration_error() -> None:
    classifier = new_classifier()
    trainer = new_trainer(max_steps=20)
    (untrained,) = trainer.validate(classifier, batches(), verbose=False)
    assert untrained["val/loss"] == pytest.approx(math.log(NUM_CLASSES))
    trainer.fit(classifier, batches())
    (metrics,) = trainer.test(classifier, batches(), verbose=False)
    log_probabilities = torch.cat(trainer.predict(classifier, batches()))  # type: ignore[arg-type]
    labels = torch.cat([batch[1] for batch in batches()])
    wrong = (log_probabilities.argmax(dim=1) != labels).double().mean()
    assert metrics["test/error"] == pytest.approx(float(wrong))
    assert metrics["test/loss"] == pytest.approx(float(F.nll_loss(log_probabilities, labels)), abs=1e-6)
    confidence, predicted = log_probabilities.exp().max(dim=1)
    bins = (confidence * 15).ceil().long()
    gaps = [
        abs(float(confidence[bins == b].sum() - (predicted == labels)[bins == b].sum())) / NUM_IMAGES
        for b in bins.unique()
    ]
    assert metrics["test/calibration_error"] == pytest.approx(sum(gaps), abs=1e-5)


def test_predict_takes_images_without_labels() -> None:
    images = DataLoader(torch.randn(5, 1, 16, 16), batch_size=5)  # type: ignore[arg-type, var-annotated]
    predictions = new_trainer().predict(new_classifier(), images)
    assert torch.allclose(predictions[0], torch.full((5, NUM_CLASSES), -math.log(NUM_CLASSES)))  # type: ignore


def test_users_accumulation_callbacks_and_loggers_work(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/error", save_last=True)
    trainer = new_trainer(
        max_steps=-1,
        max_epochs=3,
        accumulate_grad_batches=2,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=True,
        callbacks=[checkpoints, LearningRateMonitor()],
    )
    classifier = new_classifier(warmup_fraction=0.5, cooldown_fraction=0.5)
    trainer.fit(classifier, batches(), batches())
    assert trainer.global_step == 6  # 3 epochs x 4 batches / 2
    assert Path(checkpoints.best_model_path).is_file()
    log = (Path(str(trainer.logger.log_dir)) / "metrics.csv").read_text()  # type: ignore[union-attr]
    for name in ("train/loss", "val/loss", "val/error", "val/calibration_error", "lr-AdamW"):
        assert name in log.splitlines()[0]
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0] == 0  # cooled down over 6 steps, not 12


class SaveOnce(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


def test_resumed_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    middle = tmp_path / "middle.ckpt"
    uninterrupted = new_classifier()
    new_trainer(callbacks=[SaveOnce(middle)]).fit(uninterrupted, batches())
    resumed = new_classifier(initialization_seed=8)
    trainer = new_trainer()
    trainer.fit(resumed, batches(), ckpt_path=middle, weights_only=True)
    assert trainer.global_step == 8
    assert torch.equal(weights(resumed), weights(uninterrupted))


def test_checkpoint_loads_as_weights_only(tmp_path: Path) -> None:
    classifier = new_classifier(label_smoothing=0.1)
    trainer = new_trainer()
    trainer.fit(classifier, batches())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(weights(loaded), weights(classifier))
    assert dict(loaded.hparams) == dict(classifier.hparams)
    assert {type(value) for value in classifier.hparams.values()} <= {str, int, float, type(None)}


def test_initial_weights_come_from_their_seed_alone_and_disturb_no_other_draw() -> None:
    torch.manual_seed(1)
    first = weights(new_classifier())
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(2)
    assert torch.equal(weights(new_classifier()), first)
    assert not torch.equal(weights(new_classifier(initialization_seed=9)), first)
    assert not torch.equal(weights(new_classifier(initialization_seed=7 + 2**32)), first)  # torch would cut it to 7
    torch.manual_seed(1)
    free = weights(new_classifier(initialization_seed=None))
    assert not torch.equal(free, weights(new_classifier(initialization_seed=None)))
    torch.manual_seed(1)
    assert torch.equal(free, weights(new_classifier(initialization_seed=None)))


def test_label_smoothing_is_in_the_training_loss_only() -> None:
    images, labels = next(iter(batches()))
    smoothed = new_classifier(label_smoothing=0.3)
    torch.nn.init.normal_(smoothed.network.head.weight)  # type: ignore[union-attr, arg-type]
    expected = F.cross_entropy(smoothed(images), labels, label_smoothing=0.3)
    assert torch.equal(smoothed.training_loss(images, labels), expected)
    (metrics,) = new_trainer(limit_test_batches=1).test(smoothed, batches(), verbose=False)
    assert metrics["test/loss"] == pytest.approx(float(F.cross_entropy(smoothed(images), labels).detach()))


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="give it max_steps or max_epochs"):
        new_trainer(max_steps=-1, max_epochs=-1).fit(new_classifier(), batches())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"warmup_fraction": 0.6, "cooldown_fraction": 0.5}, "at most 1 together"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"num_classes": 1}, "num_classes=1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_classifier(**options)


def test_the_other_lightning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = new_classifier()
    with pytest.raises(TypeError, match="`import pytorch_lightning as pl` instead of"):
        classifier.trainer = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", types.ModuleType("lightning.pytorch"))
    with pytest.warns(UserWarning, match="`import pytorch_lightning as pl` instead of"):
        new_classifier()


@pytest.mark.parametrize("family", ["vit", "hybrid", "resnet", "mixer", "lstm", "mlp"])
def test_only_matrices_decay(family: str) -> None:
    network = build_network(family, "nano", image_size=16, in_channels=1, num_classes=2)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed = set()
    groups = build_optimizer(network, 1e-3, 0.1).param_groups
    for group in groups:
        assert group["betas"] == (0.9, 0.999)
        decayed |= {names[id(parameter)] for parameter in group["params"] if group["weight_decay"] == 0.1}
    assert sum(len(group["params"]) for group in groups) == len(names)
    expected = {name for name, p in network.named_parameters() if p.ndim > 1 and name != "pos_embed"}
    assert decayed == expected
