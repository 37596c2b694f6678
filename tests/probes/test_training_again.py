"""Weights that were not kept: told with what to do, made again to the same bits, and no record changed."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from probed_study import KEEPING, QUICK, small_plan, train_all

from models.checkpoints import read_weights
from studies import training_again
from studies.engine_spec import EngineSpec
from studies.engines import Outcome
from studies.errors import ExitCode
from studies.grid import Plan
from studies.outcome import weights_sha256
from studies.probes.probe_tables import probe_tables
from studies.probes.study_probing import probe_study
from studies.store import Store
from studies.train import train_cells

pytestmark = pytest.mark.usefixtures("one_thread")


class _InThisProcess:
    """Trains what the engine would, where spies can see it."""

    def __init__(self, store: Store, plan: Plan, settings: EngineSpec, *_: object) -> None:
        self._arguments = (plan.spec.data, store, plan.study_id, plan.hash, settings)
        self._cells = {cell.id: cell for cell in plan.cells}

    def run(self, cell_ids: list[str]) -> Outcome:
        for cell_id in cell_ids:
            for _, record in train_cells([self._cells[cell_id]], *self._arguments):
                assert not isinstance(record, Exception)
        return Outcome(list(cell_ids))


@pytest.fixture(scope="module")
def without_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    """A finished study of one arm that kept no weights."""
    plan, store = small_plan(families=["mlp"], replicates=1), Store(tmp_path_factory.mktemp("without") / "store")
    train_all(plan, store)
    return plan, store


def test_cells_without_weights_are_named_with_what_to_do(without_weights: tuple[Plan, Store]) -> None:
    plan, store = without_weights
    result = probe_study(plan, store, kinds=QUICK, workers=1)
    assert result.exit_code == ExitCode.INCOMPLETE
    assert set(result.probing.without_weights) == {cell.id for cell in plan.cells}
    assert result.coverage.done == {"first_layer": 1, "position_similarity": 1}, "the untrained network has its own"
    told = "\n".join(str(part) for part in probe_tables(result))
    assert "2 cells of 2 without the weights to probe" in told
    assert all(f"{cell.title}: cell {cell.id} was trained without keeping its weights" in told for cell in plan.cells)
    assert f"study probe {plan.study_id} --train-again trains" in told
    assert "still to train" not in told, "both are trained"


def test_cells_still_to_train_need_the_command_of_their_study(tmp_path: Path) -> None:
    plan, store = small_plan(families=["mlp"], replicates=2, num_train=[40]), Store(tmp_path / "store")
    train_all(plan, store, KEEPING)
    shutil.rmtree(store.cell_folder(plan.cells[0].id))
    told = "\n".join(str(part) for part in probe_tables(probe_study(plan, store, kinds=QUICK, workers=1)))
    assert "give the command that began the study once more" in told
    assert "--train-again" not in told, "none was trained without keeping its weights"


def test_weights_are_made_again_without_changing_a_record_or_reading_a_test_image(
    without_weights: tuple[Plan, Store], tests_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = without_weights
    monkeypatch.setattr(training_again, "LocalEngine", _InThisProcess)
    before = {cell.id: store.record(cell.id) for cell in plan.cells}
    predictions = {cell.id: store.predictions_path(cell.id).read_bytes() for cell in plan.cells}
    wrong, right = plan.cells
    altered = before[wrong.id]
    assert altered is not None
    other = altered.branches[-1].model_copy(update={"weights_sha256": "0" * 64})
    altered = store.write_record(altered.model_copy(update={"branches": (altered.branches[0], other)}))
    result = probe_study(plan, store, kinds=QUICK, again=True, workers=1)
    assert tests_read == []
    assert list(result.not_trained_again) == [wrong.id]
    assert "other weights than its record states (at 1 C)" in result.not_trained_again[wrong.id]
    assert list(result.probing.without_weights) == [wrong.id]
    assert store.record(wrong.id) == altered
    assert not list(store.cell_folder(wrong.id).glob("weights-*"))
    record, known = store.record(right.id), before[right.id]
    assert record is not None
    assert known is not None
    assert record.kept_sha256
    assert record.model_copy(update={"kept_sha256": ""}) == known
    assert {cell.id: store.predictions_path(cell.id).read_bytes() for cell in plan.cells} == predictions
    kept = {one: read_weights(store.weights_path(right.id, one)).state for one in (0.5, 1.0)}
    assert [weights_sha256(kept[one]) for one in (0.5, 1.0)] == [one.weights_sha256 for one in record.branches]
    assert training_again.cells_to_train_again(plan, store) == [wrong]
    assert not (store.root / "again").exists()


def test_who_trains_the_same_cells_again_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls at once: the second trains nothing, since the first has made all weights by then."""
    plan, store = small_plan(families=["mlp"], replicates=1), Store(tmp_path / "store")
    train_all(plan, store)
    trained, told = list[str](), list[str]()

    class OneAfterTheOther(_InThisProcess):
        """In the middle of the first call the second begins."""

        def run(self, cell_ids: list[str]) -> Outcome:
            trained.extend(cell_ids)
            second.start()
            assert waited.wait(600)
            return super().run(cell_ids)

    waited, found = threading.Event(), dict[str, dict[str, str]]()

    def on_message(message: str) -> None:
        told.append(message)
        waited.set()

    def call() -> None:
        try:
            found["second"] = training_again.train_for_weights(plan, store, KEEPING, on_message=on_message)
        finally:
            waited.set()

    second = threading.Thread(target=call)
    monkeypatch.setattr(training_again, "LocalEngine", OneAfterTheOther)
    found["first"] = training_again.train_for_weights(plan, store, KEEPING)
    second.join()
    assert found == {"first": {}, "second": {}}
    assert len(trained) == len(plan.cells)
    assert told == [f"another process trains cells of {plan.study_id} again, which is waited for"]
    assert training_again.cells_to_train_again(plan, store) == []
    assert not (store.root / "again").exists()


def test_a_record_written_meanwhile_is_not_written_over(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who holds the lock until then changes the record; the weights are taken over into the new one."""
    cell = plan.cells[0]
    record = store.record(cell.id)
    assert record is not None
    scratch = Store(tmp_path / "again")
    shutil.copytree(store.cell_folder(cell.id), scratch.cell_folder("ffff"))
    monkeypatch.setattr(scratch, "record", lambda _: record)
    lock = Store.lock

    @contextlib.contextmanager
    def waits(self: Store, cell_id: str) -> Iterator[bool]:
        with lock(self, cell_id) as mine:
            if self is store:
                self.write_record(record.model_copy(update={"reason": "told meanwhile"}))
            yield mine

    monkeypatch.setattr(Store, "lock", waits)
    assert training_again._take_over(cell, "ffff", scratch, store) is None
    found = store.record(cell.id)
    assert found is not None
    assert found.reason == "told meanwhile"


def test_what_is_to_be_continued_stays_until_it_is_done(plan: Plan, store: Store) -> None:
    """The folder of another's training, and a cell that was interrupted; links are removed, not what they lead to."""
    scratch = training_again._scratch(store, [plan.cells[0].id])
    assert (scratch.root / "cells" / plan.cells[0].id).is_symlink()
    interrupted = scratch.cell_folder("ffff")
    interrupted.mkdir()
    assert training_again.train_for_weights(plan, store, KEEPING) == {}
    assert interrupted.is_dir()
    interrupted.rmdir()
    scratch.lock_plan(plan)
    assert training_again.train_for_weights(plan, store, KEEPING) == {}
    assert scratch.study_ids() == [plan.study_id], "somebody trains there"
    scratch.discard_study(plan.study_id)
    assert training_again.train_for_weights(plan, store, KEEPING) == {}
    assert not scratch.root.exists()
    assert store.record(plan.cells[0].id) is not None
    assert training_again.cells_to_train_again(plan, store) == []


def test_nobody_removes_what_another_has_just_prepared(tmp_path: Path) -> None:
    """Between the links of one process and its plan another may end: it leaves them."""
    scratch = Store(tmp_path / "store" / "again")
    with training_again._in_use(scratch):
        with training_again._in_use(scratch):
            training_again._scratch(Store(tmp_path / "store"), ["aaaa"])
        training_again._remove_if_done(scratch)
        assert (scratch.root / "cells" / "aaaa").is_symlink()
    training_again._remove_if_done(scratch)
    assert not scratch.root.exists()
    training_again._remove_if_done(scratch)
    assert not scratch.root.exists()


def test_a_lock_on_what_was_removed_meanwhile_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, flock, tries = Store(tmp_path / "again"), fcntl.flock, list[int]()

    def removed_at_first(file: IO[bytes], how: int) -> None:
        flock(file, how)
        tries.append(how)
        if len(tries) == 1:
            shutil.rmtree(scratch.root)

    monkeypatch.setattr(training_again.fcntl, "flock", removed_at_first)
    with training_again._in_use(scratch):
        assert tries == [fcntl.LOCK_SH] * 2
        training_again._remove_if_done(scratch)
        assert (scratch.root / training_again.IN_USE).exists()
