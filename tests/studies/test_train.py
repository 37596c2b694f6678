"""One cell, trained for real: exact FLOPs, exact resume, honest selection, seeds that change only their own thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training import IMMEDIATE, tiny_plan, train

from datamodules import (
    DialData,
    ImageSplit,
    PixelPermutation,
    StepBatches,
    carve_validation,
    nested_subset,
    parse_data,
)
from models import build_network
from models.checkpoints import read_weights
from studies.cell import Cell
from studies.chunked import ChunkedClassifier
from studies.course import CellCourse
from studies.engine_spec import EngineSpec
from studies.errors import StudyError
from studies.grid import Plan
from studies.job_data import JobData
from studies.outcome import TrainedBranch, _status, select, weights_sha256
from studies.program import Chunk, initial_network
from studies.records import DETERMINISTIC_COLUMNS, Record, read_predictions, records_frame
from studies.store import Store
from studies.train import Lockstep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan()


@pytest.fixture(scope="module")
def record(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(plan.cells[0], plan, tmp_path_factory.mktemp("undisturbed"))


def deterministic(record: Record) -> list[dict[str, Any]]:
    return records_frame([record])[list(DETERMINISTIC_COLUMNS)].to_dict("records")


def test_every_branch_is_recorded_at_its_planned_flops(plan: Plan, record: Record) -> None:
    cell = plan.cells[0]
    assert record.status == "finished"
    assert [branch.fraction for branch in record.branches] == [0.125, 0.25, 0.5, 1.0]
    assert [branch.steps for branch in record.branches] == [5, 10, 20, 40]
    for branch in record.branches:
        assert branch.examples == branch.steps * 16
        assert branch.train_flops == branch.planned_train_flops == 3 * cell.forward_flops * 16 * branch.steps
        assert branch.train_flops_exact == (3 * cell.forward_flops - cell.first_layer_flops) * 16 * branch.steps
        assert branch.sees_every_image == (branch.examples >= 50)
    assert record.executed_train_flops == record.planned_train_flops == 3 * cell.forward_flops * 16 * 47  # 1.175 S
    assert sum(branch.selected for branch in record.branches) == 1


def test_flops_are_counted_from_the_images_that_reach_the_network(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter is compared with the images that pass the network in training mode, batch by batch."""
    seen = {"train": 0, "eval": 0}
    forward = ChunkedClassifier.training_step

    def counting(self: ChunkedClassifier, *args: Any) -> None:
        if not getattr(self.network, "is_counted", False):
            self.network.is_counted = True  # type: ignore[assignment]
            self.network.register_forward_pre_hook(
                lambda module, inputs: seen.update(
                    {k: seen[k] + len(inputs[0]) for k in ["train" if module.training else "eval"]}
                )
            )
        forward(self, *args)

    monkeypatch.setattr(ChunkedClassifier, "training_step", counting)
    cell = plan.cells[0]
    record = train(cell, plan, tmp_path)
    assert record.executed_train_flops == 3 * cell.forward_flops * seen["train"]
    assert record.evaluation_flops == cell.forward_flops * seen["eval"]


def test_a_cell_whose_batches_shrink_is_invalid(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StepBatches.batch_at

    def short(self: StepBatches, step: int, **rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = whole(self, step, **rest)
        return (images[:8], labels[:8]) if step == 20 else (images, labels)

    monkeypatch.setattr(StepBatches, "batch_at", short)
    record = train(plan.cells[0], plan, tmp_path)
    assert record.status == "invalid"
    assert "were planned" in record.reason


def test_a_branch_equals_a_plain_training_loop(plan: Plan, record: Record, tmp_path: Path) -> None:
    """Trunk, snapshots and chunks leave no trace: the branch at C/2 is 20 ordinary AdamW steps."""
    cell = plan.cells[0]
    expected = plain_branch(cell, plan, steps=20, warmup=1, cooldown=4)
    settings = EngineSpec(keep_checkpoints=True)
    train(cell, plan, tmp_path, settings)
    kept = read_weights(Store(tmp_path).weights_path(cell.id, 0.5)).state
    assert weights_sha256(kept) == record.branches[2].weights_sha256
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk_steps", [1, 7])
def test_the_size_of_a_chunk_changes_nothing(plan: Plan, record: Record, tmp_path: Path, chunk_steps: int) -> None:
    other = train(plan.cells[0], plan, tmp_path, EngineSpec(chunk_steps=chunk_steps))
    assert deterministic(other) == deterministic(record)
    assert other.train_losses == record.train_losses


def plain_branch(cell: Cell, plan: Plan, *, steps: int, warmup: int, cooldown: int) -> dict[str, torch.Tensor]:
    """A branch as an ordinary loop over `StepBatches`, with everything the cell declares."""
    train_split = plan.spec.data.load("train", seed=cell.seeds.subset)
    pool, _ = carve_validation(train_split.labels, cell.num_validation, seed=cell.seeds.subset)
    rows = pool[nested_subset(train_split.labels[pool], cell.num_train, seed=cell.seeds.subset)]
    batches = StepBatches(
        train_split,
        rows,
        batch_size=cell.batch_size,
        order_seed=cell.seeds.order,
        augmentation_seed=cell.seeds.augmentation,
        augmentation=cell.augmentation,
        permutation=PixelPermutation(cell.permutation, cell.image_size, seed=0),
    )
    size = {"image_size": cell.image_size, "in_channels": cell.in_channels, "num_classes": cell.num_classes}
    with torch.random.fork_rng():
        torch.manual_seed(cell.seeds.initialization)
        network = build_network(cell.family, cell.variant, **size)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices, "weight_decay": cell.weight_decay}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
    for step in range(steps):
        rate = min(1.0, (step + 1) / warmup)
        if step > steps - cooldown:
            rate = 1 - ((step - (steps - cooldown)) / cooldown) ** 0.5
        for group in optimizer.param_groups:
            group["lr"] = cell.learning_rate * rate
        images, labels = batches.batch_at(step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels, label_smoothing=cell.label_smoothing).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.state_dict()


def unequal_images(folder: Path) -> dict[str, Any]:
    """Arrays whose images do not depend on any seed, so that only the subset can; crops and flips keep the labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (400, 16, 16, 1), dtype=np.uint8)
    labels = generator.permutation(np.arange(400) % 2)
    write_archive(folder, images, labels)
    return {"kind": "arrays", "archive": str(folder / "images.npz"), "label_preserving": ["crop", "flip"]}


def write_archive(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez(
        folder / "images.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:100],
        test_labels=labels[:100],
    )


def test_a_long_warm_up_smoothing_crops_and_permuted_pixels_reach_the_weights(tmp_path: Path) -> None:
    """Each of them ignored by the cell, the weights would be others."""
    plan = tiny_plan(
        data=parse_data(unequal_images(tmp_path)),
        permutation="pixels",
        recipe={"label_smoothing": 0.1, "augmentation": ["crop", "flip"], "learning_rate": 0.003},
        budget={"steps": 240, "batch_size": 8, "branches": [0.125, 1.0]},
    )
    cell = plan.cells[0]
    train(cell, plan, tmp_path / "store", EngineSpec(keep_checkpoints=True))
    kept = read_weights(Store(tmp_path / "store").weights_path(cell.id, 0.125)).state
    expected = plain_branch(cell, plan, steps=30, warmup=7, cooldown=6)
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-6)


def test_the_subset_seed_chooses_subset_and_validation_where_images_do_not_change(tmp_path: Path) -> None:
    plan = tiny_plan(data=parse_data(unequal_images(tmp_path)))
    first = course(plan.cells[0], plan, tmp_path / "store")
    other = course(variant(plan.cells[0], subset=99), plan, tmp_path / "store")
    assert set(first.subset.tolist()) != set(other.subset.tolist())
    labels = plan.spec.data.load("train").labels
    pool, _ = carve_validation(labels, 60, seed=99)
    np.testing.assert_array_equal(other.subset, pool[nested_subset(labels[pool], 50, seed=99)])
    assert set(first.validation.tolist()) != set(other.validation.tolist())
    assert set(first.batches.indices_at(0).tolist()) <= set(first.subset.tolist())
    assert set(other.batches.indices_at(0).tolist()) <= set(other.subset.tolist())


def test_data_that_changed_since_the_plan_are_not_trained_on(tmp_path: Path) -> None:
    plan = tiny_plan(data=parse_data(unequal_images(tmp_path)))
    changed = np.random.default_rng(1).integers(0, 256, (400, 16, 16, 1), dtype=np.uint8)
    write_archive(tmp_path, changed, np.arange(400) % 2)
    with pytest.raises(StudyError, match="have changed since the study was planned"):
        train(plan.cells[0], plan, tmp_path / "store")


class _Killed(BaseException):
    """Ends a training the way a signal does: nothing of the cell's own code runs afterwards."""


@pytest.mark.parametrize(
    ("family", "killed_at"), [("mlp", 1), ("mlp", 9), ("mlp", 18), ("resnet", 4), ("resnet", 12), ("vit", 8)]
)
def test_resume_is_bitwise(family: str, killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the trunk, in a cooldown, and in the last cooldown, a cell ends with the bits of an undisturbed one."""
    plan = tiny_plan(families=[family], recipe={"learning_rate": 0.003})
    settings = EngineSpec(chunk_steps=3, checkpoint_seconds=0)
    undisturbed = train(plan.cells[0], plan, tmp_path / "a", settings)
    after_chunk, chunks = Lockstep._after_chunk, 0

    def kill(self: Lockstep, stop: int, chunk: Chunk) -> None:
        nonlocal chunks
        after_chunk(self, stop, chunk)
        chunks += 1
        if chunks == killed_at:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(Lockstep, "_after_chunk", kill)
        with pytest.raises(_Killed):
            train(plan.cells[0], plan, tmp_path / "b", settings)
    resumed = train(plan.cells[0], plan, tmp_path / "b", EngineSpec(chunk_steps=4, checkpoint_seconds=0))
    assert resumed.resumes == 1
    assert deterministic(resumed) == deterministic(undisturbed)
    assert resumed.train_losses == undisturbed.train_losses
    assert not list((tmp_path / "b").rglob("checkpoint*")), "checkpoints are not kept beyond the record"


def test_two_trainings_leave_the_same_record(plan: Plan, record: Record, tmp_path: Path) -> None:
    assert deterministic(train(plan.cells[0], plan, tmp_path)) == deterministic(record)


def test_the_test_split_is_read_once_and_last(
    plan: Plan, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other test labels everything but the test columns stays: nothing was chosen on them."""
    load, loads, validated = DialData.load, [], []
    end_branch = CellCourse._end_branch

    def spying(self: DialData, split: Any, **rest: Any) -> ImageSplit:
        loads.append((split, len(validated)))
        images = load(self, split, **rest)
        if split == "train":
            return images
        return ImageSplit.from_arrays(images.images, 1 - images.labels, images.class_names)

    monkeypatch.setattr(DialData, "load", spying)
    monkeypatch.setattr(
        CellCourse,
        "_end_branch",
        lambda self, branch, network: (end_branch(self, branch, network), validated.append(branch)),
    )
    other = train(plan.cells[0], plan, tmp_path)
    assert loads == [("train", 0), ("test", 4)]
    for ours, theirs in zip(record.branches, other.branches, strict=True):
        assert ours.test_error == pytest.approx(1 - theirs.test_error)
        for field in ("selected", "validation_error", "validation_loss", "weights_sha256", "examples"):
            assert getattr(ours, field) == getattr(theirs, field)


def branch(fraction: float, validation_error: float, weights: dict[str, torch.Tensor] | None) -> TrainedBranch:
    return {
        "fraction": fraction,
        "weights": weights,
        "examples": 1,
        "validation_error": validation_error,
        "validation_loss": 0.0,
    }


def test_selection_takes_the_best_on_validation_and_of_equals_the_cheapest() -> None:
    weights: dict[str, torch.Tensor] = {}
    branches = [branch(0.125, 0.3, weights), branch(0.25, 0.2, weights), branch(0.5, 0.2, weights)]
    assert select(branches)["fraction"] == 0.25
    assert select([*branches, branch(1.0, 0.1, weights)])["fraction"] == 1.0
    assert select([*branches, branch(1.0, 0.1, None)])["fraction"] == 0.25, "a diverged branch is never chosen"


def test_selected_is_the_smallest_validation_error_of_the_record(record: Record) -> None:
    best = min(record.branches, key=lambda one: (one.validation_error, one.fraction))
    assert best.selected


def test_validation_images_are_never_trained_on(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: set[int] = set()
    whole = StepBatches.batch_at

    def spying(self: StepBatches, step: int, **rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows.update(self.indices_at(step).tolist())
        return whole(self, step, **rest)

    monkeypatch.setattr(StepBatches, "batch_at", spying)
    train(plan.cells[0], plan, tmp_path)
    labels = plan.spec.data.load("train", seed=0).labels
    _, validation = carve_validation(labels, 60, seed=0)
    assert len(rows) == 50, "every image of the subset is used, the last of each epoch too"
    assert not rows & set(validation.tolist())


def test_a_loss_that_is_not_finite_is_chance_and_flagged(tmp_path: Path) -> None:
    plan = tiny_plan(recipe={"learning_rate": 1e30})
    record = train(plan.cells[0], plan, tmp_path)
    assert record.status == "diverged"
    assert len(record.branches) == 4
    assert all(one.diverged and one.test_error == 0.5 and one.validation_error == 0.5 for one in record.branches)
    assert Store(tmp_path).record(record.cell_id) == record


def test_status_needs_flops_within_half_a_percent(record: Record) -> None:
    planned = record.planned_train_flops
    assert _status(record.branches, planned, planned)[0] == "finished"
    assert _status(record.branches, int(planned * 1.004), planned)[0] == "finished"
    assert _status(record.branches, int(planned * 1.006), planned)[0] == "invalid"
    assert _status(record.branches, planned * 2, planned)[0] == "invalid"


def test_predictions_give_the_recorded_errors_and_losses(plan: Plan, tmp_path: Path) -> None:
    record = train(plan.cells[0], plan, tmp_path)
    kept = read_predictions(Store(tmp_path).predictions_path(record.cell_id))
    truth = plan.spec.data.load("test", seed=0).labels
    np.testing.assert_array_equal(kept["label"], truth)
    for row, one in enumerate(record.branches):
        assert kept["branch"][row] == one.fraction
        assert (kept["predicted_class"][row] != truth).mean() == one.test_error
        assert -kept["log_probability"][row].astype(float).mean() == pytest.approx(one.test_loss, rel=1e-3)


def variant(cell: Cell, **seeds: int) -> Cell:
    return cell.model_copy(update={"seeds": cell.seeds.model_copy(update=seeds)})


def course(cell: Cell, plan: Plan, folder: Path) -> CellCourse:
    return CellCourse(cell, JobData(plan.spec.data), Store(folder), IMMEDIATE, "cpu")


class TestSeeds:
    """Each seed changed alone changes only its own thing."""

    @pytest.fixture
    def base(self, plan: Plan, tmp_path: Path) -> CellCourse:
        return course(plan.cells[0], plan, tmp_path)

    @staticmethod
    def traits(one: CellCourse) -> dict[str, Any]:
        return {
            "subset": one.subset.tolist(),
            "validation": one.validation.tolist(),
            "order": [one.batches.order.places_at(step).tolist() for step in range(5)],
            "initialization": weights_sha256(initial_network(one.cell).state_dict()),
        }

    @pytest.mark.parametrize(
        ("seed", "changed"),
        [
            ("subset", {"subset", "validation"}),
            ("order", {"order"}),
            ("initialization", {"initialization"}),
            ("augmentation", set()),
        ],
    )
    def test_alone(self, seed: str, changed: set[str], base: CellCourse, plan: Plan, tmp_path: Path) -> None:
        other = course(variant(plan.cells[0], **{seed: 99}), plan, tmp_path)
        ours, theirs = self.traits(base), self.traits(other)
        assert {name for name in ours if ours[name] != theirs[name]} == changed

    def test_ids_differ(self, plan: Plan) -> None:
        cell = plan.cells[0]
        cells = [cell, *(variant(cell, **{kind: 99}) for kind in type(cell.seeds).model_fields)]
        assert len({one.id for one in cells}) == 5

    def test_the_augmentation_seed_moves_the_crops(self) -> None:
        split = tiny_plan().spec.data.load("train", seed=0)
        first, same, other = (
            StepBatches(split, batch_size=16, order_seed=0, augmentation_seed=seed, augmentation=("crop",)).batch_at(3)
            for seed in (0, 0, 1)
        )
        assert torch.equal(first[0], same[0])
        assert not torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])

    def test_replicates_differ(self, tmp_path: Path) -> None:
        plan = tiny_plan(replicates=2)
        first, second = (train(cell, plan, tmp_path) for cell in plan.cells)
        assert first.train_checksum != second.train_checksum, "the dial draws fresh images"
        assert first.test_checksum != second.test_checksum
        assert first.branches[-1].weights_sha256 != second.branches[-1].weights_sha256
