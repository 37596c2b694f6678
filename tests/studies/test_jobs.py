"""Which cells train together: properties of every job, on random queues."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planned import planned

from studies.cell import Cell
from studies.engine_spec import EngineSpec
from studies.jobs import Waiting, cells_at_once, next_job, program_key


def drained(waiting: list[Waiting], width: int, num_workers: int) -> list[tuple[str, ...]]:
    """All jobs, when each is taken off the queue in turn."""
    left, jobs = list(waiting), []
    while left:
        job = next_job(left, width, num_workers)
        jobs.append(job)
        left = [one for one in left if one.cell_id not in job]
    return jobs


@pytest.mark.parametrize("seed", range(30))
def test_every_cell_is_in_one_job_with_its_like(seed: int) -> None:
    generator = np.random.default_rng(seed)
    waiting = [
        Waiting(
            f"{index:03}",
            key="abc"[generator.integers(3)],
            place=(int(generator.integers(2)), 0),
            alone=bool(generator.random() < 0.1),
        )
        for index in range(40)
    ]
    width, num_workers = int(generator.integers(1, 9)), int(generator.integers(1, 5))
    jobs = drained(waiting, width, num_workers)
    known = {one.cell_id: one for one in waiting}
    assert sorted(cell_id for job in jobs for cell_id in job) == sorted(known)
    assert jobs[0][0] == "000", "the head of the queue is never passed over"
    for job in jobs:
        members = [known[cell_id] for cell_id in job]
        assert 1 <= len(job) <= width
        assert len({(one.key, one.place) for one in members}) == 1
        assert len(job) == 1 or not any(one.alone for one in members)
        assert list(job) == sorted(job), "in the order they waited"
    if not any(one.alone for one in waiting) and num_workers == 1:
        kinds = {(one.key, one.place) for one in waiting}
        sizes = [sum((one.key, one.place) == kind for one in waiting) for kind in kinds]
        assert len(jobs) == sum(math.ceil(size / width) for size in sizes), "no more programs than needed"


def alike(count: int, key: str = "a") -> list[Waiting]:
    return [Waiting(f"{key}{index:03}", key) for index in range(count)]


def test_programs_of_one_kind_are_of_even_width() -> None:
    assert [len(job) for job in drained(alike(20), 16, 1)] == [10, 10]
    assert [len(job) for job in drained(alike(40), 16, 1)] == [14, 13, 13]


def test_cells_are_dealt_over_all_workers() -> None:
    assert len(next_job(alike(8), 64, 4)) == 2
    assert len(next_job([*alike(8), *alike(8, "b")], 64, 2)) == 8, "each of two kinds has a worker of its own"
    assert len(next_job(alike(2), 64, 8)) == 1


def test_a_program_is_one_architecture_and_one_schedule() -> None:
    cell = planned().cells[0]
    key = program_key(cell)
    others: dict[str, object] = {
        "family": "mixer",
        "variant": "tiny",
        "image_size": 32,
        "batch_size": 64,
        "steps": 120,
        "branches": (1.0,),
        "warmup_fraction": 0.0,
        "cooldown_fraction": 0.1,
        "augmentation": ("crop",),
        "permutation": "pixels",
        "precision": "bf16",
        "label_smoothing": 0.1,
        "num_classes": 3,
        "data_fingerprint": "other",
        "reads_test": False,
        "objective": "masked_patches",
    }
    for field, value in others.items():
        assert program_key(cell.model_copy(update={field: value})) != key, field
    shared = {
        "num_train": 7,
        "num_validation": 9,
        "replicate": 5,
        "seeds": cell.seeds.model_copy(update={"order": 9}),
        "learning_rate": 0.7,
        "weight_decay": 0.7,
        "data": "renamed",
    }
    assert program_key(cell.model_copy(update=shared)) == key
    assert shared.keys() | others.keys() <= Cell.model_fields.keys()


@pytest.mark.parametrize(
    ("settings", "devices", "expected"),
    [
        ({}, ["cpu", "cpu"], 6),
        ({"lanes": 1}, ["cpu", "cpu"], 2),
        ({"lanes": 4}, ["cpu"], 4),
        ({"lanes": 9}, ["cpu"], 5),  # no more than there are of one kind
        ({}, ["cuda:0"], 5),
        ({}, ["cuda:0", "cuda:1", "cuda:2"], 10),  # no more than there are
        ({"devices_per_cell": 2}, ["cuda:0", "cuda:2"], 2),
    ],
)
def test_cells_that_train_at_one_time(settings: dict[str, int], devices: list[str], expected: int) -> None:
    cells = planned(families=("vit", "mlp"), num_train=(64,), replicates=5, primary_pair=None).cells
    assert cells_at_once(cells, EngineSpec.model_validate(settings), devices) == expected
