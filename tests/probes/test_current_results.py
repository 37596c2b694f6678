"""Which probe results count: those of the weights that the records of their cells state now."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from report.probed import write_probes
from report.synthetic import plan_of, write_study

from studies import bundle
from studies.bundle import bundle_study, verify_bundle
from studies.cell import Cell
from studies.errors import StoreError
from studies.grid import Plan
from studies.probes.catalogue import KINDS, chosen
from studies.probes.probe_results import PROBED, ProbeResult, StatedWeights, coverage, probe_frame
from studies.probes.subjects import Subject, subjects
from studies.store import Store

OTHER = "0f" * 32


@pytest.fixture
def plan() -> Plan:
    return plan_of()


@pytest.fixture
def store(plan: Plan, tmp_path: Path) -> Store:
    """Records and probe results that no network made; no record states weights, so every result is of none."""
    write_study(tmp_path / "store", plan)
    found = Store(tmp_path / "store")
    write_probes(plan, found)
    return found


def of_cell(plan: Plan, cell: Cell, kind: str = "first_layer") -> Subject:
    """A probe of the trained network of a cell."""
    return next(one for one in subjects(plan, chosen([kind])) if one.weights == "trained" and one.cell == cell)


def with_weights(store: Store, cell: Cell, sha256: str) -> None:
    """As if the cell had been trained to these weights."""
    record = store.record(cell.id)
    assert record is not None
    store.write_record(record.model_copy(update={"kept_sha256": sha256}))


def result_of(store: Store, subject: Subject) -> ProbeResult:
    result = PROBED.read(store, subject.id)
    assert result is not None
    return result


def test_a_result_counts_as_long_as_its_cell_states_the_same_weights(plan: Plan, store: Store) -> None:
    cell = plan.cells[0]
    one, whole = of_cell(plan, cell), len(probe_frame(plan, store))
    assert StatedWeights(store).why_outdated(one, result_of(store, one)) == ""
    with_weights(store, cell, OTHER)
    stated = StatedWeights(store)
    assert stated.sha256(one) == (OTHER,)
    told = "is of other weights than the records of its cells state now"
    assert stated.why_outdated(one, result_of(store, one)) == told
    assert stated.current(one) is None
    assert len(probe_frame(plan, store)) < whole
    PROBED.write(result_of(store, one).model_copy(update={"weights_sha256": (OTHER,)}), store)
    assert StatedWeights(store).why_outdated(one, result_of(store, one)) == ""
    with_weights(store, cell, "0e" * 32)
    assert StatedWeights(store).why_outdated(one, result_of(store, one)) == told


def test_drawn_weights_are_never_other_ones(plan: Plan, store: Store) -> None:
    untrained = subjects(plan, chosen(["first_layer"]))[0]
    assert untrained.weights == "initial"
    with_weights(store, untrained.cell, OTHER)
    assert StatedWeights(store).current(untrained) is not None


def test_a_diverged_cell_has_no_weights_whatever_it_kept(plan: Plan, store: Store) -> None:
    """Its final branch is not probed, though the weights of an earlier one may lie there."""
    cell = plan.cells[0]
    record = store.record(cell.id)
    assert record is not None
    final = record.branches[-1].model_copy(update={"diverged": True})
    changes = {"kept_sha256": OTHER, "branches": (*record.branches[:-1], final)}
    store.write_record(record.model_copy(update=changes))
    one = of_cell(plan, cell)
    assert StatedWeights(store).sha256(one) == ()
    assert StatedWeights(store).current(one) is not None


def test_nobody_can_say_of_a_cell_whose_record_is_damaged(plan: Plan, store: Store) -> None:
    one, done = of_cell(plan, plan.cells[0]), sum(coverage(plan, store).done.values())
    (store.cell_folder(one.cell.id) / "record.json").write_text("{}")
    with pytest.raises(StoreError, match="record"):
        StatedWeights(store).why_outdated(one, result_of(store, one))
    assert StatedWeights(store).current(one) is None
    assert sum(coverage(plan, store).done.values()) < done


def test_logits_have_one_name_in_results_of_any_version(plan: Plan, store: Store) -> None:
    """Earlier ones call them by no name, as they rightly call what was not read at a layer."""
    for kind, expected in (("equivariance", {"features", "logits"}), ("shift_consistency", {""})):
        one = of_cell(plan, plan.cells[0], kind)
        frame = probe_frame(plan, store)
        layers = set(frame.loc[frame["result_id"] == one.id, "layer"])
        assert {layer for layer in layers if not layer.startswith("blocks.")} == expected


# --- bundles ---------------------------------------------------------------------------------------


def names_in(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return {info.name for info in archive}


def test_a_bundle_carries_current_results_alone(plan: Plan, store: Store, tmp_path: Path) -> None:
    cell = plan.cells[0]
    stale = [one for one in subjects(plan, tuple(KINDS.values())) if one.weights == "trained" and cell in one.cells]
    whole = names_in(bundle_study(store, plan.study_id, tmp_path / "whole.tar"))
    with_weights(store, cell, OTHER)
    found = bundle_study(store, plan.study_id, tmp_path / "current.tar")
    gone = whole - names_in(found)
    assert {name.split("/")[1] for name in gone} == {one.id for one in stale}
    assert verify_bundle(found) == []


def test_a_bundle_with_an_outdated_result_is_found_out(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything in it is whole, and the sums agree: what is told is that two of its parts do not belong together."""
    cell = plan.cells[0]
    stale = [one for one in subjects(plan, tuple(KINDS.values())) if one.weights == "trained" and cell in one.cells]
    with_weights(store, cell, OTHER)
    with monkeypatch.context() as patched:
        patched.setattr(bundle.StatedWeights, "why_outdated", lambda *_: "")
        packed = bundle_study(store, plan.study_id, tmp_path / "stale.tar")
    assert sorted(verify_bundle(packed)) == sorted(
        f"probes/{one.id}: is of other weights than the records of its cells state now" for one in stale
    )


def test_a_bundle_with_a_damaged_result_is_not_made(plan: Plan, store: Store, tmp_path: Path) -> None:
    path = PROBED.path(store, of_cell(plan, plan.cells[0]).id)
    content = json.loads(path.read_text())
    content["result"]["seconds"] = 99.0
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="is damaged"):
        bundle_study(store, plan.study_id, tmp_path / "small.tar")
