"""Objectives: questions are functions of a place, and a masked cell is trained and stopped like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from training import tiny_plan, train

from datamodules import DialData, ImageSplit, Normalization, StepBatches
from models import MaskedPatchNetwork, build_network, masked_patch_flops, read_weights
from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.evaluation import predict
from studies.grid import Plan
from studies.objective import Classification, MaskedPatches, objective_of
from studies.outcome import weights_sha256
from studies.program import Chunk, initial_network
from studies.records import DETERMINISTIC_COLUMNS, Record, read_predictions, records_frame
from studies.store import Store
from studies.train import Lockstep, _can_share

DIAL = DialData(num_train=300, num_test=200)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def masked_patches(*, initialization_seed: int = 0, augmentation_seed: int = 0) -> MaskedPatches:
    return MaskedPatches(1, initialization_seed=initialization_seed, augmentation_seed=augmentation_seed)


def vit() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network("vit", "nano", image_size=16, in_channels=1, num_classes=2)


@pytest.fixture
def batches() -> StepBatches:
    return StepBatches(DIAL.load("train"), batch_size=16, order_seed=0, augmentation=("crop",))


def masked_cell(plan: Plan) -> Cell:
    flops = masked_patch_flops("vit", "nano", image_size=16, in_channels=1)
    update = {"objective": "masked_patches", "forward_flops": flops.total, "first_layer_flops": flops.first_layer}
    return plan.cells[0].model_copy(update=update)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan(families=["vit"], recipe={"learning_rate": 0.003})


@pytest.fixture(scope="module")
def trained(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Store]:
    folder = tmp_path_factory.mktemp("masked")
    return train(masked_cell(plan), plan, folder, EngineSpec(keep_checkpoints=True)), Store(folder)


def deterministic(record: Record) -> list[dict[str, Any]]:
    return records_frame([record])[list(DETERMINISTIC_COLUMNS)].to_dict("records")


class TestPixels:
    @pytest.mark.parametrize(("mean", "std"), [(0.1, 0.3), (33.3, 12.7), (127.5, 64.0), (250.1, 3.3)])
    def test_they_are_had_back_from_normalised_images_exactly(self, mean: float, std: float) -> None:
        values = np.arange(256, dtype=np.uint8)
        pixels = np.stack([values, values[::-1]]).reshape(2, 16, 16, 1)
        split = ImageSplit.from_arrays(pixels, np.array([0, 1]), ("a", "b"))
        batches = StepBatches(split, batch_size=2, order_seed=0, normalization=Normalization((mean,), (std,)))
        images, labels = next(batches.evaluation_batches())
        assert labels.tolist() == [0, 1]
        np.testing.assert_array_equal(batches.pixel_values(images)[:, 0].numpy(), pixels[..., 0])

    def test_each_channel_has_its_own_statistics(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        split = ImageSplit.from_arrays(pixels, np.array([0, 1, 0, 1]), ("a", "b"))
        batches = StepBatches(split, batch_size=2, order_seed=0, normalization=Normalization((1, 90, 200), (2, 50, 9)))
        images, _ = next(batches.evaluation_batches())
        np.testing.assert_array_equal(batches.pixel_values(images).numpy(), pixels.transpose(0, 3, 1, 2))


class TestQuestions:
    def test_classification_asks_for_the_labels(self, batches: StepBatches) -> None:
        images, labels = batches.batch_at(0)
        objective, network = Classification(2), vit()
        assert objective.adapted(network) is network
        for question in (
            objective.training_question(network, batches, images, labels, 5),
            objective.evaluation_question(network, batches, images, labels, 5),
        ):
            assert question.inputs[0] is images
            assert question.answers is labels

    def test_masks_follow_seed_and_step_alone(self, batches: StepBatches) -> None:
        network = masked_patches().adapted(vit())
        images, labels = batches.batch_at(3)

        def places(seed: int, step: int) -> torch.Tensor:
            objective = masked_patches(augmentation_seed=seed)
            question = objective.training_question(network, batches, images, labels, step)
            return torch.cat([part.flatten().long() for part in question.inputs[1]])

        assert torch.equal(places(0, 3), places(0, 3))
        assert not torch.equal(places(0, 3), places(0, 4))
        assert not torch.equal(places(0, 3), places(1, 3))

    def test_processes_that_share_a_batch_ask_what_one_would(self, batches: StepBatches) -> None:
        objective = masked_patches()
        network = objective.adapted(vit())
        whole = objective.training_question(network, batches, *batches.batch_at(3), 3)
        for rank in range(2):
            share = batches.batch_at(3, rank=rank, world_size=2)
            part = objective.training_question(network, batches, *share, 3, rank=rank, world_size=2)
            for mine, all_of_them in zip(part.inputs[1], whole.inputs[1], strict=True):
                assert torch.equal(mine, all_of_them[rank::2])
            assert torch.equal(part.answers, whole.answers.view(16, -1)[rank::2].flatten())

    def test_an_evaluation_does_not_depend_on_the_size_of_its_batches_or_on_the_cell(
        self, batches: StepBatches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = masked_patches().adapted(vit())
        torch.nn.init.normal_(network.get_submodule("predictor").weight)  # type: ignore[arg-type]
        found = predict(network, batches, masked_patches(), "fp32", split=DIAL.load("test"))
        monkeypatch.setattr(StepBatches, "evaluation_batch_size", 7)
        other = predict(
            network,
            batches,
            masked_patches(initialization_seed=5, augmentation_seed=5),
            "fp32",
            split=DIAL.load("test"),
        )
        assert len(found.truth) == 200 * 8
        assert torch.equal(found.truth, other.truth)
        assert torch.equal(found.predicted, other.predicted)
        torch.testing.assert_close(found.log_probability, other.log_probability, rtol=1e-5, atol=1e-5)

    def test_the_backbone_begins_as_the_classifier_does(self, plan: Plan) -> None:
        classifier, masked = initial_network(plan.cells[0]), initial_network(masked_cell(plan))
        assert isinstance(masked, MaskedPatchNetwork)
        expected = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith("head.")}
        assert weights_sha256(masked.backbone_state()) == weights_sha256(expected)
        again = initial_network(masked_cell(plan))
        assert weights_sha256(again.state_dict()) == weights_sha256(masked.state_dict())
        assert 0 < float(masked.mask_embedding.detach().abs().max()) < 0.1

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        masked_patches().adapted(vit())
        assert torch.equal(torch.get_rng_state(), before)


def faked(network: torch.nn.Module, device: str) -> None:
    """Exchanges weights for fake ones of a device, inside a `FakeTensorMode`."""
    for layer in network.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            layer.register_parameter(name, torch.nn.Parameter(torch.empty(parameter.shape, device=device)))


def test_a_step_asks_a_gpu_for_nothing(batches: StepBatches) -> None:
    """On fake CUDA tensors a question for a value, or a table left on the CPU, is an error."""
    objective = masked_patches()
    network = objective.adapted(vit())
    with FakeTensorMode():
        faked(network, "cuda")
        images = torch.empty(16, 1, 16, 16, device="cuda")
        batches._scale, batches._offset = torch.empty(1, 1), torch.empty(1, 1)
        with pytest.raises(RuntimeError, match="device"):  # the test would see a table in the wrong place
            objective.training_question(network, batches, images, images, 3)
        batches._scale, batches._offset = (torch.empty(1, 1, device="cuda") for _ in range(2))
        question = objective.training_question(network, batches, images, images, 3)
        evaluated = objective.evaluation_question(network, batches, images, images, 40)
        for one in (question, evaluated):
            loss = F.cross_entropy(network(*one.inputs), one.answers)
            assert loss.device.type == "cuda"
            assert one.answers.shape == (16 * 8,)
            with pytest.raises(DataDependentOutputException):  # and a step that waits
                float(loss)


def test_the_backward_pass_asks_for_nothing(batches: StepBatches) -> None:
    objective = masked_patches()
    network = objective.adapted(vit())
    with FakeTensorMode():
        faked(network, "cpu")
        batches._scale, batches._offset = torch.empty(1, 1), torch.empty(1, 1)
        images = torch.empty(16, 1, 16, 16)
        question = objective.training_question(network, batches, images, images, 3)
        F.cross_entropy(network(*question.inputs), question.answers).backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in network.parameters())


class TestCell:
    def test_ids_of_classifying_cells_have_not_moved_and_those_of_masked_ones_differ(self, plan: Plan) -> None:
        cell = plan.cells[0]
        assert cell.objective == "classification"
        assert cell.model_copy(update={"objective": "masked_patches"}).id != cell.id
        assert isinstance(objective_of(cell), Classification)

    def test_every_branch_is_recorded(self, plan: Plan, trained: tuple[Record, Store]) -> None:
        record, cell = trained[0], masked_cell(plan)
        assert record.status == "finished"
        assert [branch.steps for branch in record.branches] == [5, 10, 20, 40]
        assert record.executed_train_flops == record.planned_train_flops == 3 * cell.forward_flops * 16 * 47
        assert all(0 < branch.validation_error < 1 for branch in record.branches)
        assert record.branches[-1].validation_loss < np.log(8)

    def test_it_trains_alone(self, plan: Plan) -> None:
        assert not _can_share(masked_cell(plan))
        assert _can_share(plan.cells[0])

    def test_predictions_are_those_of_the_corrupted_patches(self, plan: Plan, trained: tuple[Record, Store]) -> None:
        record, store = trained
        kept = read_predictions(store.predictions_path(record.cell_id))
        assert kept["label"].shape == (300 * 8,)
        assert kept["predicted_class"].shape == (4, 300 * 8)
        for row, one in enumerate(record.branches):
            assert (kept["predicted_class"][row] != kept["label"]).mean() == one.test_error
            assert -kept["log_probability"][row].astype(float).mean() == pytest.approx(one.test_loss, rel=1e-3)

    def test_kept_weights_start_a_classifier(self, plan: Plan, trained: tuple[Record, Store]) -> None:
        record, store = trained
        kept = read_weights(store.weights_path(record.cell_id, 1.0), sha256=record.kept_sha256).state
        classifier = initial_network(plan.cells[0])
        before = weights_sha256(classifier.state_dict())
        misfits = classifier.load_state_dict(dict(kept), strict=False)
        assert misfits.unexpected_keys == []
        assert set(misfits.missing_keys) <= {"head.weight", "head.bias"}
        assert weights_sha256(classifier.state_dict()) != before

    def test_the_size_of_a_chunk_changes_nothing(
        self, plan: Plan, trained: tuple[Record, Store], tmp_path: Path
    ) -> None:
        other = train(masked_cell(plan), plan, tmp_path, EngineSpec(chunk_steps=7))
        assert deterministic(other) == deterministic(trained[0])
        assert other.train_losses == trained[0].train_losses

    @pytest.mark.parametrize("killed_at", [2, 9])
    def test_resume_is_bitwise(
        self,
        plan: Plan,
        trained: tuple[Record, Store],
        killed_at: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        after_chunk, chunks = Lockstep._after_chunk, 0

        class Killed(BaseException):
            pass

        def kill(self: Lockstep, stop: int, chunk: Chunk) -> None:
            nonlocal chunks
            after_chunk(self, stop, chunk)
            chunks += 1
            if chunks == killed_at:
                raise Killed

        settings = EngineSpec(chunk_steps=3, checkpoint_seconds=0)
        with monkeypatch.context() as patch:
            patch.setattr(Lockstep, "_after_chunk", kill)
            with pytest.raises(Killed):
                train(masked_cell(plan), plan, tmp_path, settings)
        resumed = train(masked_cell(plan), plan, tmp_path, settings)
        assert resumed.resumes == 1
        assert deterministic(resumed) == deterministic(trained[0])

    def test_one_that_diverges_is_chance_over_colours(self, plan: Plan, tmp_path: Path) -> None:
        cell = masked_cell(plan).model_copy(update={"learning_rate": 1e30})
        record = train(cell, plan, tmp_path)
        assert record.status == "diverged"
        assert all(one.validation_error == one.test_error == 7 / 8 for one in record.branches)
        assert read_predictions(Store(tmp_path).predictions_path(record.cell_id))["label"].shape == (300 * 8,)


def test_colours_that_neighbours_tell_are_learnt_and_others_are_not() -> None:
    """Images of one grey: a hidden patch is known from any other. Patches of independent greys: nothing tells them."""
    generator = np.random.default_rng(0)
    errors = {}
    for name, shape in (("one grey", (600, 1, 1, 1)), ("independent greys", (600, 4, 4, 1))):
        levels = generator.integers(0, 8, shape) * 32 + 16
        pixels = np.broadcast_to(levels.repeat(16 // shape[1], 1).repeat(16 // shape[2], 2), (600, 16, 16, 1))
        split = ImageSplit.from_arrays(pixels.astype(np.uint8), np.arange(600) % 2, ("a", "b"))
        batches = StepBatches(split, np.arange(500), batch_size=32, order_seed=0)
        objective = masked_patches()
        network = objective.adapted(vit())
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for step in range(120):
            question = objective.training_question(network, batches, *batches.batch_at(step), step)
            loss = F.cross_entropy(network(*question.inputs), question.answers)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        errors[name] = predict(network, batches, objective, "fp32", indices=np.arange(500, 600)).error
    assert errors["one grey"] < 0.2
    assert 0.72 < errors["independent greys"] < 0.92, "7/8 of the hidden nine tenths; a tenth is there to be seen"
