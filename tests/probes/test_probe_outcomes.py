"""What probes of a study come to: summaries, values of runs, exports, bundles, and what nobody asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from probed_study import QUICK, small_plan

from studies.bundle import bundle_study, verify_bundle
from studies.export import export_frame
from studies.grid import Plan
from studies.housekeeping import clean_store
from studies.probes import probe_frame
from studies.probes.probe_results import PROBED, probed_subjects, result_ids
from studies.probes.study_probing import ProbingResult
from studies.probes.subjects import subjects
from studies.probes.summary import probe_summary, run_values
from studies.report.card import StudyCard
from studies.store import Store
from studies.tracking.runs import cell_run

pytestmark = pytest.mark.usefixtures("one_thread")


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
