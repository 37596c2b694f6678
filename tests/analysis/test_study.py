"""All answers of a study: under both rules, at equal compute and at equal seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from report.synthetic import BRANCHES, make_record, plan_of, power_error, predictions_of, study_records, write_study

from studies import load_answers
from studies.analysis.of_records import records_table
from studies.analysis.study import CostView, analyse_study, cost_view, read_blocks
from studies.records import Record, records_frame

PAIR = ("resnet", "vit")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return study_records(replicates=4)


def _by_budget(family: str, errors: tuple[float, ...], replicates: int = 4) -> list[Record]:
    return [
        make_record(family, num_train=512, replicate=r, branch_errors=[e * (1 + 0.01 * r) for e in errors])
        for r in range(replicates)
    ]


def test_both_rules_are_answered(records: list[Record]) -> None:
    answers = analyse_study(records_frame(records), pair=PAIR, chance=0.5)
    assert set(answers.by_rule) == {"selected", "full_budget"}
    assert answers.primary is answers.by_rule["selected"]
    assert all(of.pair == PAIR for of in answers.by_rule.values())
    assert [view.num_train for view in answers.compute] == [8192, 512]
    json.dumps(answers.as_dict(), allow_nan=False)


def test_with_a_single_branch_both_rules_are_one() -> None:
    only = [
        record.model_copy(update={"branches": (record.branches[-1].model_copy(update={"selected": True}),)})
        for record in study_records(replicates=2)
    ]
    answers = analyse_study(records_frame(only), pair=PAIR, chance=0.5)
    assert set(answers.by_rule) == {"selected"}
    assert answers.compute == ()


def test_a_pair_that_was_not_measured_is_not_used(records: list[Record]) -> None:
    answers = analyse_study(records_frame(records), pair=("lstm", "vit"), chance=0.5)
    assert answers.primary is not None
    assert answers.primary.pair is None
    assert all(view.crossover is None for view in answers.compute)


def test_nothing_finished_has_no_answers() -> None:
    answers = analyse_study(records_frame([]), pair=PAIR, chance=0.5)
    assert answers.by_rule == {}
    assert answers.primary is None
    assert answers.compute == answers.seconds == ()


def _view(records: Iterable[Record], column: str, pair: tuple[str, str] | None = None) -> CostView | None:
    """At 512 training images."""
    return cost_view(records_table(records_frame(records), x=column, num_train=512), 512, pair=pair)


def test_curves_that_cross_in_compute_cross_where_they_should() -> None:
    """ResNet .2 at every budget, ViT .4, .3, .15, .1 at C/8, C/4, C/2, C: .2 lies between C/4 and C/2, at log .5849."""
    records = _by_budget("resnet", (0.2,) * 4) + _by_budget("vit", (0.4, 0.3, 0.15, 0.1))
    view = _view(records, "train_flops", pair=PAIR)
    assert view is not None
    assert view.crossover is not None
    assert view.crossover.decision == "crosses"
    (root,) = view.crossover.roots
    flops = [branch.train_flops for branch in make_record("vit").branches]
    expected = math.exp(np.interp(-math.log(0.2), -np.log([0.3, 0.15]), np.log(flops[1:3])))
    assert root.x == pytest.approx(expected, rel=0.05)  # interpolation is monotone cubic, not linear
    assert [choice.family for choice in view.choices] == ["resnet", "resnet", "vit", "vit"]


def test_matched_budgets_are_chosen_at_with_all_families() -> None:
    """Forward FLOPs differ by 1%: no family may drop out of the comparison at the smallest and the largest budget."""
    records = _by_budget("resnet", (0.3, 0.25, 0.2, 0.19)) + _by_budget("vit", (0.4, 0.3, 0.15, 0.1))
    view = _view(records, "train_flops")
    assert view is not None
    assert [choice.runner_up for choice in view.choices] == ["vit", "vit", "resnet", "resnet"]


def test_seconds_are_compared_where_all_families_have_them() -> None:
    slow = [r.model_copy(update={"train_seconds": 60.0}) for r in _by_budget("resnet", (0.3, 0.25, 0.2, 0.19))]
    records = slow + _by_budget("vit", (0.4, 0.3, 0.15, 0.1))
    view = _view(records, "train_seconds")
    assert view is not None
    low, high = view.table.curves["resnet"].x[0], view.table.curves["vit"].x[-1]
    assert [choice.x for choice in view.choices] == pytest.approx([low, math.sqrt(low * high), high])
    assert all(choice.runner_up is not None for choice in view.choices)


def test_seconds_that_do_not_overlap_are_not_compared() -> None:
    slow = [r.model_copy(update={"train_seconds": 6000.0}) for r in _by_budget("resnet", (0.3, 0.25, 0.2, 0.19))]
    view = _view(slow + _by_budget("vit", (0.4, 0.3, 0.15, 0.1)), "train_seconds")
    assert view is not None
    assert view.choices == ()


def test_one_branch_is_no_view() -> None:
    record = make_record()
    single = record.model_copy(update={"branches": record.branches[-1:]})
    assert _view([single], "train_flops") is None


def test_blocks_are_read_where_test_images_are_shared(tmp_path: Path) -> None:
    curves = {"vit": power_error(3, 0.4)}
    shared = study_records(curves, sizes=(128,), replicates=2, shared_test=True, num_test=200)
    paths = {record.cell_id: tmp_path / f"{record.cell_id}.npz" for record in shared}
    for seed, record in enumerate(shared):
        np.savez(paths[record.cell_id], **predictions_of(record, seed=seed))
    blocks = read_blocks(records_frame(shared), paths)
    assert set(blocks) == {(record.cell_id, branch) for record in shared for branch in BRANCHES}
    paths[shared[0].cell_id].write_bytes(b"cut short")
    assert {cell for cell, _ in read_blocks(records_frame(shared), paths)} == {shared[1].cell_id}
    own = study_records(curves, sizes=(128,), replicates=2, num_test=200)
    copies = {record.cell_id: paths[shared[1].cell_id] for record in own}
    assert read_blocks(records_frame(own), copies) == {}  # test images of their own
    assert read_blocks(records_frame(shared[1:]), paths) == {}  # one replicate


def test_answers_are_loaded_from_a_store(tmp_path: Path) -> None:
    write_study(tmp_path, plan_of(replicates=3))
    answers = load_answers("data_scaling", tmp_path)
    assert answers.pair == PAIR
    assert set(answers.fits) == set(PAIR)
    by_compute = load_answers("data_scaling", tmp_path, x="train_flops", num_train=512)
    assert by_compute.table.columns.x == "train_flops"
    same = load_answers("data_scaling", tmp_path, control="data_scaling").interactions[0]
    assert same.tests["difference"].to_numpy(float) == pytest.approx(0)  # its own control: nothing is left
