"""`study bench study`: a whole small study against timm's training looped over its cells."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules import Normalization, parse_data, shipped_data
from studies.errors import ConfigError, StudyError

from .children import running
from .train_race import RaceSettings, chosen_lanes, jobs_of, measure_machine, num_cores
from .workload import Workload, as_json

SCHEMA = 1
BATCH_SIZE = 96
SIZES = (288, 1152, 3840)
"""Training sizes: multiples of the batch, since timm's loader drops an incomplete one."""
STEPS = 240
"""Of each cell, as in the default study; a whole number of passes over each size."""
DATA = "dial"


@dataclass(frozen=True)
class StudyRace:
    """The study that is raced.

    Attributes:
        timm_script: timm's `train.py`; a script of this package built from timm's parts if None.
    """

    families: tuple[str, ...] = ("vit", "resnet")
    sizes: tuple[int, ...] = SIZES
    replicates: int = 2
    steps: int = STEPS
    timm_script: Path | None = None

    @property
    def cells(self) -> list[tuple[str, int, int]]:
        """(arm, training size, replicate)."""
        return [(arm, n, r) for r in range(self.replicates) for n in self.sizes for arm in self.families]

    @property
    def overrides(self) -> list[str]:
        """What makes the shipped study this one."""
        return [
            f"data={DATA}",
            f"families=[{','.join(self.families)}]",
            f"num_train=[{','.join(map(str, self.sizes))}]",
            f"replicates={self.replicates}",
            f"budget.steps={self.steps}",
            f"budget.batch_size={BATCH_SIZE}",
            "budget.branches=[1.0]",
            "recipe.tuning=null",
            "primary_pair=null",
            "tracking=off",
        ]


def race_study(asked: StudyRace, folder: Path, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Runs both, one after the other, in `folder`.

    The study: `study run` as a person types it, with decoding, evaluation, records and report. The other side: a fresh
    process per cell that trains the same network for the same steps on PNG files, which were written beforehand, and
    evaluates it once. Its loader gets the number of workers that was fastest on the first cell.

    Raises:
        ConfigError: the script is not there, or the sizes do not divide into batches.
        StudyError: a process failed; with the last line it wrote.
    """
    _check(asked)
    machine, _ = measure_machine(RaceSettings(peak_seconds=0.01), "fp32")
    report("writing images for timm")
    job = _prepare_images(asked, folder)
    report("study run")
    study_seconds = _run_study(asked, folder)
    report(f"study run: {study_seconds:.1f} s; now timm, cell by cell")
    timm_seconds, workers = _loop_over_cells(asked, folder, job, report)
    steady = _steady_seconds(asked, job)
    return {
        "schema": SCHEMA,
        "kind": "study",
        "machine": machine,
        "overrides": asked.overrides,
        "num_cells": len(asked.cells),
        "steps": asked.steps,
        "study_seconds": study_seconds,
        "study_steady_seconds": steady,
        "timm_script": "timm's train.py" if asked.timm_script else "timm's parts",
        "timm_workers": workers,
        "timm_cell_seconds": timm_seconds,
        "timm_seconds": sum(timm_seconds),
        "ratio": sum(timm_seconds) / study_seconds,
    }


def _check(asked: StudyRace) -> None:
    if asked.timm_script is not None and not asked.timm_script.is_file():
        raise ConfigError(f"--timm-script is {asked.timm_script}, which is no file; give timm's train.py or nothing")
    for size in asked.sizes:
        if size % BATCH_SIZE or asked.steps % (size // BATCH_SIZE):
            raise ConfigError(
                f"{size} images are no whole number of batches of {BATCH_SIZE}, or {asked.steps} steps no whole number "
                "of passes over them: timm's script trains whole epochs"
            )


def _workload(asked: StudyRace, arm: str, size: int, replicate: int, job: dict[str, Any]) -> Workload:
    return Workload(arm, "nano", job["image_size"], job["in_channels"], job["num_classes"], BATCH_SIZE, size,
                    augmentation=(), replicate=replicate)  # fmt: skip


def _prepare_images(asked: StudyRace, folder: Path) -> dict[str, Any]:
    """PNG files `<size>/train/<class>/<row>.png` for every size, and one test folder that all of them link to."""
    from PIL import Image

    source = parse_data(shipped_data(DATA))
    train, test = (source.load(split, cache=folder / "png-cache") for split in ("train", "test"))

    def write(split: Any, rows: int, target: Path) -> None:  # noqa: ANN401  # ImageSplit
        for label in range(len(split.class_names)):
            (target / str(label)).mkdir(parents=True, exist_ok=True)
        for row in range(rows):
            pixels = split.images[row]
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            image.save(target / str(split.labels[row]) / f"{row}.png")

    write(test, len(test), folder / "png" / "test")
    for size in asked.sizes:
        write(train, size, folder / "png" / str(size) / "train")
        (folder / "png" / str(size) / "test").symlink_to(folder / "png" / "test", target_is_directory=True)
    statistics = Normalization.of(train)
    shape = train.images.shape
    return {"image_size": shape[1], "in_channels": shape[3], "num_classes": len(train.class_names),
            "mean": list(statistics.mean), "std": list(statistics.std)}  # fmt: skip


def _run_study(asked: StudyRace, folder: Path) -> float:
    command = [sys.executable, "-c", "from studies.cli import main; main()", "run", "data_scaling", *asked.overrides,
               "--store", str(folder / "results")]  # fmt: skip
    return _timed(command, os.environ | {"INDUCTIVE_BIAS_CACHE": str(folder / "cache")}, folder)


def _loop_over_cells(
    asked: StudyRace, folder: Path, job: dict[str, Any], report: Callable[[str], None]
) -> tuple[list[float], int]:
    """Seconds of each cell, and the number of loader workers, which the first cell decides."""
    tries = {workers: _train_cell(asked, asked.cells[0], workers, folder, job) for workers in (0, 1, 2)}
    workers = min(tries, key=tries.__getitem__)
    seconds = [tries[workers]]
    for number, cell in enumerate(asked.cells[1:], start=2):
        seconds.append(_train_cell(asked, cell, workers, folder, job))
        report(f"timm: cell {number} of {len(asked.cells)}, {seconds[-1]:.1f} s")
    return seconds, workers


def _train_cell(asked: StudyRace, cell: tuple[str, int, int], workers: int, folder: Path, job: dict[str, Any]) -> float:
    workload = _workload(asked, *cell, job)
    images = folder / "png" / str(workload.num_train)
    if asked.timm_script is not None:
        command = script_command(asked, workload, workers, images, folder / "timm", job)
    else:
        told = {"workload": as_json(workload), "folder": str(images), "steps": asked.steps, "threads": num_cores(),
                "workers": workers, "mean": job["mean"], "std": job["std"]}  # fmt: skip
        command = [sys.executable, "-m", "studies.bench.timm_cell", json.dumps(told)]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return _timed(command, environment, folder)


def script_command(
    asked: StudyRace, workload: Workload, workers: int, images: Path, output: Path, job: dict[str, Any]
) -> list[str]:
    """How timm's `train.py` is called for a cell: the same network, recipe and steps, evaluation at the end only."""
    family, variant = workload.network_name
    name = f"{family}_{variant}_{workload.image_size}".replace("-", "_")
    epochs = asked.steps // (workload.num_train // BATCH_SIZE)
    size = workload.image_size
    options: dict[str, Sequence[object]] = {
        "device-modules": ["studies.bench.timm_models"],
        "data-dir": [images],
        "train-split": ["train"],
        "val-split": ["test"],
        "model": [name],
        "num-classes": [workload.num_classes],
        "input-size": [workload.in_channels, size, size],
        "mean": [value / 255 for value in job["mean"]],
        "std": [value / 255 for value in job["std"]],
        "crop-pct": [1.0],
        "batch-size": [BATCH_SIZE],
        "validation-batch-size": [512],
        "epochs": [epochs],
        "val-interval": [epochs],
        "opt": ["adamw"],
        "lr": [workload.learning_rate],
        "weight-decay": [workload.weight_decay],
        "clip-grad": [1.0],
        "smoothing": [0.0],
        "sched": ["constant"],
        "warmup-epochs": [0],
        "workers": [workers],
        "device": ["cpu"],
        "seed": [workload.replicate],
        "log-interval": [1_000],
        "checkpoint-hist": [1],
        "output": [output],
        "no-aug": [],
    }
    told = [word for name, values in options.items() for word in (f"--{name}", *map(str, values))]
    return [sys.executable, str(asked.timm_script), *told]


def _timed(command: Sequence[str], environment: dict[str, str], folder: Path) -> float:
    """Seconds of a whole process, from its launch to its end."""
    start = time.monotonic()
    outcome = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if outcome.returncode:
        lines = outcome.stderr.strip().splitlines()
        raise StudyError(f"a measured process ended with exit code {outcome.returncode}: {lines[-1] if lines else ''}")
    return time.monotonic() - start


def _steady_seconds(asked: StudyRace, job: dict[str, Any]) -> float:
    """Seconds that the study's steps take when the workers are all warm and do nothing else."""
    seconds = 0.0
    for arm in asked.families:
        workload = _workload(asked, arm, max(asked.sizes), 0, job)
        settings = RaceSettings(lanes=chosen_lanes(workload, RaceSettings()))
        with running(jobs_of("study", "machine", workload, settings)) as crew:
            crew.steps(1)
            crew.steps(20)
            span = crew.steps(200)
        images = asked.steps * BATCH_SIZE * len(asked.sizes) * asked.replicates
        seconds += images * span["seconds"] / span["images"]
    return seconds


def shortened(asked: StudyRace) -> StudyRace:
    """A quick look: one replicate of the two smaller sizes."""
    return dataclasses.replace(asked, sizes=asked.sizes[:2], replicates=1)
