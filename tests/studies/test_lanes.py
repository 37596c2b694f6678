"""Cells trained as lanes of one program leave the records they would leave alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from training import tiny_plan, train

from datamodules import Normalization, parse_data
from models.checkpoints import read_weights
from models.lanes import LaneAdamW
from studies import train as train_module
from studies.chunked import ChunkedClassifier
from studies.course import batches_of
from studies.job_data import JobData
from studies.jobs import program_key
from studies.lane_program import LaneProgram
from studies.lane_width import cpu_width, takes_lanes, width_of
from studies.planning import Cell, Plan
from studies.program import Chunk
from studies.records import DETERMINISTIC_COLUMNS, Record, read_predictions, records_frame
from studies.spec import EngineSpec
from studies.store import Store
from studies.train import Lockstep, train_cells

KEPT = EngineSpec(keep_checkpoints=True, chunk_steps=7)
SOLO = KEPT.model_copy(update={"lanes": 1})
BUDGET = {"steps": 40, "batch_size": 24, "branches": [0.5, 1.0]}
RTOL = 1e-5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lane_plan(family: str = "mlp", **changes: Any) -> Plan:
    """Four cells of one program: N below and above the batch, two replicates with fresh images."""
    content = {
        "families": [family],
        "num_train": [20, 60],
        "replicates": 2,
        "budget": BUDGET,
        "recipe": {"learning_rate": 3e-4},  # AdamW turns a gradient that is rounding noise into a step of this length
    }
    return tiny_plan(**(content | changes))


def together(
    cells: Sequence[Cell], plan: Plan, folder: Path, settings: EngineSpec = KEPT, **rest: Any
) -> dict[str, Record]:
    assert len({program_key(cell) for cell in cells}) == 1
    found = dict(train_cells(cells, plan.spec.data, Store(folder), plan.study_id, plan.hash, settings, **rest))
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return {cell_id: record for cell_id, record in found.items() if isinstance(record, Record)}


def weights(folder: Path, cell: Cell, fraction: float) -> torch.Tensor:
    kept = read_weights(Store(folder).weights_path(cell.id, fraction)).state
    return torch.cat([kept[name].double().flatten() for name in sorted(kept)])


def deterministic(record: Record) -> list[dict[str, Any]]:
    return records_frame([record])[list(DETERMINISTIC_COLUMNS)].to_dict("records")


def assert_same(ours: Record, theirs: Record, rtol: float = RTOL) -> None:
    """Equal but for rounding: everything discrete exactly, losses within `rtol`."""
    for field in (
        "cell_id",
        "status",
        "reason",
        "subset_hash",
        "validation_hash",
        "train_checksum",
        "test_checksum",
        "planned_train_flops",
        "executed_train_flops",
        "evaluation_flops",
        "num_parameters",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    for mine, other in zip(ours.branches, theirs.branches, strict=True):
        for field in ("fraction", "steps", "examples", "train_flops", "train_flops_exact", "selected", "diverged"):
            assert getattr(mine, field) == getattr(other, field), field
        for field in ("validation_error", "validation_loss", "test_error", "test_loss"):
            assert getattr(mine, field) == pytest.approx(getattr(other, field), rel=rtol), field
        assert mine.test_calibration_error == pytest.approx(
            other.test_calibration_error, abs=1e-6
        )  # a small difference
    assert [(one.branch, one.step) for one in ours.train_losses] == [(x.branch, x.step) for x in theirs.train_losses]
    np.testing.assert_allclose(
        [one.loss for one in ours.train_losses], [one.loss for one in theirs.train_losses], rtol=rtol
    )


@pytest.mark.parametrize("family", ["vit", "resnet-circular", "mixer", "mlp", "lstm", "hybrid"])
def test_a_lane_equals_its_solo_run(family: str, tmp_path: Path) -> None:
    plan = lane_plan(family)
    cells = plan.cells[:3]
    found = together(cells, plan, tmp_path / "lanes")
    for cell in cells:
        solo = train(cell, plan, tmp_path / "solo", SOLO)
        assert solo.status == "finished"
        assert_same(found[cell.id], solo)
        for fraction in cell.branches:
            ours, theirs = weights(tmp_path / "lanes", cell, fraction), weights(tmp_path / "solo", cell, fraction)
            assert float((ours - theirs).norm() / theirs.norm()) < RTOL
        kept = read_predictions(Store(tmp_path / "lanes").predictions_path(cell.id))
        alone = read_predictions(Store(tmp_path / "solo").predictions_path(cell.id))
        np.testing.assert_array_equal(kept["predicted_class"], alone["predicted_class"])
    assert not list((tmp_path / "lanes").rglob("checkpoint*")), "checkpoints are not kept beyond the record"


@pytest.mark.parametrize("family", ["vit", "resnet-circular"])
def test_on_a_cpu_company_changes_no_bit(family: str, tmp_path: Path) -> None:
    """A cell that may train in lanes does so alone too: how cells meet depends on workers, launchers and faults."""
    plan, settings = lane_plan(family), KEPT if family == "vit" else KEPT.model_copy(update={"lanes": 3})
    found = together(plan.cells[:3], plan, tmp_path / "three", settings)
    for cell in plan.cells[:2]:
        alone = train(cell, plan, tmp_path / "alone", settings)
        assert deterministic(alone) == deterministic(found[cell.id])
        assert alone.train_losses == found[cell.id].train_losses


def test_each_replicate_is_normalised_by_its_own_split() -> None:
    plan = lane_plan()
    data = JobData(plan.spec.data)
    seen = set()
    for cell in plan.cells:
        found = batches_of(cell, data, "cpu", pooled=False).normalization
        assert found == Normalization.of(plan.spec.data.load("train", seed=cell.seeds.subset))
        seen.add(found)
    assert len(seen) == 2


def test_lanes_share_the_seconds_that_passed(tmp_path: Path) -> None:
    plan = lane_plan()
    started = time.monotonic()
    found = together(plan.cells, plan, tmp_path)
    passed = time.monotonic() - started
    seconds = [record.train_seconds for record in found.values()]
    assert 0 < sum(seconds) <= passed
    assert max(seconds) < 2 * min(seconds)


class CapturedOnTheCPU:
    """Warms up, undoes it, and then calls the step where a graph would be replayed."""

    def __init__(self, step: Any, warm_up: Any, undo: Any, device: torch.device) -> None:
        for _ in range(3):
            warm_up()
        undo()
        self.replay = step


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_warm_up_leaves_no_trace(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.lane_program.CapturedStep", CapturedOnTheCPU)
    plan = lane_plan(family)
    cells, data = plan.cells[:3], JobData(plan.spec.data)
    batches = [batches_of(cell, data, "cpu", pooled=True) for cell in cells]
    expected, warmed = (LaneProgram(cells, batches, "cpu", chunk_steps=7) for _ in range(2))
    for program in (expected, warmed):
        program.run(0, 5)
    warmed._captured = warmed._capture()
    for lane in range(3):
        ours, theirs = warmed.snapshot(lane), expected.snapshot(lane)
        assert all(torch.equal(ours["network"][name], theirs["network"][name]) for name in theirs["network"])
        for index, state in theirs["optimizer"]["state"].items():
            assert all(torch.equal(ours["optimizer"]["state"][index][name], state[name]) for name in state)
    assert torch.equal(warmed.run(5, 12).losses, expected.run(5, 12).losses)


def test_lanes_whose_images_do_not_fit_train_alone_and_read_theirs_batch_by_batch(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    asked: list[int] = []
    monkeypatch.setattr(train_module, "fits", lambda num_bytes, device: asked.append(num_bytes))
    monkeypatch.setattr(train_module, "LaneProgram", None)
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert_same(record, expected[cell_id])
    assert asked == [2 * 16 * 16 * (20 + 60) * 2], "two splits, each with the images of both sizes, twice"


def test_a_solo_run_that_goes_on_from_a_lane_keeps_its_fused_optimiser(tmp_path: Path) -> None:
    plan = lane_plan()
    data = JobData(plan.spec.data)
    batches = batches_of(plan.cells[0], data, "cpu", pooled=False)
    solo = ChunkedClassifier(plan.cells[0], batches)
    solo.restore(0, LaneProgram(plan.cells[:1], [batches], "cpu").snapshot(0))
    assert [group["fused"] for group in solo.configure_optimizers().param_groups] == [True, True]


@pytest.mark.parametrize(
    ("arm", "size", "lanes"),
    [("vit", 16, 3), ("mixer", 16, 3), ("lstm", 16, 3), ("vit", 32, 1), ("mlp", 16, 1), ("resnet", 16, 1)],
)
def test_small_networks_that_share_weights_train_in_lanes_on_a_cpu(arm: str, size: int, lanes: int) -> None:
    data = parse_data({"kind": "dial", "num_train": 400, "num_test": 300, "image_size": size})
    (cell, *_) = lane_plan(arm, data=data).cells
    assert cpu_width(cell) == width_of(cell, JobData(data), KEPT, "cpu") == lanes
    assert takes_lanes(cell, KEPT, "cpu") == (lanes > 1)
    assert takes_lanes(cell, KEPT.model_copy(update={"lanes": 2}), "cpu")
    assert not takes_lanes(cell, SOLO, "cpu")
    assert takes_lanes(cell, SOLO, "cuda:0")
    assert not takes_lanes(cell, KEPT.model_copy(update={"devices_per_cell": 2}), "cuda:0")


def test_crops_permuted_pixels_smoothing_and_rates_of_its_own_reach_each_lane(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (400, 16, 16, 3), dtype=np.uint8), np.arange(400) % 2
    np.savez(
        tmp_path / "images.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:100],
        test_labels=labels[:100],
    )
    source = {"kind": "arrays", "archive": str(tmp_path / "images.npz"), "label_preserving": ["crop", "flip"]}
    plan = lane_plan(
        data=parse_data(source),
        permutation="pixels",
        recipe={"label_smoothing": 0.1, "augmentation": ["crop", "flip"]},
        budget=BUDGET | {"steps": 80, "branches": [0.125, 1.0]},
    )
    cells = [
        cell.model_copy(update={"learning_rate": rate, "weight_decay": decay})
        for cell, rate, decay in zip(plan.cells, (1e-3, 3e-4, 5e-4, 1e-4), (0.5, 0.0, 0.05, 0.1), strict=True)
    ]
    found = together(cells, plan, tmp_path / "lanes")
    for cell in cells:
        train(cell, plan, tmp_path / "solo", SOLO)
        ours, theirs = weights(tmp_path / "lanes", cell, 0.125), weights(tmp_path / "solo", cell, 0.125)
        assert float((ours - theirs).norm() / theirs.norm()) < RTOL
        assert found[cell.id].status == "finished"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Record]]:
    plan = lane_plan()
    return plan, together(plan.cells, plan, tmp_path_factory.mktemp("undisturbed"))


def test_a_diverging_neighbour_changes_nothing(undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path) -> None:
    plan, expected = undisturbed
    wild = plan.cells[1].model_copy(update={"learning_rate": 1e30})
    cells = [plan.cells[0], wild, *plan.cells[2:]]
    found = together(cells, plan, tmp_path / "lanes")
    for cell in (plan.cells[0], *plan.cells[2:]):
        assert deterministic(found[cell.id]) == deterministic(expected[cell.id])
        assert found[cell.id].train_losses == expected[cell.id].train_losses
    assert found[wild.id].status == "diverged"
    seen = 7 * 24  # images of the one chunk in which it diverged
    assert found[wild.id].executed_train_flops == 3 * wild.forward_flops * seen, "nothing is booked after that"
    assert deterministic(found[wild.id]) == deterministic(train(wild, plan, tmp_path / "solo", SOLO))


@pytest.mark.parametrize("alone", [True, False])
def test_a_cooldown_that_diverges_costs_its_branch_alone(
    alone: bool, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    after_chunk = Lockstep._after_chunk
    cells = plan.cells[1:2] if alone else plan.cells
    lane = cells.index(plan.cells[1])

    def spoiling(self: Lockstep, stop: int, chunk: Chunk) -> None:
        losses = chunk.losses.clone()
        if self.courses[lane].segment == 1:
            losses[lane] = float("nan")
        after_chunk(self, stop, Chunk(losses, chunk.examples))

    monkeypatch.setattr(Lockstep, "_after_chunk", spoiling)
    found = together(cells, plan, tmp_path, EngineSpec(chunk_steps=3, checkpoint_seconds=0))
    record = found[plan.cells[1].id]
    assert (record.status, [branch.diverged for branch in record.branches]) == ("diverged", [True, False])
    assert record.branches[0].validation_error == 0.5
    untouched = expected[plan.cells[1].id]
    assert record.branches[1].test_loss == pytest.approx(untouched.branches[1].test_loss, rel=RTOL)
    kept = {(one.branch, one.step): one.loss for one in record.train_losses}
    for one in untouched.train_losses:
        if one.branch != 0.5:
            assert kept[one.branch, one.step] == pytest.approx(one.loss, rel=RTOL), "losses keep their places"
    for cell in cells:
        if cell is not plan.cells[1]:
            assert deterministic(found[cell.id]) == deterministic(expected[cell.id])


@pytest.mark.parametrize("chunk_steps", [1, 50])
def test_the_size_of_a_chunk_changes_nothing(
    chunk_steps: int, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    plan, expected = undisturbed
    found = together(plan.cells, plan, tmp_path, EngineSpec(chunk_steps=chunk_steps))
    for cell in plan.cells:
        assert deterministic(found[cell.id]) == deterministic(expected[cell.id])
        assert found[cell.id].train_losses == expected[cell.id].train_losses


class _Killed(BaseException):
    """Ends a training the way a signal does: nothing of the cell's own code runs afterwards."""


def killed_after(chunks: int, cells: Sequence[Cell], plan: Plan, folder: Path) -> None:
    """Trains cells together until so many chunks are done."""
    after_chunk, done = Lockstep._after_chunk, 0

    def kill(self: Lockstep, stop: int, chunk: Chunk) -> None:
        nonlocal done
        after_chunk(self, stop, chunk)
        done += 1
        if done == chunks:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lockstep, "_after_chunk", kill)
        with pytest.raises(_Killed):
            together(cells, plan, folder, EngineSpec(chunk_steps=3, checkpoint_seconds=0))


@pytest.mark.parametrize("chunks", [2, 6, 13])
def test_a_killed_group_goes_on_as_if_nothing_had_been(
    chunks: int, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    """Killed on the trunk, in the first cooldown and late: the bits of an undisturbed group."""
    plan, expected = undisturbed
    killed_after(chunks, plan.cells, plan, tmp_path)
    places = {Store(tmp_path).place(cell.id) for cell in plan.cells}
    assert len(places) == 1
    assert places != {(0, 0)}
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert record.resumes == 1
        assert deterministic(record) == deterministic(expected[cell_id])
        assert record.train_losses == expected[cell_id].train_losses


def test_a_group_goes_on_alone_and_lone_cells_as_a_group(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    plan, expected = undisturbed
    killed_after(6, plan.cells, plan, tmp_path / "group")
    for cell in plan.cells:
        resumed = train(cell, plan, tmp_path / "group")
        assert resumed.resumes == 1
        assert_same(resumed, expected[cell.id])
        killed_after(6, [cell], plan, tmp_path / "alone")
    for cell_id, record in together(plan.cells, plan, tmp_path / "alone").items():
        assert record.resumes == 1
        assert_same(record, expected[cell_id])


def test_cells_at_different_places_go_on_in_programs_of_their_own(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    killed_after(3, plan.cells[:2], plan, tmp_path)
    killed_after(5, plan.cells[2:3], plan, tmp_path)
    made: list[int] = []
    program = train_module._program

    def spying(group: Any, *rest: Any, **more: Any) -> Any:
        made.append(len(group))
        return program(group, *rest, **more)

    monkeypatch.setattr(train_module, "_program", spying)
    for cell_id, record in together(plan.cells, plan, tmp_path).items():
        assert_same(record, expected[cell_id])
    assert made == [2, 1, 1]


def test_what_networks_draw_themselves_keeps_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lane_plan()
    monkeypatch.setattr(train_module, "why_no_lanes", lambda network, shape: "it draws")
    monkeypatch.setattr(train_module, "LaneProgram", None)
    found = together(plan.cells[:2], plan, tmp_path / "group")
    for cell in plan.cells[:2]:
        assert deterministic(found[cell.id]) == deterministic(train(cell, plan, tmp_path / "solo"))


def test_a_fault_in_one_cells_data_or_record_costs_no_other(
    undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = undisturbed
    changed = plan.cells[0].model_copy(update={"data_fingerprint": "0" * 64})
    write, broken = Store.write_record, plan.cells[2].id

    def refusing(self: Store, record: Record, *rest: Any) -> Record:
        if record.cell_id == broken:
            raise OSError("no space left")
        return write(self, record, *rest)

    monkeypatch.setattr(Store, "write_record", refusing)
    cells = [changed, *plan.cells[1:]]
    found = dict(train_cells(cells, plan.spec.data, Store(tmp_path), plan.study_id, plan.hash, KEPT))
    assert "have changed" in str(found[changed.id])
    assert "no space" in str(found[broken])
    for cell in (plan.cells[1], plan.cells[3]):
        record = found[cell.id]
        assert isinstance(record, Record)
        assert_same(record, expected[cell.id])


def test_splits_are_read_once_for_all_cells_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lane_plan()
    loads: list[tuple[str, int]] = []
    load = type(plan.spec.data).load

    def spying(self: Any, split: Any, *, seed: int = 0) -> Any:
        loads.append((split, seed))
        return load(self, split, seed=seed)

    monkeypatch.setattr(type(plan.spec.data), "load", spying)
    together(plan.cells, plan, tmp_path)
    assert sorted(loads[:2]) == [("train", 0), ("train", 1)]
    assert all(split == "test" for split, _ in loads[2:]), "the test split is read last"


def faked(program: LaneProgram, device: str) -> LaneProgram:
    """Exchanges all tensors of a program for fake ones of a device, inside a `FakeTensorMode`."""

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    for module in program.network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, torch.nn.Parameter(fake(parameter)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, fake(buffer))
    decays = [cell.weight_decay for cell in program._cells]
    program.optimizer = LaneAdamW(program.network, weight_decay=decays, clip_norm=1.0)
    for holder in (program, program._batches):
        for name, value in list(vars(holder).items()):
            if isinstance(value, torch.Tensor):
                setattr(holder, name, fake(value))
        holder.device = torch.device(device)
    return program


@pytest.mark.parametrize("family", ["vit", "resnet", "lstm"])
class TestDeviceStep:
    """The step that a CUDA graph captures, on fake tensors: no device is needed to see that it asks for nothing."""

    @staticmethod
    def program(family: str) -> LaneProgram:
        plan = lane_plan(family, permutation="pixels")
        cells = [cell.model_copy(update={"augmentation": ("crop", "flip")}) for cell in plan.cells]
        data = JobData(plan.spec.data)
        return LaneProgram(cells, [batches_of(cell, data, "cpu", pooled=True) for cell in cells], "cpu")

    def test_on_cuda_it_waits_for_nothing_and_mixes_no_devices(
        self, family: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = self.program(family)

        def backward(loss: torch.Tensor) -> None:
            """Autograd does not run for a GPU that is not there."""
            assert (loss.device.type, loss.requires_grad) == ("cuda", True)
            for parameter in program.network.parameters():
                parameter.grad = torch.empty_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        with FakeTensorMode():
            faked(program, "cuda")
            for _ in range(2):
                program._device_step()
            step = program.optimizer.step
            monkeypatch.setattr(program.optimizer, "step", lambda rates: step(rates * float(rates[0])))
            with pytest.raises(DataDependentOutputException):  # the test would see a step that waits
                program._device_step()
            monkeypatch.setattr(program.optimizer, "step", step)
            program._rates = program._rates.cpu()
            with pytest.raises(RuntimeError, match="device"):  # and a tensor in the wrong place
                program._device_step()

    def test_backward_asks_for_nothing(self, family: str) -> None:
        program = self.program(family)
        with FakeTensorMode():
            faked(program, "cpu")
            program._device_step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["vit", "resnet", "lstm"])
def test_a_captured_step_is_the_step_itself(family: str, tmp_path: Path) -> None:
    """On a GPU: the warm-up leaves no trace, restores keep the graph valid, and lanes equal solo runs."""
    plan = lane_plan(family)
    found = together(plan.cells, plan, tmp_path / "lanes", device="cuda:0")
    for cell in plan.cells:
        solo = dict(
            train_cells(
                [cell],
                plan.spec.data,
                Store(tmp_path / "solo"),
                plan.study_id,
                plan.hash,
                KEPT,
                device="cuda:0",
                in_lanes=False,
            )
        )[cell.id]
        assert isinstance(solo, Record)
        assert found[cell.id].executed_train_flops == solo.executed_train_flops
        ours, theirs = weights(tmp_path / "lanes", cell, 0.5), weights(tmp_path / "solo", cell, 0.5)
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3  # kernels differ
