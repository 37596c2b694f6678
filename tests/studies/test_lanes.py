"""Cells trained as lanes of one program leave the records they would leave alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lane_training import BUDGET, KEPT, RTOL, SOLO, assert_same, deterministic, lane_plan, together, weights
from training import train

from datamodules import Normalization, parse_data
from studies import train as train_module
from studies.course import batches_of
from studies.engine_spec import EngineSpec
from studies.grid import Plan
from studies.job_data import JobData
from studies.lane_width import takes_lanes
from studies.records import Record, read_predictions
from studies.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["vit", "resnet-circular", "mixer", "mlp", "lstm", "hybrid"])
def test_a_lane_equals_its_solo_run(family: str, tmp_path: Path) -> None:
    plan = lane_plan(family)
    cells = plan.cells[:3]
    found = together(cells, plan, tmp_path / "lanes")
    for cell in cells:
        solo = train(cell, plan, tmp_path / "solo", SOLO)
        assert solo.status == "finished"
        assert_same(found[cell.id], solo)
        assert [record.environment and record.environment.lanes for record in (found[cell.id], solo)] == [3, 0]
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
    found = together(plan.cells[:3], plan, tmp_path / "three", settings, in_lanes=None)
    for cell in plan.cells[:2]:
        alone = train(cell, plan, tmp_path / "alone", settings)
        assert deterministic(alone) == deterministic(found[cell.id])
        assert alone.train_losses == found[cell.id].train_losses


def test_a_group_trains_as_its_cells_would_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule for both: a network that gains nothing from lanes takes none, however many cells came together."""
    plan = lane_plan("resnet-circular")
    assert not takes_lanes(plan.cells[0], KEPT, "cpu")
    monkeypatch.setattr(train_module, "LaneProgram", None)
    found = together(plan.cells[:2], plan, tmp_path / "group", in_lanes=None)
    for cell in plan.cells[:2]:
        alone = train(cell, plan, tmp_path / "alone", KEPT)
        assert deterministic(found[cell.id]) == deterministic(alone)


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
    (seconds,) = {record.train_seconds for record in found.values()}  # to the last bit
    assert 0 < len(found) * seconds <= passed


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


@pytest.mark.parametrize("chunk_steps", [1, 50])
def test_the_size_of_a_chunk_changes_nothing(
    chunk_steps: int, undisturbed: tuple[Plan, dict[str, Record]], tmp_path: Path
) -> None:
    plan, expected = undisturbed
    found = together(plan.cells, plan, tmp_path, EngineSpec(chunk_steps=chunk_steps))
    for cell in plan.cells:
        assert deterministic(found[cell.id]) == deterministic(expected[cell.id])
        assert found[cell.id].train_losses == expected[cell.id].train_losses


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
