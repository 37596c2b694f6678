"""Which networks and images of a study are probed, and what makes one result another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from probed_study import QUICK, small_plan

from models.checkpoints import read_weights
from studies.errors import ConfigError, ExitCode
from studies.grid import Plan
from studies.job_data import JobData
from studies.outcome import weights_sha256
from studies.probes import KINDS, PROBE_COLUMNS, probe_arrays, probe_frame
from studies.probes.attention import attention_distance
from studies.probes.catalogue import ProbeKind, chosen
from studies.probes.held_out import HeldOut
from studies.probes.probe_results import coverage
from studies.probes.probing import probe_networks
from studies.probes.study_probing import ProbingResult
from studies.probes.subjects import Subject, once, subjects
from studies.probes.summary import probe_summary
from studies.program import initial_network
from studies.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


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
