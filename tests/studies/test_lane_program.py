"""The program of several cells: its warm-up, what it counts, and a step that asks a GPU for nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lane_training import KEPT, lane_plan, together, weights
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from datamodules import LaneBatches
from models.lanes import LaneAdamW
from studies.chunked import ChunkedClassifier
from studies.course import batches_of
from studies.job_data import JobData
from studies.lane_program import LaneProgram
from studies.records import Record
from studies.store import Store
from studies.train import train_cells

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_lanes_whose_batches_shrink_are_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, whole = lane_plan(), LaneBatches.batch

    def short(self: LaneBatches, rows: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = whole(self, rows, step)
        return (images[:, :8], labels[:, :8]) if int(step) == 20 else (images, labels)

    monkeypatch.setattr(LaneBatches, "batch", short)
    for record in together(plan.cells[:2], plan, tmp_path).values():
        assert record.status == "invalid"
        assert "were planned" in record.reason
        assert record.branches[1].examples == 39 * 24 + 8


def test_a_replayed_step_counts_the_images_it_was_captured_with() -> None:
    plan = lane_plan()
    data = JobData(plan.spec.data)
    batches = [batches_of(cell, data, "cpu", pooled=True) for cell in plan.cells[:3]]
    program = LaneProgram(plan.cells[:3], batches, "cpu")
    program.run(0, 5)
    replayed: list[int] = []
    program.device = torch.device("cuda")  # what follows is a graph's, which says nothing to the host
    program._captured = SimpleNamespace(replay=lambda: replayed.append(1))  # type: ignore[assignment]
    assert program.run(5, 12).examples == (7 * 24,) * 3
    assert len(replayed) == 7


def test_a_solo_run_that_goes_on_from_a_lane_keeps_its_fused_optimiser(tmp_path: Path) -> None:
    plan = lane_plan()
    data = JobData(plan.spec.data)
    batches = batches_of(plan.cells[0], data, "cpu", pooled=False)
    solo = ChunkedClassifier(plan.cells[0], batches)
    solo.restore(0, LaneProgram(plan.cells[:1], [batches], "cpu").snapshot(0))
    assert [group["fused"] for group in solo.configure_optimizers().param_groups] == [True, True]


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
