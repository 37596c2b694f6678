"""Probes of a study: on the right networks and images, once, kept, and told where there is nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from probed_study import KEEPING, small_plan, train_all

from datamodules import ImageSplit
from models.checkpoints import classifier_checkpoint, read_weights
from studies import training_again
from studies.bundle import bundle_study, verify_bundle
from studies.cell import Cell
from studies.checkpoint import save_checkpoint
from studies.digest import digest
from studies.engine_spec import EngineSpec
from studies.engines import Outcome
from studies.errors import ConfigError, ExitCode
from studies.export import export_frame
from studies.files import sha256_of
from studies.grid import Plan
from studies.housekeeping import clean_store
from studies.job_data import JobData
from studies.kept_results import DamagedError
from studies.outcome import weights_sha256
from studies.probes import KINDS, PROBE_COLUMNS, probe_arrays, probe_frame
from studies.probes import applied as applied_module
from studies.probes.attention import attention_distance
from studies.probes.catalogue import ProbeKind, chosen
from studies.probes.held_out import HeldOut
from studies.probes.probe import Probed
from studies.probes.probe_results import PROBED, StatedWeights, coverage, probed_subjects, result_ids
from studies.probes.probe_tables import probe_tables
from studies.probes.probing import probe_networks
from studies.probes.study_probing import ProbingResult, probe_study
from studies.probes.subjects import Subject, once, subjects
from studies.probes.summary import probe_summary, run_values
from studies.program import initial_network
from studies.report.card import StudyCard
from studies.store import Store
from studies.tracking.runs import cell_run
from studies.train import train_cells

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = chosen(["position_similarity", "first_layer"])


@pytest.fixture
def tests_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Subset seeds of the test splits that are read, in order."""
    seen: list[int] = []
    read = JobData.test_split

    def spy(self: JobData, seed: int) -> ImageSplit:
        seen.append(seed)
        return read(self, seed)

    monkeypatch.setattr(JobData, "test_split", spy)
    return seen


def times(store: Store, found: tuple[Subject, ...]) -> dict[str, int]:
    paths = {one.id: PROBED.path(store, one.id) for one in found}
    return {one: path.stat().st_mtime_ns for one, path in paths.items() if path.exists()}


# --- what is probed -------------------------------------------------------------------------------


def test_every_network_is_probed_trained_and_untrained(plan: Plan, probed: tuple[Store, ProbingResult]) -> None:
    store, result = probed
    assert result.exit_code == ExitCode.OK
    assert result.probing.faults == result.probing.without_weights == {}
    asked = subjects(plan, tuple(KINDS.values()))
    per_network = len(KINDS) - 1
    assert len(asked) == 8 * 2 * per_network + 4  # similarity: two arms, two replicates
    assert len(once(asked)) == (8 + 4) * per_network + 4  # untrained networks are those of both sizes
    assert result.coverage.done == result.coverage.asked
    frame = probe_frame(plan, store)
    assert list(frame.columns) == list(PROBE_COLUMNS)
    of_both = set(KINDS) - {"representation_similarity", "shift_consistency", "patch_shuffle"}  # those need accuracy
    networks = frame.groupby("probe")["weights"].agg(set)
    assert {name for name, weights in networks.items() if weights == {"initial", "trained"}} >= of_both
    assert set(frame.loc[frame["probe"] == "attention_distance", "arm"]) == {"vit"}
    reasons = {title: reason for title, reason in result.probing.inapplicable.items() if title.startswith("attention")}
    assert len(reasons) == 4 + 2
    assert all("mlp" in title and "no attention" in reason for title, reason in reasons.items())


def test_readings_are_those_of_the_weights_that_the_cell_has_kept(
    plan: Plan, probed: tuple[Store, ProbingResult]
) -> None:
    store, _ = probed
    cell = next(cell for cell in plan.cells if cell.family == "vit" and cell.num_train == 120)
    record = store.record(cell.id)
    assert record is not None
    state = read_weights(store.weights_path(cell.id, 1.0)).state
    assert weights_sha256(state) == record.branches[-1].weights_sha256
    frame = probe_frame(plan, store).query("probe == 'attention_distance' and cell_id == @cell.id")
    held = HeldOut(cell, JobData(plan.spec.data), "cpu")
    values = {}
    for weights in ("initial", "trained"):
        network = initial_network(cell)
        if weights == "trained":
            network.load_state_dict(state)
        expected = attention_distance(network, held.first(256), num_images=256).readings
        found = frame[frame["weights"] == weights]
        assert found["value"].tolist() == pytest.approx([one.value for one in _in_order(expected)])
        assert set(found["num_images"]) == {60}
        values[weights] = found["value"].tolist()
    assert values["trained"] != pytest.approx(values["initial"])


def _in_order(readings: Any) -> list[Any]:  # of the frame, which sorts by quantity and keeps the rest
    return sorted(readings, key=lambda one: one.quantity)


def test_untrained_networks_are_told_of_at_every_size_and_computed_once(
    plan: Plan, probed: tuple[Store, ProbingResult]
) -> None:
    frame = probe_frame(plan, probed[0]).query("weights == 'initial' and probe == 'first_layer'")
    for _, of_replicate in frame.groupby(["arm", "replicate"]):
        assert set(of_replicate["num_train"]) == {40, 120}
        assert of_replicate["result_id"].nunique() == 1
    assert frame["result_id"].nunique() == 4


def test_images_are_held_out_and_classes_as_frequent_as_among_all(plan: Plan) -> None:
    cell, data = plan.cells[-1], JobData(plan.spec.data)
    held = HeldOut(cell, data, "cpu")
    trained_on, validation = data.rows(cell)
    assert not set(trained_on) & set(validation)
    every = torch.cat([images for images, _ in held.batches.evaluation_batches(validation)]).flatten(1)
    few = torch.cat([images for images, _ in held.first(20)]).flatten(1)
    assert all((one == every).all(dim=1).any() for one in few)
    labels = torch.cat([labels for _, labels in held.first(20)])
    share = float((held.batches.split.labels[validation] == 1).mean())
    assert abs(int((labels == 1).sum()) - 20 * share) < 1
    assert sum(len(images) for images, _ in held.first(1000)) == 60


def test_only_few_shot_reads_the_test_split(plan: Plan, store: Store, tests_read: list[int]) -> None:
    probe_networks(plan, store, subjects(plan, chosen(["shift_consistency", "equivariance", "patch_shuffle"])))
    assert tests_read == []
    probe_networks(plan, store, subjects(plan, chosen(["few_shot"])))
    assert len(tests_read) == 12


def test_similarity_is_of_each_network_with_those_of_the_other_sizes(
    plan: Plan, probed: tuple[Store, ProbingResult]
) -> None:
    frame = probe_frame(plan, probed[0], chosen(["representation_similarity"]))
    assert set(zip(frame["num_train"], frame["setting"], strict=True)) == {(40, 120.0), (120, 40.0)}
    assert len(frame) == 4 * 2
    for subject, arrays in probe_arrays(plan, probed[0], "representation_similarity"):
        assert arrays["sizes"].tolist() == [40, 120]
        matrix = arrays["representation_similarity"]
        assert np.diag(matrix) == pytest.approx([1, 1])
        own = frame[(frame["arm"] == subject.arm) & (frame["replicate"] == subject.cell.replicate)]
        assert own["value"].tolist() == pytest.approx([matrix[0, 1]] * 2)


def test_what_is_probed_determines_the_id(plan: Plan) -> None:
    one = subjects(plan, chosen(["equivariance"]))[0]
    assert one.weights == "initial"
    other = {
        "settings": ProbeKind(**vars(one.kind) | {"settings": dict(one.kind.settings) | {"step": 0.2}}),
        "version": ProbeKind(**vars(one.kind) | {"version": 2}),
    }
    for kind in other.values():
        assert Subject(kind, one.arm, one.cells, one.sizes, one.weights).id != one.id
    assert Subject(one.kind, one.arm, one.cells, one.sizes, "trained").id != one.id

    def changed(**update: Any) -> Subject:
        return Subject(one.kind, one.arm, (one.cell.model_copy(update=update),), one.sizes, "initial")

    moves: Mapping[str, Any] = {"variant": "nano-cls", "permutation": "pixels", "num_validation": 59, "head": "hidden"}
    assert all(changed(**{name: value}).id != one.id for name, value in moves.items())
    assert changed(num_train=7, learning_rate=1.0, steps=3, data="renamed", replicate=9).id == one.id


def test_networks_of_other_permutations_are_other_ones(plan: Plan) -> None:
    permuted = [cell.model_copy(update={"permutation": "pixels"}) for cell in plan.cells]
    both = replace(plan, cells=(*plan.cells, *permuted))
    kinds = chosen(["first_layer", "representation_similarity"])
    assert len(once(subjects(both, kinds))) == 2 * len(once(subjects(plan, kinds)))
    frame = pd.DataFrame(
        [["first_layer", "low_frequency_share", "fraction", "", "vit", scope, 40, 0, r, "trained", f"{scope}{r}", None,
          value]
         for scope, value in (("none", 1.0), ("pixels", 3.0)) for r in range(2)],
        columns=["probe", "quantity", "unit", "layer", "arm", "permutation", "num_train", "num_pretrain", "replicate",
                 "weights", "cell_id", "setting", "value"],
    )  # fmt: skip
    assert probe_summary(frame)[["permutation", "mean"]].to_numpy().tolist() == [["none", 1.0], ["pixels", 3.0]]


def test_networks_that_nobody_reports_are_refused() -> None:
    masked = small_plan(families=["vit"], objective="masked_patches", num_train=[40])
    with pytest.raises(ConfigError, match="learns masked_patches"):
        subjects(masked, QUICK)
    assert coverage(masked, Store("nowhere")).asked == {}
    with pytest.raises(ConfigError, match="there is no probe 'guess'; expected some of shift_consistency"):
        chosen(["first_layer", "guess"])


# --- once, and whatever happens --------------------------------------------------------------------


def test_what_was_there_before_a_kill_is_kept(plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen = subjects(plan, QUICK), list[int]()
    apply = applied_module.apply

    def killed(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return apply(*arguments)

    monkeypatch.setattr("studies.probes.probing.apply", killed)
    with pytest.raises(KeyboardInterrupt):
        probe_networks(plan, store, asked)
    before = times(store, asked)
    assert len(before) == 5
    result = probe_networks(plan, store, asked)
    assert (result.computed, result.faults) == (24 - 5, {})
    after = times(store, asked)
    assert {one: after[one] for one in before} == before
    assert probe_networks(plan, store, asked).computed == 0


def test_a_fault_of_one_network_is_a_result_and_costs_no_other(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = subjects(plan, QUICK)
    apply, wrong = applied_module.apply, [one for one in asked if one.weights == "trained"][:2]

    def failing(subject: Subject, *arguments: Any) -> tuple[Probed, tuple[str, ...]]:
        if subject == wrong[0]:
            raise RuntimeError("singular")
        if subject == wrong[1]:
            raise OSError("disk gone")
        return apply(subject, *arguments)

    monkeypatch.setattr("studies.probes.probing.apply", failing)
    found = probe_networks(plan, store, asked)
    assert found.faults == {wrong[0].title: "RuntimeError: singular", wrong[1].title: "disk gone"}
    results = [PROBED.read(store, one.id) for one in wrong]
    assert results[0] is not None
    assert (results[0].outcome, results[0].reason) == ("failed", "RuntimeError: singular")
    assert results[1] is None, "a fault of the machine says nothing of the network"
    monkeypatch.undo()
    again = probe_networks(plan, store, asked)
    assert again.computed == 1
    assert again.faults == {wrong[0].title: "RuntimeError: singular"}, "a result is not computed twice"
    assert probe_networks(plan, store, asked, retry_failed=True).faults == {}
    assert len(times(store, asked)) == len(once(asked))


def test_a_damaged_result_is_set_aside_and_computed_again(plan: Plan, probed_copy: Store) -> None:
    asked = [one for one in subjects(plan, QUICK) if one.arm == "vit" and one.weights == "trained"]
    first, second = asked[:2]
    frame = probe_frame(plan, probed_copy)
    path = PROBED.path(probed_copy, first.id)
    path.write_text(path.read_text().replace('"value": ', '"value": 1', 1))
    arrays = PROBED.path(probed_copy, second.id).with_name("arrays.npz")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    assert len(probe_frame(plan, probed_copy)) < len(frame)
    found = probe_networks(plan, probed_copy, asked)
    assert found.computed == 2
    assert len(found.messages) == 2
    assert all("is damaged: kept as" in message for message in found.messages)
    assert len(list(path.parent.glob("result.damaged-*.json"))) == 1
    assert probe_frame(plan, probed_copy).equals(frame)


def test_a_result_that_another_process_computes_is_left_to_it(plan: Plan, store: Store) -> None:
    asked = subjects(plan, QUICK)
    with store.result_lock("probes", asked[0].id):
        found = probe_networks(plan, store, asked)
    assert list(found.faults) == [asked[0].title]
    assert "another process" in found.faults[asked[0].title]


def test_what_another_process_has_computed_meanwhile_is_taken(plan: Plan, probed_copy: Store) -> None:
    one = subjects(plan, QUICK)[0]
    known = PROBED.read(probed_copy, one.id)

    def never() -> Any:
        pytest.fail("computed twice")

    assert PROBED.compute(probed_copy, one.id, one.title, never, print) == known


# --- weights ---------------------------------------------------------------------------------------


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
    assert not any((store.root / "again" / "cells").iterdir())


# --- what comes out --------------------------------------------------------------------------------


def test_the_summary_is_over_replicates(plan: Plan, probed: tuple[Store, ProbingResult]) -> None:
    frame = probe_frame(plan, probed[0])
    summary = probe_summary(frame)
    (row,) = summary.query("quantity == 'attention_distance' and size == 40 and weights == 'trained'").itertuples()
    own = frame.query("quantity == 'attention_distance' and num_train == 40 and weights == 'trained'")
    first, second = own.groupby("replicate")["value"].mean()
    assert row.mean == pytest.approx((first + second) / 2)
    assert row.num_replicates == 2
    assert np.isnan(row.half_width), "two replicates are too few for an interval"
    three = pd.concat([frame, frame[frame["replicate"] == 0].assign(replicate=2)])
    (row,) = (
        probe_summary(three)
        .query("quantity == 'attention_distance' and size == 40 and weights == 'trained'")
        .itertuples()
    )
    deviation = np.std([first, second, first], ddof=1)
    assert row.half_width == pytest.approx(4.302653 * deviation / np.sqrt(3), rel=1e-5)


def test_a_run_shows_the_values_of_its_cell(plan: Plan, probed: tuple[Store, ProbingResult]) -> None:
    store, _ = probed
    frame = probe_frame(plan, store)
    values, cell = run_values(frame), plan.cells[0]
    own = frame.query("cell_id == @cell.id and quantity == 'low_frequency_share' and weights == 'trained'")
    name = "probe/first_layer/low_frequency_share/trained"
    assert values[cell.id][name] == own["value"].item()
    record, card = store.record(cell.id), _card(plan)
    assert record is not None
    run = cell_run(record, card, values[cell.id])
    assert run["summary"][name] == own["value"].item()
    assert run["digest"] != cell_run(record, card)["digest"]


def _card(plan: Plan) -> StudyCard:
    from studies.answering import study_card

    return study_card(plan)


def test_export_and_bundle_carry_the_results(plan: Plan, probed_copy: Store, tmp_path: Path) -> None:
    frame = probe_frame(plan, probed_copy)
    parquet, csv = export_frame(frame, tmp_path, name=f"{plan.study_id}.probes")
    assert parquet.name == f"{plan.study_id}.probes.parquet"
    assert csv.read_text().count("\n") == len(frame) + 1
    bundle = bundle_study(probed_copy, plan.study_id, tmp_path / "small.tar")
    assert verify_bundle(bundle) == []
    one = next(one for one in subjects(plan, QUICK) if one.arm == "vit")
    content = PROBED.path(probed_copy, one.id).read_bytes()
    assert content in bundle.read_bytes()
    assert PROBED.path(probed_copy, one.id).with_name("arrays.npz").read_bytes() in bundle.read_bytes()
    bundle.write_bytes(bundle.read_bytes().replace(content, content.replace(b'"measured"', b'"measurex"', 1)))
    assert any("was altered" in problem for problem in verify_bundle(bundle))


def test_a_bundle_with_a_foreign_result_is_found_out(plan: Plan, probed_copy: Store, tmp_path: Path) -> None:
    one = subjects(plan, QUICK)[0]
    path = PROBED.path(probed_copy, one.id)
    content = json.loads(path.read_text())
    content["result"]["identity"]["probe_version"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(Exception, match="is damaged"):
        bundle_study(probed_copy, plan.study_id, tmp_path / "small.tar")


def test_a_bundle_holds_no_result_that_its_plan_does_not_ask_for(
    plan: Plan, probed_copy: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = small_plan(families=["mlp"])
    probed_copy.lock_plan(smaller)
    monkeypatch.setattr("studies.bundle.probed_subjects", lambda _: probed_subjects(plan))
    bundle = bundle_study(probed_copy, smaller.study_id, tmp_path / "small.tar")
    monkeypatch.undo()
    foreign = result_ids(plan) - result_ids(smaller)
    assert verify_bundle(bundle) == [f"probes/{one}: is not in the plan" for one in sorted(foreign)]


def test_results_that_no_plan_names_are_orphans(plan: Plan, probed_copy: Store) -> None:
    clean: dict[str, Any] = {"interrupted": False, "failed": False, "orphans": True, "really": True}
    assert list(clean_store(probed_copy, None, **clean)) == []
    told = list(clean_store(probed_copy, plan.study_id, **clean))
    assert sum("probe result" in line for line in told) == 100
    assert probed_copy.result_ids("probes") == []


# --- results that no longer count ------------------------------------------------------------------


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

    monkeypatch.setattr("studies.probes.probing._give_trained", fails)
    asked = [one for one in subjects(plan, QUICK) if one.weights == "trained"][:2]
    assert probe_networks(plan, store, asked).computed == 2
    assert probe_networks(plan, store, asked).computed == 0
    _other_weights(plan, store)
    assert len(probe_frame(plan, store)) == 0


@pytest.mark.parametrize("damage", ["deep", "foreign"])
def test_whatever_a_file_holds_it_is_set_aside(plan: Plan, probed_copy: Store, damage: str) -> None:
    one = next(one for one in subjects(plan, QUICK) if one.arm == "vit")
    path = PROBED.path(probed_copy, one.id)
    frame = probe_frame(plan, probed_copy)
    if damage == "deep":
        path.write_bytes(b"[" * 200_000)
    else:
        content = json.loads(path.read_bytes())["result"]
        for reading in content["readings"]:
            reading["cell_id"] = "feed"
        path.write_text(json.dumps({"result": content, "sha256": digest(content)}))
    with pytest.raises(DamagedError, match="nested without end" if damage == "deep" else "of cell feed"):
        PROBED.read(probed_copy, one.id)
    assert len(probe_frame(plan, probed_copy)) < len(frame)
    assert coverage(plan, probed_copy).done["position_similarity"] == 11
    found = probe_networks(plan, probed_copy, [one])
    assert (found.computed, found.faults) == (1, {})
    assert "is damaged: kept as" in found.messages[0]
    assert probe_frame(plan, probed_copy).equals(frame)


@pytest.mark.parametrize("name", ["result.json", "arrays.npz"])
def test_a_result_that_cannot_be_read_at_the_moment_stays(
    plan: Plan, probed_copy: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = next(one for one in subjects(plan, QUICK) if one.arm == "vit")
    path = PROBED.path(probed_copy, one.id).with_name(name)
    content = path.read_bytes()
    opened, read = Path.open, Path.read_bytes

    def gone(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    def gone_at_once(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    monkeypatch.setattr(Path, "open", gone)
    monkeypatch.setattr(Path, "read_bytes", gone_at_once)
    found = probe_networks(plan, probed_copy, [one])
    assert found.computed == 0
    assert "cannot be read: Input/output error" in found.faults[one.title]
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert not list(path.parent.glob("result.*-*.json"))


def test_similarity_leaves_out_a_size_that_diverged(store: Store, tmp_path: Path) -> None:
    plan = small_plan(families=["mlp"], num_train=[40, 80, 120], replicates=1)
    several = Store(tmp_path / "three")
    train_all(plan, several, KEEPING)
    (one,) = subjects(plan, chosen(["representation_similarity"]))
    assert probe_networks(plan, several, [one]).messages == []
    record = several.record(one.cells[1].id)
    assert record is not None
    final = record.branches[-1].model_copy(update={"diverged": True})
    several.write_record(record.model_copy(update={"branches": (*record.branches[:-1], final)}))
    found = probe_networks(plan, several, [one])
    assert (found.computed, found.inapplicable, found.faults) == (1, {}, {})
    assert "(size 80) diverged" in found.messages[-1]
    frame = probe_frame(plan, several, (one.kind,))
    assert set(zip(frame["num_train"], frame["setting"], strict=True)) == {(40, 120.0), (120, 40.0)}
    assert frame["value"].notna().all()
    ((_, arrays),) = probe_arrays(plan, several, "representation_similarity")
    assert np.isnan(arrays["representation_similarity"]).sum() == 5
    again = probe_networks(plan, several, [one])
    assert again.computed == 0
    assert "(size 80) diverged" in again.messages[0]
    record = several.record(one.cells[0].id)
    assert record is not None
    several.write_record(record.model_copy(update={"branches": (*record.branches[:-1], final)}))
    assert "diverged" in probe_networks(plan, several, [one]).inapplicable[one.title], "one network is like no other"


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
