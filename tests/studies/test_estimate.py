"""Time and disk before a run: from records where there are some, measured otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planned import finish, planned, predictions_of, record_of

from studies import estimate as estimate_module
from studies.estimate import (
    BYTES_PER_RECORD,
    describe_bytes,
    describe_flops,
    describe_seconds,
    estimate,
    evaluation_flops,
    shares,
)
from studies.grid import Plan
from studies.planning import make_plan
from studies.store import Store, bytes_held
from studies.survey import survey_arms


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arms that would have been timed; they then take one nanosecond per FLOP."""
    timed: list[str] = []
    monkeypatch.setattr(estimate_module, "_measured_rate", lambda plan, arm: timed.append(arm.name) or 1e-9)
    return timed


def test_a_study_takes_as_long_as_its_records_say(plan: Plan, untimed: list[str]) -> None:
    # Every record took 3 s, so that 12 cells on one worker take 36 s, on 4 workers 9 s.
    records = [record_of(plan, cell, seconds=2.0) for cell in plan.cells]
    assert estimate(plan, records, 1).seconds == pytest.approx(36)
    assert estimate(plan, records, 4).seconds == pytest.approx(9)
    assert untimed == []


def test_finished_cells_take_no_time_and_idle_workers_do_not_help(plan: Plan, untimed: list[str]) -> None:
    records = [record_of(plan, cell, seconds=2.0) for cell in plan.cells]
    done = frozenset(cell.id for cell in plan.cells[2:])
    assert estimate(plan, records, 1, done=done).seconds == pytest.approx(6)
    assert estimate(plan, records, 8, done=done).seconds == pytest.approx(3)
    assert estimate(plan, records, 8, done=frozenset(cell.id for cell in plan.cells)).seconds == 0


def test_only_arms_without_a_record_are_timed(plan: Plan, untimed: list[str]) -> None:
    vit = [record_of(plan, cell) for cell in plan.cells if cell.family == "vit"]
    failed = [record_of(plan, cell, status="failed") for cell in plan.cells if cell.family == "mlp"]
    cost = estimate(plan, vit + failed, 1)
    assert cost.measured_arms == ("resnet", "mlp")
    assert untimed == ["resnet", "mlp"]
    others = [cell for cell in plan.cells if cell.family != "vit"]
    timed = sum(cell.executed_flops + evaluation_flops(cell) for cell in others) * 1e-9
    assert cost.seconds == pytest.approx(len(vit) * 3 + timed)


def test_one_slow_record_does_not_move_the_estimate(plan: Plan, untimed: list[str]) -> None:
    records = [record_of(plan, cell, seconds=2000.0 if i == 0 else 2.0) for i, cell in enumerate(plan.cells)]
    assert estimate(plan, records, 1).seconds == pytest.approx(36)


def test_evaluation_is_validation_and_test_once_per_branch(plan: Plan) -> None:
    cell = plan.cells[0]
    assert evaluation_flops(cell) == cell.forward_flops * 4 * (100 + 500)


def test_the_disk_planned_holds_what_is_written(tmp_path: Path, plan: Plan, untimed: list[str]) -> None:
    store = Store(tmp_path)
    finish(store, plan)
    cost = estimate(plan, [], 1)
    held = bytes_held([tmp_path / "cells"])
    assert held <= cost.bytes_kept
    record = store.cell_folder(plan.cells[0].id) / "record.json"
    assert record.stat().st_size < BYTES_PER_RECORD
    raw = sum(array.nbytes for array in predictions_of(record_of(plan, plan.cells[0])).values())
    assert cost.bytes_kept <= len(plan.cells) * (BYTES_PER_RECORD + 2 * raw)


def test_checkpoints_planned_grow_with_workers(plan: Plan, untimed: list[str]) -> None:
    one, three = (estimate(plan, [], workers).bytes_while_running for workers in (1, 3))
    # Weights and two moments now and on the trunk, weights of four branches; float32; this one and the one before.
    assert one == 2 * 4 * 20_000 * (3 + 3 + 4)
    assert three == 3 * one


def test_timing_an_arm_leaves_torch_as_it_was() -> None:
    unsurveyed = planned(families=("mlp",), num_train=(64,), replicates=1, primary_pair=None)
    plan = make_plan(unsurveyed.spec, unsurveyed.data, survey_arms(unsurveyed.spec, unsurveyed.data))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    cost = estimate(plan, [], 1)
    assert cost.measured_arms == ("mlp",)
    assert 0 < cost.seconds < 600
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_shares_add_up_to_the_whole(plan: Plan) -> None:
    assert shares(plan) == {
        name: 4 * 3 * arm.forward_flops * 32 * 94 for name, arm in zip(shares(plan), plan.arms, strict=True)
    }
    assert sum(shares(plan).values()) == plan.executed_flops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (describe_bytes(0), "0 B"),
        (describe_bytes(999), "999 B"),
        (describe_bytes(999_600), "1 MB"),
        (describe_bytes(1_234_567), "1.23 MB"),
        (describe_bytes(5e15), "5e+03 TB"),
        (describe_seconds(0.4), "0 s"),
        (describe_seconds(89.4), "89 s"),
        (describe_seconds(450), "7 min 30 s"),
        (describe_seconds(5399.6), "1 h 30 min"),
        (describe_flops(12), "12 FLOP"),
        (describe_flops(237_499_121_664), "237.5 GFLOP"),
        (describe_flops(999_960), "1 MFLOP"),
        (describe_flops(2e21), "2000 EFLOP"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected


@given(count=st.integers(0, 10**15 - 1))
def test_bytes_are_never_written_in_powers(count: int) -> None:
    number, unit = describe_bytes(count).split()
    scale = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert "e" not in number or unit == "TB"
    assert float(number) * scale == pytest.approx(count, rel=5.1e-3)


@given(seconds=st.floats(0, 1e6))
def test_seconds_are_told_to_the_unit_shown(seconds: float) -> None:
    scale = {"h": 3600, "min": 60, "s": 1}
    words = describe_seconds(seconds).split()
    told = sum(int(number) * scale[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert told == pytest.approx(seconds, abs=60 if "h" in words else 0.5)
