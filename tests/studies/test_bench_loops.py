"""The loops that are raced do the same work: images, networks, batches, optimisation. Otherwise no ratio counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from datamodules import Normalization
from studies.bench import timm_models
from studies.bench.child import CONTENDERS, build_loop
from studies.bench.lane_check import chosen_width, lane_difference, lane_rate
from studies.bench.machine import copy_peak, matmul_peak, total_bytes
from studies.bench.plain_loop import PlainLoop
from studies.bench.study_loop import StudyLoop
from studies.bench.study_race import StudyRace, script_command
from studies.bench.timm_cell import train_cell
from studies.bench.timm_loop import TimmFlags, TimmLoop, fastest_flags
from studies.bench.timm_models import timm_name
from studies.bench.traffic import ByteCounter, bytes_per_step
from studies.bench.workload import Workload, as_json
from studies.jobs import CPU_LANES

TINY = Workload("mlp", "nano", 16, batch_size=32, num_train=320)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_every_contender_trains_the_asked_work(contender: str) -> None:
    loop = build_loop(contender, dataclasses.replace(TINY, augmentation=()), "cpu")  # quickly learnt
    first, span = loop.steps(2), loop.steps(25)
    assert span.images == 25 * TINY.batch_size
    assert span.start < span.stop
    assert span.loss < first.loss - 0.05  # it learns
    expected = sum(parameter.numel() for parameter in TINY.classifier().network.parameters())
    assert sum(parameter.numel() for parameter in loop.network.parameters()) == expected


@pytest.mark.parametrize("arm", ["vit", "resnet", "mlp"])
def test_the_study_and_plain_lightning_reach_the_same_weights(arm: str) -> None:
    workload = dataclasses.replace(TINY, arm=arm, num_train=96)
    ours, plain = StudyLoop([workload], "cpu"), PlainLoop(workload, "cpu")
    assert largest_difference(ours.network, plain.network) == 0
    start = workload.classifier().network
    ours.steps(8)
    plain.steps(8)
    assert largest_difference(ours.network, start) > 1e-3
    assert largest_difference(ours.network, plain.network) < 1e-6


@pytest.mark.parametrize("arm", ["vit", "resnet"])
def test_an_update_of_timm_is_the_update_of_a_study(arm: str) -> None:
    """Given the same batches, timm's parts clip, decay and step exactly as the study does."""
    workload = dataclasses.replace(TINY, arm=arm)
    ours, theirs = StudyLoop([workload], "cpu"), TimmLoop(workload, "cpu")
    batches = workload.batches("cpu")
    for step in range(6):
        assert theirs.update(*batches.batch_at(step)) == workload.batch_size
    ours.steps(6)
    assert largest_difference(ours.network, theirs.network) < 1e-6


def test_timm_is_given_the_same_kind_of_images() -> None:
    """Crops keep the size and add an empty border, values are standardised, a flip changes nothing else."""
    loop = TimmLoop(TINY, "cpu")
    images, labels = next(iter(loop._loader))
    assert images.shape == (32, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    plain = TimmLoop(dataclasses.replace(TINY, augmentation=()), "cpu")
    plain_images = next(iter(plain._loader))[0]
    assert abs(float(plain_images.mean())) < 0.05
    assert float(plain_images.std()) == pytest.approx(1, abs=0.05)
    ours = dataclasses.replace(TINY, augmentation=()).batches("cpu").batch_at(0)[0]
    assert float(ours.std()) == pytest.approx(float(plain_images.std()), abs=0.05)


def test_the_fastest_flags_are_chosen_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {(1, False, False): 5.0, (0, False, False): 4.0, (1, False, True): 7.0, (1, True, True): 6.0}

    def rate(loop: TimmLoop, seconds: float) -> float:
        return rates[loop.flags.workers, loop.flags.channels_last, loop.flags.fused]

    def compile_(task: Any, backend: str, mode: str | None) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("studies.bench.timm_loop.brief_rate", rate)
    monkeypatch.setattr("studies.bench.timm_loop.ClassificationTask.compile", compile_)
    loop = TimmLoop(TINY, "cpu")
    best, tried = fastest_flags(loop, 1.0, (0, 1), ("default",))
    assert best == loop.flags == TimmFlags(workers=1, fused=True)
    assert [row.get("images_per_second") for row in tried] == [4.0, 5.0, 7.0, 6.0, None]
    assert "no compiler here" in tried[-1]["error"]


@pytest.mark.parametrize("arm", ["mlp", "vit"])
def test_lanes_are_the_solo_runs_beside_a_lane_that_diverges(arm: str) -> None:
    found = lane_difference(dataclasses.replace(TINY, arm=arm), "cpu", steps=5)
    assert found["steps"] == 5
    assert found["largest"] < 1e-5


def test_lanes_that_differ_from_their_solo_runs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison would notice a lane that trained on other images."""
    right = StudyLoop.snapshot
    monkeypatch.setattr(StudyLoop, "snapshot", lambda loop, lane: right(loop, 1 - lane if loop._num_lanes else lane))
    found = lane_difference(TINY, "cpu", steps=5)
    assert not found["bitwise"]
    assert found["largest"] > 1e-3


def test_the_speed_of_lanes_counts_the_images_of_all() -> None:
    none, two = (lane_rate(TINY, "cpu", lanes, 0.01) for lanes in (0, 2))
    assert (none["lanes"], none["kind"]) == (0, "")
    assert (two["lanes"], two["kind"]) == (2, "stacked")
    loop = build_loop("study", TINY, "cpu", lanes=3)
    assert loop.steps(2).images == 2 * 3 * TINY.batch_size
    assert loop.options["lanes"] == 3


def test_the_width_is_chosen_by_the_rule_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: 100.0, 2: 190.0, 4: 195.0}

    def rate(workload: Workload, device: str, lanes: int, seconds: float) -> dict[str, Any]:
        return {"images_per_second": rates[lanes], "gpu_bytes": 0, "kind": "stacked"}

    monkeypatch.setattr("studies.bench.lane_check.lane_rate", rate)
    memory = SimpleNamespace(total_memory=1 << 30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: memory)
    assert chosen_width(TINY, "cuda:0", 0.1, most=64) == 2
    assert chosen_width(TINY, "cpu", 0.1, most=64) == 0, "a fully connected net takes no lanes on a CPU"
    assert chosen_width(Workload("vit", "nano", 16), "cpu", 0.1, most=64) == CPU_LANES


# --- timm's own script ----------------------------------------------------------------------------------------


def test_timm_knows_the_networks_of_this_package() -> None:
    network = timm.create_model(timm_name("resnet", "nano-circular", 16), in_chans=1, num_classes=2)
    workload = Workload("resnet-circular", "nano", 16, in_channels=1, num_classes=2)
    assert largest_difference(network, network) == 0
    shapes = {name: value.shape for name, value in workload.classifier().network.state_dict().items()}
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 2)
    assert "vit_nano_16" in timm_models.__all__


def test_the_script_is_asked_for_the_same_steps(tmp_path: Path) -> None:
    asked = StudyRace(timm_script=tmp_path / "train.py")
    workload = Workload("vit", "nano", 16, 1, 2, 96, 1152, replicate=1)
    command = script_command(asked, workload, 2, tmp_path, tmp_path, {"mean": [127.5], "std": [51.0]})
    options = " ".join(command)
    assert int(command[command.index("--epochs") + 1]) * (1152 // 96) == asked.steps
    assert "--model vit_nano_16 --num-classes 2 --input-size 1 16 16 --mean 0.5 --std 0.2" in options
    assert "--clip-grad 1.0" in options
    assert "--seed 1" in options


def test_a_cell_of_timm_trains_on_files_and_is_evaluated(tmp_path: Path) -> None:
    workload = dataclasses.replace(TINY, augmentation=(), in_channels=1, num_classes=2, num_train=64)
    images, labels = workload.arrays
    for split in ("train", "test"):
        for row, (pixels, label) in enumerate(zip(images[:64], labels[:64], strict=True)):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[:, :, 0]).save(folder / f"{row}.png")
    statistics = Normalization.of(workload.source().load("train"))
    found = train_cell({"workload": as_json(workload), "folder": str(tmp_path), "steps": 12, "workers": 0,
                        "mean": statistics.mean, "std": statistics.std})  # fmt: skip
    assert found["images"] == 12 * workload.batch_size
    assert found["test_error"] < 0.2  # two classes that differ by their template


# --- bytes and peaks ------------------------------------------------------------------------------------------


def test_bytes_of_a_linear_layer() -> None:
    layer = nn.Linear(5, 7)
    images = torch.ones(3, 5)
    with torch.no_grad(), ByteCounter() as counter:
        layer(images)
    assert counter.num_bytes == 4 * (3 * 5 + 5 * 7 + 7 + 3 * 7)  # input, weight and bias read, output written


def test_bytes_of_a_whole_step_of_a_linear_layer() -> None:
    """Backward reads the gradient and the input again and writes the weight's gradient; the input needs none."""
    layer, images, labels = nn.Linear(5, 7, bias=False), torch.ones(3, 5), torch.zeros(3, dtype=torch.int64)
    with ByteCounter() as forward:
        loss = F.cross_entropy(layer(images), labels)
    with ByteCounter() as backward:
        loss.backward()
    assert forward.num_bytes > 4 * (15 + 35 + 21)
    gradient = 4 * (3 * 7 + 3 * 5 + 5 * 7)
    assert backward.num_bytes > gradient
    assert backward.num_bytes < gradient + 4 * (12 * 21 + 2 * 35 + 20)  # the loss's own gradients are of logits' size


def test_views_move_nothing_and_expanded_elements_count_once() -> None:
    tensor = torch.ones(4, 6)
    with ByteCounter() as counter:
        tensor.t().reshape(24)[:5]
        moved = counter.num_bytes
        tensor.view(24).expand(10, 24)
        assert counter.num_bytes == moved
    assert moved == 2 * 4 * 24  # only the reshape of the transposed copies
    assert total_bytes(torch.ones(1, 24).expand(10, 24)) == 4 * 24
    assert total_bytes(torch.ones(0, 3)) == 0


def test_what_is_changed_in_place_is_read_and_written() -> None:
    tensor = torch.ones(10)
    with ByteCounter() as counter:
        tensor.add_(1)
        assert counter.num_bytes == 2 * 40
        torch._foreach_add_([tensor, torch.ones(5)], 1)
    assert counter.num_bytes == 2 * 40 + 20 + 2 * 60  # 20: the ones are written


def test_bytes_of_a_step_are_those_of_weights_and_activations() -> None:
    """AdamW alone reads weight, gradient and two moments of every parameter and writes three of them."""
    small, large = (bytes_per_step(dataclasses.replace(TINY, batch_size=size)) for size in (16, 32))
    parameters = sum(parameter.numel() for parameter in TINY.classifier().network.parameters())
    assert small > 7 * 4 * parameters
    assert small < large < 2 * small


def test_peaks_are_positive_rates() -> None:
    rates = matmul_peak("cpu", "fp32", 0.001, sizes=(16, 64))
    assert set(rates) == {"16", "64"}
    assert rates["64"] > 0
    assert copy_peak("cpu", 0.001, num_bytes=1 << 16) > 0


def test_images_of_a_workload_carry_their_class() -> None:
    images, labels = TINY.arrays
    assert images.shape == (4800, 16, 16, 3)
    assert np.bincount(labels).tolist() == [480] * 10
    means = np.stack([images[labels == label].mean(0) for label in range(10)])
    assert np.abs(means[0] - means[1]).mean() > 20
