"""Numbers of a benchmark from raw seconds: FLOPs, ratios within repeats, utilisation; tables and figure of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models import build_network, count_training_flops
from studies.bench.roofline import attainable, roofline, write_roofline
from studies.bench.tables import disturbance, study_tables, train_tables
from studies.bench.timings import Spread, Timing, find, flops_per_second, ratios, steps_for, utilisation
from studies.bench.train_race import timings_of
from studies.bench.workload import Workload, as_json, workloads
from studies.errors import ConfigError


def timing(contender: str, *seconds: float, mode: str = "machine", images: int = 1000) -> Timing:
    return Timing(contender, mode, images, seconds, 2.0, 10**9, 0, (2.3, 1.9), 17, {"processes": 2, "threads": 1})


def result() -> dict[str, Any]:
    peak = {"flops": 1e11, "copy_bytes": 1e10}
    family = {
        "arm": "vit",
        "train_flops_exact": 10**7,
        "step_flops": 96 * 10**7,
        "step_bytes": 3 * 10**8,
        "timings": [
            vars(timing(name, *seconds, mode=mode))
            for mode in ("machine", "thread")
            for name, seconds in (("study", (1.0, 2.0)), ("lightning", (2.0, 3.0)), ("timm", (4.0, 4.0)))
        ],
    }
    machine = {"device": "cpu (some)", "torch": "2", "timm": "1", "cores": 2, "load_average": 0.1}
    return {"machine": machine, "precision": "fp32", "peaks": {"machine": peak, "thread": peak}, "families": [family]}


def printed(parts: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for part in parts:
        console.print(part)
    text = console.export_text()
    console.file.close()
    return text


def test_ratios_are_formed_within_a_repeat() -> None:
    """The machine slows by ten in the second repeat: each ratio is 2, while a ratio of medians could be anything."""
    ours, theirs = timing("study", 1.0, 10.0, 1.0), timing("timm", 2.0, 20.0, 2.0)
    assert ratios(ours, theirs) == (2.0, 2.0, 2.0)
    shifted = timing("timm", 2.0, 2.0, 20.0)
    assert ratios(ours, shifted) == pytest.approx((2.0, 0.2, 20.0))
    with pytest.raises(ValueError, match="3 repeats of study against 1 of timm"):
        ratios(ours, timing("timm", 1.0))


def test_rates_count_the_images_of_each_contender() -> None:
    assert ratios(timing("study", 1.0, images=2000), timing("timm", 1.0, images=500)) == (4.0,)
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert steps_for(3.0, 100.0) == 300
    assert steps_for(0.001, 1.0) == 1


@pytest.mark.parametrize("arm", ["vit", "resnet", "hybrid", "mixer", "lstm", "mlp"])
def test_flops_are_the_exact_ones_of_training(arm: str) -> None:
    """3 f - f_first (PROTOCOL 2), against the counter of the network that is trained."""
    workload = Workload(arm, "nano", 16)
    family, variant = workload.network_name
    network = build_network(family, variant, image_size=16, in_channels=3, num_classes=10)
    assert workload.flops.train_exact == 3 * workload.flops.total - workload.flops.first_layer
    assert workload.flops.train_exact == pytest.approx(count_training_flops(network, (2, 3, 16, 16)), rel=0.01)


def test_utilisation_is_achieved_over_measured() -> None:
    one = timing("study", 0.5, 1.0, 2.0)  # 2000, 1000 and 500 images a second
    assert flops_per_second(one, 3_000_000) == Spread(3e9, 1.5e9, 6e9)
    assert utilisation(one, 3_000_000, 3e10) == pytest.approx(0.1)


def test_a_workload_survives_json() -> None:
    workload = Workload("resnet-circular", image_size=16, precision="bf16", augmentation=("flip",), replicate=3)
    assert Workload.from_json(json.loads(json.dumps(as_json(workload)))) == workload
    one = timing("timm", 1.0, 2.0)
    assert Timing.from_json(json.loads(json.dumps(vars(one)))) == one


def test_what_is_asked_for_must_exist() -> None:
    assert [one.arm for one in workloads("nano", None)] == ["vit", "resnet", "hybrid", "mixer", "lstm", "mlp"]
    assert "mlp" not in [one.arm for one in workloads("base", None, image_size=224)]
    with pytest.raises(ConfigError, match="--tier is 'huge'; expected one of nano, micro, tiny"):
        workloads("huge", None)
    with pytest.raises(ConfigError, match="--image-size is 33; the tier nano is for images of 16, 28, 32 px"):
        workloads("nano", None, image_size=33)
    with pytest.raises(ConfigError, match="unknown family 'vti'"):
        workloads("nano", ["vti"])
    with pytest.raises(ConfigError, match="has no variant"):
        workloads("base", ["mlp"], image_size=224)


def test_the_table_says_what_was_measured() -> None:
    text = printed(train_tables(result()))
    assert "667 (500-1,000)" not in text  # the median of two is their mean
    assert "750 (500-1,000)" in text
    assert "1.75 (1.50-2.00) x" in text  # against Lightning, within repeats
    assert "3.00 (2.00-4.00) x" in text
    assert "7.5%" in text  # 750 x 10^7 / 10^11
    assert "busy" not in text


def test_a_busy_machine_is_called_busy() -> None:
    assert disturbance({"load_average": 0.4, "cores": 2}) is None
    told = disturbance({"load_average": 3.0, "cores": 2})
    assert told is not None
    assert "load 3.0 on 2 cores" in told


def test_the_table_of_a_whole_study() -> None:
    content = {"study_seconds": 10.0, "study_steady_seconds": 8.0, "timm_seconds": 45.0, "ratio": 4.5, "num_cells": 12,
               "steps": 360, "timm_script": "timm's parts", "machine": result()["machine"]}  # fmt: skip
    text = printed(study_tables(content))
    assert "4.50 x as fast" in text
    assert "1.25 x its own steady state" in text


def test_the_roof() -> None:
    assert attainable(1.0, 1e11, 1e10) == 1e10
    assert attainable(100.0, 1e11, 1e10) == 1e11


def test_the_roofline_shows_every_contender_where_it_stands(tmp_path: Path) -> None:
    content = result()
    figure = roofline(content)
    points = {(round(float(line.get_xdata()[0]), 3), float(line.get_ydata()[0]))  # type: ignore[index,arg-type]
              for line in figure.axes[0].lines if len(line.get_xdata()) == 1}  # type: ignore[arg-type]  # fmt: skip
    expected = [flops_per_second(one, 10**7).median for one in timings_of(content["families"][0])
                if one.mode == "machine"]  # fmt: skip
    assert points == {(3.2, value) for value in expected}
    svg, png = write_roofline(content, tmp_path)
    assert svg.read_text().startswith("<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert find([timing("study", 1.0)], "timm", "machine") is None
