"""Networks trained to other weights: their results are absent, and computed again where they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probed_study import QUICK

from models.checkpoints import classifier_checkpoint, read_weights
from studies.cell import Cell
from studies.checkpoint import save_checkpoint
from studies.files import sha256_of
from studies.grid import Plan
from studies.probes import KINDS, probe_arrays
from studies.probes.probe_results import (
    PROBED,
    StatedWeights,
    coverage,
    probe_frame,
)
from studies.probes.probing import probe_networks
from studies.probes.subjects import Subject, subjects
from studies.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def _other_weights(plan: Plan, store: Store, **changes: Any) -> tuple[Cell, tuple[Subject, ...]]:
    """Writes other weights of one cell and its record, and says which results were of the former."""
    cell = next(cell for cell in plan.cells if cell.family == "vit" and cell.num_train == 120)
    record = store.record(cell.id)
    assert record is not None
    path = store.weights_path(cell.id, 1.0)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in read_weights(path).state.items()}
    path.unlink()
    save_checkpoint(classifier_checkpoint(state, **cell.network_arguments), path)
    store.write_record(record.model_copy(update={"kept_sha256": sha256_of(path)} | changes))
    of_cell = [one for one in subjects(plan, tuple(KINDS.values())) if one.weights == "trained" and cell in one.cells]
    return cell, tuple(of_cell)


def test_results_of_weights_that_have_changed_are_absent_and_computed_again(plan: Plan, probed_copy: Store) -> None:
    before, arrays = probe_frame(plan, probed_copy), probe_arrays(plan, probed_copy, "position_similarity")
    assert StatedWeights(probed_copy).sha256(subjects(plan, QUICK)[0]) == (), "an untrained network has no file"
    cell, stale = _other_weights(plan, probed_copy)
    assert {one.kind.name for one in stale} == set(KINDS)
    frame = probe_frame(plan, probed_copy)
    assert not set(frame["result_id"]) & {one.id for one in stale}
    assert set(before["result_id"]) - set(frame["result_id"]) <= {one.id for one in stale}
    assert len(probe_arrays(plan, probed_copy, "position_similarity")) == len(arrays) - 1
    covered = coverage(plan, probed_copy)
    assert {name: covered.asked[name] - covered.done[name] for name in KINDS} == dict.fromkeys(KINDS, 1)
    found = probe_networks(plan, probed_copy, subjects(plan, QUICK))
    assert found.computed == 2
    assert all("is of other weights than the records of its cells state now: kept as" in one for one in found.messages)
    record = probed_copy.record(cell.id)
    assert record is not None
    for one in stale:
        if one.kind in QUICK:
            result = PROBED.read(probed_copy, one.id)
            assert result is not None
            assert result.weights_sha256 == (record.kept_sha256,)
            assert len(list(PROBED.path(probed_copy, one.id).parent.glob("result.outdated-*.json"))) == 1
    assert coverage(plan, probed_copy, QUICK).done == coverage(plan, probed_copy, QUICK).asked
    assert probe_networks(plan, probed_copy, subjects(plan, QUICK)).computed == 0


def test_a_result_that_failed_is_of_its_weights_too(plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr("studies.probes.networks._give_trained", fails)
    asked = [one for one in subjects(plan, QUICK) if one.weights == "trained"][:2]
    assert probe_networks(plan, store, asked).computed == 2
    assert probe_networks(plan, store, asked).computed == 0
    _other_weights(plan, store)
    assert len(probe_frame(plan, store)) == 0
