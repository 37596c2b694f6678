"""What an actor does, in this process and without Ray."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from training import TINY_DIAL, tiny_plan

from datamodules import parse_data
from studies.engine_spec import RaySpec
from studies.engines import lock_witness
from studies.engines import worker as worker_module
from studies.engines.lock_witness import witness, witness_folder
from studies.engines.ray_worker import Origin, RayWorker
from studies.engines.worker import Assignment, JobResult
from studies.errors import ConfigError
from studies.grid import Plan
from studies.sources import code_version
from studies.store import Store
from studies.tracking import TrackingSpec


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan(replicates=2)


@pytest.fixture
def actor(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayWorker]:
    monkeypatch.chdir(tmp_path)  # and back, as the actor changes to its launcher's folder
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(worker_module, "_log_to", lambda path: None)
    store, launched = Store(tmp_path / "store"), tmp_path / "launched"
    launched.mkdir()
    store.lock_plan(plan)
    assignment = Assignment(
        store.root, plan.study_id, plan.spec.data, RaySpec(lanes=2), TrackingSpec(kind="off"), "cpu"
    )
    with witness(witness_folder(store, plan.study_id), "launcher-7") as own:
        yield RayWorker(assignment, Origin(launched, own, code_version()))


def test_it_trains_and_its_messages_wait_to_be_fetched(actor: RayWorker, plan: Plan, tmp_path: Path) -> None:
    assert actor.prepare() is None
    assert Path.cwd() == tmp_path / "launched"
    assert sys.path[-1] == str(tmp_path / "launched")
    actor.run(tuple(cell.id for cell in plan.cells))
    told = actor.messages()
    assert {message.cell_id: message.outcome for message in told if isinstance(message, JobResult)} == dict.fromkeys(
        (cell.id for cell in plan.cells), "recorded"
    )
    assert [record.status for record in Store(tmp_path / "store").records(plan)] == ["finished"] * 2


def test_a_node_with_other_code_is_refused(actor: RayWorker) -> None:
    actor._origin = replace(actor._origin, code_version="0.0.1+src.00000000")
    refusal = actor.prepare()
    assert refusal is not None
    assert "0.0.1+src.00000000; install the same on every node" in refusal


def test_a_node_that_does_not_see_locks_is_refused_before_anything_is_loaded(
    actor: RayWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayWorker, "_prepare", lambda self: pytest.fail("went on"))
    monkeypatch.setattr(lock_witness, "BEAT_SECONDS", 600.0)  # one look is enough
    actor._origin.witness.unlink()
    assert "is not the launcher's folder of that name" in str(actor.prepare())
    actor._origin.witness.touch()  # the file is there, and nobody seems to hold it
    assert "launcher-7 is alive and holds a lock here that this machine does not see" in str(actor.prepare())


@pytest.mark.parametrize("fault", [ConfigError("no fp32 here"), OSError("no space here")])
def test_a_node_that_cannot_do_what_is_asked_is_refused_by_its_name(
    actor: RayWorker, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def cannot(precision: str, device: str) -> None:
        raise fault

    monkeypatch.setattr("studies.precision.check_precision", cannot)
    assert actor.prepare() == f"node {platform.node()}: {fault}"


def test_a_node_with_other_data_is_refused(actor: RayWorker) -> None:
    actor._assignment = replace(actor._assignment, data=parse_data(TINY_DIAL | {"flipped_positions": 3}))
    assert "planned" in str(actor.prepare())


def test_what_is_no_cells_fault_ends_the_process(
    actor: RayWorker, plan: Plan, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Ended(BaseException):
        pass

    def ended(code: int) -> None:
        raise Ended(code)

    def lost(*arguments: object, **rest: object) -> None:
        raise RuntimeError("the device is lost")

    assert actor.prepare() is None
    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr(worker_module, "run_job", lost)
    with pytest.raises(Ended, match="1"):
        actor.run((plan.cells[0].id,))
    assert "the device is lost" in capfd.readouterr().err
