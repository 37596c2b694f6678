"""Predictions that are missing or damaged are never read, and their cells are named where answers are written."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report.synthetic import plan_of, write_study

from studies import cli, load_answers
from studies.company import company
from studies.gathering import begin_gathering
from studies.grid import Plan
from studies.kept_predictions import MOST_NAMED, KeptPredictions, lost_statement, stated_predictions
from studies.store import Store


@pytest.fixture
def plan() -> Plan:
    return plan_of(replicates=3)


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """All cells finished, their replicates tested on the same images."""
    write_study(tmp_path / "results", plan, shared_test=True)
    return Store(tmp_path / "results")


def _removed(path: Path) -> None:
    path.unlink()


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content)


def _of_other_arrays(path: Path) -> None:
    """A whole archive with the fields of predictions, and not those of the record."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays | {"predicted_class": 1 - arrays["predicted_class"]})
    path.write_bytes(buffer.getvalue())


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = [_removed, _flipped, _of_other_arrays, _a_folder]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_its_record_does_not_state_is_not_read(damage: Callable[[Path], None], store: Store, plan: Plan) -> None:
    first, second = plan.cells[0].id, plan.cells[1].id
    damage(store.predictions_path(first))
    kept = KeptPredictions(store, stated_predictions(store.records(plan)))
    assert kept.get(first) is None
    assert kept.get(first) is None
    assert kept[second] == store.predictions_path(second)
    assert list(kept.lost) == [first]
    assert set(kept) == {cell.id for cell in plan.cells}


def test_a_cell_that_states_no_predictions_has_lost_none(store: Store, plan: Plan) -> None:
    record = store.record(plan.cells[0].id)
    assert record is not None
    kept = KeptPredictions(store, stated_predictions([record.model_copy(update={"predictions_sha256": ""})]))
    assert (kept.get(record.cell_id), dict(kept), kept.lost) == (None, {}, {})


@pytest.mark.parametrize("damage", DAMAGE)
def test_curves_of_damaged_predictions_have_no_variance_of_the_test_set(
    damage: Callable[[Path], None], store: Store, plan: Plan
) -> None:
    whole = load_answers(plan.spec.name, store.root).table.curves
    damage(store.predictions_path(plan.cells[0].id))
    curves = load_answers(plan.spec.name, store.root).table.curves
    hurt = plan.cells[0].family
    assert all(curve.block_log_error is not None for curve in whole.values())
    assert {arm for arm, curve in curves.items() if curve.block_log_error is None} == {hurt}


@pytest.mark.parametrize("verb", ["report", "fit"])
def test_cells_whose_predictions_are_lost_are_named(
    verb: str, store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["study", verb, plan.spec.name, "--store", str(store.root)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
        captured = capsys.readouterr()
        return captured.out, captured.err

    assert said()[1] == ""
    lost = sorted([plan.cells[0].id, plan.cells[3].id])
    _removed(store.predictions_path(lost[0]))
    _flipped(store.predictions_path(lost[1]))
    out, err = said()
    told = f"The predictions of 2 cells are missing or damaged ({', '.join(lost)})"
    assert told in err
    if verb == "report":
        assert told in Path(out.strip()).read_text()


def test_few_of_many_lost_cells_are_named() -> None:
    assert lost_statement(()) == ""
    many = [f"{index:016x}" for index in range(MOST_NAMED + 1_000)]
    told = lost_statement(many)
    assert "of 1,008 cells" in told
    assert f"{many[MOST_NAMED - 1]} and 1,000 more)" in told
    assert many[MOST_NAMED] not in told


@pytest.mark.parametrize("two", [False, True])
def test_what_is_gathered_states_the_predictions_of_every_cell(store: Store, plan: Plan, two: bool) -> None:
    """Whichever process read its record: intervals of an arm would leave out the test set where one is forgotten."""
    with company(two) as second:
        gathered = begin_gathering(plan, store, second)()
    assert gathered.predictions == stated_predictions(store.records(plan))
    assert len(gathered.predictions) == len(plan.cells)
