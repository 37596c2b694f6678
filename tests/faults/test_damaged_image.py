"""An image damaged in the data cache after a study has begun: told by row and file, and only who reads it waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import deterministic
from training import tiny_plan

from datamodules import parse_data
from studies.compose import Composed
from studies.engine_spec import EngineSpec
from studies.engines import Outcome
from studies.errors import ConfigError
from studies.grid import Plan
from studies.job_data import JobData
from studies.running import REPEATED, train_cells
from studies.store import Store
from studies.tracking import TrackingSpec

SETTINGS = EngineSpec(workers=1, lanes=1, device="cpu")


@pytest.fixture
def own_forkserver() -> Iterator[None]:
    """One that begins within the test: workers have the environment it was begun in."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # made for tests
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_forkserver: None) -> tuple[Composed, Plan]:
    """Two cells on 20 and on 40 of 60 images in a folder; the smaller set is part of the larger."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 40)):
        for index in range(count):
            path = tmp_path / "images" / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", str(tmp_path / "cache"))
    data = parse_data({"kind": "folder", "root": str(tmp_path / "images")})
    plan = tiny_plan(data=data, num_train=[20, 40], num_validation=20)
    return Composed(plan.spec, SETTINGS, TrackingSpec(kind="off")), plan


def trained(study: tuple[Composed, Plan], store: Store, on_start: Callable[[Plan], None] = lambda _: None) -> Outcome:
    """What `study run` does besides the report."""
    asked, plan = study
    return train_cells(plan, asked, store, REPEATED, on_start, lambda _: None, lambda _: None)


def test_an_image_damaged_meanwhile_costs_the_cells_that_read_it_until_it_is_repaired(
    study: tuple[Composed, Plan], tmp_path: Path
) -> None:
    _, plan = study
    undisturbed, store = Store(tmp_path / "undisturbed"), Store(tmp_path / "results")
    assert trained(study, undisturbed).incomplete == {}
    small, large = sorted(plan.cells, key=lambda cell: cell.num_train)
    data = JobData(plan.spec.data)
    row = min(set(data.rows(large)[0].tolist()) - set(data.rows(small)[0].tolist()))
    (path,) = (tmp_path / "cache").glob("*/train/images.npy")

    def damage(_: Plan) -> None:  # all images were verified by now
        content = bytearray(path.read_bytes())
        content[-16 * 16 * (80 - row)] ^= 1
        path.unlink()
        path.write_bytes(content)

    outcome = trained(study, store, damage)
    assert store.states(plan) == {small.id: "finished", large.id: "waiting"}
    (why,) = outcome.incomplete.values()
    assert f"the decoded image in row {row} of {path} is damaged; delete {path.parent}" in why

    with pytest.raises(ConfigError, match=f"data: the decoded images in {path.parent}: damaged .*delete {path.parent}"):
        trained(study, store)

    shutil.rmtree(path.parent)
    assert trained(study, store).incomplete == {}
    for cell in plan.cells:
        record, expected = store.record(cell.id), undisturbed.record(cell.id)
        assert record is not None
        assert expected is not None
        assert deterministic(record) == deterministic(expected)
