"""How wide a program should be, on devices whose throughput is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lane_training import KEPT, SOLO, lane_plan
from planned import planned

from datamodules import parse_data
from studies import lane_width
from studies.engine_spec import EngineSpec
from studies.job_data import JobData
from studies.lane_width import Timing, best_width, cpu_width, takes_lanes, width_of

DEFAULT = EngineSpec()


def device(
    throughput: Callable[[int], float], memory: float = 0.0, kind: str = "stacked", fits: int = 1 << 20
) -> Callable[[int], Timing | None]:
    """A measurer; `throughput` by width, `memory` share per lane, None beyond `fits` lanes."""
    tried: list[int] = []

    def measure(width: int) -> Timing | None:
        assert width not in tried, "measured twice"
        tried.append(width)
        if width > fits:
            return None
        return Timing(width, throughput(width) / width, memory * width, kind)

    return measure


def test_doubles_until_the_device_is_full() -> None:
    width, timings = best_width(device(lambda lanes: min(lanes, 12.0)))
    assert width == 16  # 8 lanes: 8, 16 lanes: 12, 32 lanes: 12
    assert [one.width for one in timings] == [1, 2, 4, 8, 16, 32]


def test_a_device_that_is_full_with_one_lane_gets_one() -> None:
    assert best_width(device(lambda lanes: 1.0))[0] == 1
    assert best_width(device(lambda lanes: 1.0 + 0.09 * (lanes > 1)))[0] == 1


def test_takes_at_most_the_lanes_allowed() -> None:
    assert best_width(device(float), most=64)[0] == 64
    assert best_width(device(float), most=5)[0] == 4


@pytest.mark.parametrize(("memory", "expected"), [(0.29, 2), (0.31, 1), (0.07, 8), (0.9, 1)])
def test_never_tries_what_would_take_over_60_percent_of_the_memory(memory: float, expected: int) -> None:
    width, timings = best_width(device(float, memory=memory))
    assert width == expected
    assert all(one.memory_share <= 0.6 for one in timings[1:])


@pytest.mark.parametrize(("fits", "expected"), [(0, 1), (1, 1), (4, 4), (7, 4)])
def test_what_runs_out_of_memory_is_not_taken(fits: int, expected: int) -> None:
    assert best_width(device(float, fits=fits))[0] == expected


def test_branches_stay_only_where_they_gain_30_percent() -> None:
    assert best_width(device(lambda lanes: 1 + 0.2 * (lanes > 1), kind="branches"))[0] == 1
    assert best_width(device(lambda lanes: 1 + 0.2 * (lanes > 1)))[0] == 2
    assert best_width(device(lambda lanes: 1 + 0.4 * (lanes > 1), kind="branches"))[0] == 2


def test_a_machine_is_measured_once_for_each_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, asked = planned(), []
    names = iter(["H200"] * 5 + ["A100"])

    def measured(cell: object, *rest: object) -> tuple[int, list[Timing]]:
        asked.append(cell)
        return 8, [Timing(8, 100.0, 0.1, "stacked")]

    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: next(names))
    monkeypatch.setattr(lane_width, "_measured", measured)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    data, cell = JobData(plan.spec.data), plan.cells[0]

    def width(settings: EngineSpec = DEFAULT, **changes: object) -> int:
        return width_of(cell.model_copy(update=changes), data, settings, "cuda:0")

    assert (width(), width(num_train=9, learning_rate=0.5, steps=400)) == (8, 8)
    assert len(asked) == 1, "what does not change the speed is not measured again"
    width(precision="bf16")
    width(EngineSpec(compile=True))
    assert len(asked) == 3
    kept = tmp_path / "cache" / "lane_widths.json"
    assert len(json.loads(kept.read_text())) == 3
    kept.write_text("{ damaged")
    assert width() == 8
    width()
    assert len(asked) == 5, "another device, and a damaged file, are measured"


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
