"""Trying again what failed: just those cells, nothing lost, and never one that diverged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planned import finish, planned, record_of

from studies import rounds, running, terminal
from studies.engine_spec import EngineSpec
from studies.engines import Outcome
from studies.errors import ConfigError, ExitCode
from studies.grid import Plan
from studies.retry import RETRIED, asks_to_retry
from studies.running import REPEATED, train_cells
from studies.store import Store
from studies.tracking import TrackingSpec
from studies.troubled_lines import MOST_LINES, troubled_lines


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """Finished but the first four cells: failed, invalid, diverged and waiting."""
    store = Store(tmp_path / "results")
    finish(store, plan, plan.cells[4:])
    for cell, status in zip(plan.cells, ("failed", "invalid", "diverged"), strict=False):
        store.write_record(record_of(plan, cell, status=status, reason=f"{status}\nbecause"))  # type: ignore[arg-type]
    return store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What engines were asked to train, which they do not."""
    told: list[list[str]] = []

    class Engine:
        def run(self, cell_ids: Sequence[str]) -> Outcome:
            told.append(list(cell_ids))
            return Outcome()

    monkeypatch.setattr(running, "make_engine", lambda *_: Engine())
    monkeypatch.setattr(running, "check_machine", lambda *_: ["cpu"])
    for name in ("check_disk", "prepare_data"):
        monkeypatch.setattr(running, name, lambda *_: None)
    return told


def trained(plan: Plan, store: Store, wanted: frozenset[Any]) -> None:
    study = SimpleNamespace(engine=EngineSpec(), tracking=TrackingSpec())
    train_cells(plan, study, store, wanted, lambda _: None, lambda _: None, lambda _: None)  # type: ignore[arg-type]


def test_a_run_leaves_failed_cells_and_a_retry_leaves_all_others(
    store: Store, plan: Plan, asked: list[list[str]]
) -> None:
    failed, invalid, diverged, waiting = (cell.id for cell in plan.cells[:4])
    trained(plan, store, REPEATED)
    assert asked == [[waiting]]
    trained(plan, store, RETRIED)
    assert asked[1:] == [[failed, invalid]]
    assert store.state(diverged) == "diverged"
    for cell_id in (failed, invalid):  # nothing is lost
        (aside,) = store.cell_folder(cell_id).glob("record.failed-*.json")
        assert json.loads(aside.read_bytes())["record"]["reason"].endswith("because")


def test_a_retry_repairs_nothing_that_it_would_not_train(
    store: Store, plan: Plan, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    repaired: list[Plan] = []
    monkeypatch.setattr(running, "repair_kept", lambda planned, *_: repaired.append(planned))
    trained(plan, store, RETRIED)
    assert repaired == []
    trained(plan, store, REPEATED)
    assert repaired == [plan]


def test_a_killed_retry_is_continued_by_the_same_command(store: Store, plan: Plan, asked: list[list[str]]) -> None:
    failed, invalid = (cell.id for cell in plan.cells[:2])
    trained(plan, store, RETRIED)  # this engine leaves no record, as a killed one
    trained(plan, store, RETRIED)
    assert asked == [[failed, invalid]] * 2
    store.write_record(record_of(plan, plan.cells[0]))
    trained(plan, store, RETRIED)
    assert asked[2:] == [[invalid]]
    trained(plan, store, REPEATED)
    assert set(asked[3]) == {invalid, plan.cells[3].id}


def test_a_tuning_tries_failed_cells_again_and_goes_on(
    store: Store, plan: Plan, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study: Any = SimpleNamespace(engine=EngineSpec(), tracking=TrackingSpec(), tuning=None, spec=plan.spec)
    monkeypatch.setattr(rounds, "first_grids", lambda _: {})
    monkeypatch.setattr(rounds, "_template", lambda *_: None)
    monkeypatch.setattr(rounds, "_round", lambda *_: plan)
    monkeypatch.setattr(rounds, "_mirror", lambda *_: None)
    result = rounds.tune(study, store, retry_failed=True)
    assert asked == [[plan.cells[0].id, plan.cells[1].id, plan.cells[3].id]]
    assert result.exit_code == ExitCode.INCOMPLETE


def test_where_nothing_of_these_settings_was_run_there_is_nothing_to_retry(
    store: Store, plan: Plan, asked: list[list[str]]
) -> None:
    study = SimpleNamespace(engine=EngineSpec(), tracking=TrackingSpec(), spec=plan.spec)
    other = Store(store.root.with_name("other"))
    with pytest.raises(ConfigError, match=r"--retry failed: .*other has no study of these settings.*overrides"):
        running.run(study, other, planned=plan, retry_failed=True)  # type: ignore[arg-type]
    assert asked == []
    assert not other.root.exists(), "an empty plan would from now on be what the name means"


def test_the_option_knows_failed_alone_and_says_why_not_diverged() -> None:
    assert asks_to_retry("failed")
    assert not asks_to_retry(None)
    with pytest.raises(ConfigError, match=r"a diverged cell is a result.*it diverges again"):
        asks_to_retry("diverged")
    with pytest.raises(ConfigError, match="'invalid' was given; expected failed"):
        asks_to_retry("invalid")


def test_every_cell_in_trouble_has_a_line_with_reason_and_log(store: Store, plan: Plan) -> None:
    (store.cell_folder(plan.cells[5].id) / "record.json").write_text("{")
    lines = [line.plain for line in troubled_lines(plan, store.states(plan), store)]
    for cell, state in zip(plan.cells, ("failed", "invalid", "diverged"), strict=False):
        told = f"{cell.title} ({cell.id}) {state}: {state} because; study logs {cell.id} --store {store.root}"
        assert told in lines
    assert any(f"({plan.cells[5].id}) damaged: " in line for line in lines)
    assert any("--retry failed" in line for line in lines)
    assert lines[-1].startswith("diverged cells are results")
    assert list(troubled_lines(plan, dict.fromkeys(store.states(plan), "finished"), store)) == []


def test_of_very_many_cells_a_status_counts(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    monkeypatch.setattr(terminal, "MOST_CELLS", 5)
    console = Console(width=160)
    for part in terminal.status_tables(plan, store.states(plan), store):
        console.print(part)
    out = capsys.readouterr().out
    assert plan.cells[-1].id not in out
    assert "by arm and size, because there are many" in out
    counts = [line for line in out.splitlines() if line.startswith("│")]
    assert len(counts) == 6  # three arms, two sizes
    assert MOST_LINES >= 12
