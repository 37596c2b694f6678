"""Frozen features evaluated beside fine-tuning: what is asked for, done once, kept, told where it fails, reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planned import planned as planned_by_arithmetic
from planned import record_of
from pydantic import ValidationError

from datamodules import ImageSplit, carve_validation
from models.checkpoints import classifier_checkpoint, read_weights
from studies import few_shot_stage
from studies.analysis.few_shot_curves import FewShotAnswers
from studies.answering import few_shot_answers, report_study
from studies.asking import plan as plan_study
from studies.bundle import bundle_study, verify_bundle
from studies.cell import Cell
from studies.checkpoint import save_checkpoint
from studies.compose import Composed
from studies.course import batches_of
from studies.engine_spec import EngineSpec
from studies.errors import PlanError
from studies.export import export_frame
from studies.few_shot import draw_shots, evaluate_few_shot
from studies.few_shot_networks import FrozenNetwork, frozen_networks
from studies.few_shot_results import EVALUATIONS, FEW_SHOT_COLUMNS, few_shot_frame, waiting_networks
from studies.few_shot_stage import check_shots, evaluate_frozen
from studies.files import sha256_of
from studies.grid import Plan
from studies.housekeeping import clean_store
from studies.job_data import JobData
from studies.kept_results import Results
from studies.kept_weights import give_start
from studies.program import initial_network
from studies.report.few_shot_section import few_shot_statements, few_shot_table, has_figure
from studies.rounds import plan_tuning
from studies.spec import StudySpec
from studies.start_checks import note_files, repair_kept
from studies.store import Store
from studies.tracking import TrackingSpec
from studies.tracking.summary import few_shot_values
from studies.train import train_cell

DIAL = {"kind": "dial", "num_train": 400, "num_test": 200}
KEEPING = EngineSpec(workers=1, device="cpu", keep_checkpoints=True)
ASKED = {"shots": [10, 2], "draws": 3}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spec(**changes: Any) -> StudySpec:
    """One family, two sizes of pretraining on three other classes, two replicates."""
    content: dict[str, Any] = {
        "name": "tiny",
        "question": "does it help?",
        "data": DIAL,
        "families": ["mlp+labels", "mlp"],
        "num_train": [40],
        "num_validation": 60,
        "replicates": 2,
        "x": "num_pretrain",
        "few_shot": ASKED,
        "pretraining": {
            "labels": {
                "data": DIAL | {"seed": 1, "num_classes": 3},
                "num_train": [60, 240],
                "budget": {"steps": 40, "batch_size": 16},
            }
        },
        "budget": {"steps": 40, "batch_size": 16, "branches": [1.0]},
    }
    return StudySpec.model_validate(content | changes)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_study(spec())


@pytest.fixture(scope="module")
def pretrained(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose first stage is trained."""
    store = Store(tmp_path_factory.mktemp("pretrained"))
    (stage,) = plan.pretraining
    for cell in stage.cells:
        train_cell(cell, stage.spec.data, store, stage.study_id, stage.hash, KEEPING)
    return store


@pytest.fixture(scope="module")
def evaluated(plan: Plan, pretrained: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with every result, and made-up records of what was fine-tuned."""
    store = Store(tmp_path_factory.mktemp("evaluated") / "store")
    shutil.copytree(pretrained.root, store.root)
    assert evaluate_frozen(plan, store) == {}
    for stage in plan.stages:
        store.lock_plan(stage)
    for index, cell in enumerate(plan.cells):
        store.write_record(record_of(plan, cell, errors=(0.2 + index / 100,)))
    return store


@pytest.fixture
def store(pretrained: Store, tmp_path: Path) -> Store:
    """A copy that a test may change."""
    shutil.copytree(pretrained.root, tmp_path / "store")
    return Store(tmp_path / "store")


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


# --- what is asked for ----------------------------------------------------------------------------


def test_it_is_declared_and_moves_no_identity_where_it_is_not(plan: Plan) -> None:
    without = plan_study(spec(few_shot=None))
    assert planned_by_arithmetic().study_id == planned_by_arithmetic(few_shot=None).study_id == "small.cdaad05d"
    assert plan.hash != without.hash
    assert plan.hash != plan_study(spec(few_shot=ASKED | {"draws": 4})).hash
    assert [cell.id for cell in plan.cells] == [cell.id for cell in without.cells]
    assert [stage.hash for stage in plan.pretraining] == [stage.hash for stage in without.pretraining]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).hash == plan.hash
    assert frozen_networks(without) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ["mlp"], "x": "num_train"}, r"few_shot: needs arms with a start.*families: \['mlp'\]"),
        ({"few_shot": {"shots": [5, 5]}}, r"names a number of images twice: \[5, 5\]"),
        ({"few_shot": {"shots": []}}, "at least 1 item"),
        ({"few_shot": {"shots": [0]}}, "greater than 0"),
        ({"few_shot": {"shots": [5], "draws": 0}}, "greater than or equal to 1"),
        ({"few_shot": {"shots": [5], "draw": 2}}, "Extra inputs are not permitted"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


def test_more_images_than_a_class_can_have_are_refused_while_planning() -> None:
    with pytest.raises(
        PlanError, match=r"few_shot\.shots: 171 images per class.*340 training images of 2 classes.*at most 170"
    ):
        plan_study(spec(few_shot={"shots": 171}))
    assert plan_study(spec(few_shot={"shots": 170})).spec.few_shot is not None


def test_more_images_than_the_rarest_class_has_are_refused_before_training(plan: Plan) -> None:
    labels = np.repeat([0, 1], [300, 100])
    data = SimpleNamespace(fresh_per_replicate=False, load=lambda split: SimpleNamespace(labels=labels))
    info = SimpleNamespace(name="photos", num_classes=2, class_names=("cat", "dog"))
    pool, _ = carve_validation(labels, 60, seed=0)
    dogs = int((labels[pool] == 1).sum())

    def asking(shots: int) -> Any:
        asked = SimpleNamespace(data=data, num_validation=60, few_shot=SimpleNamespace(shots=(2, shots)))
        return SimpleNamespace(spec=asked, data=info, cells=plan.cells)

    check_shots(asking(dogs))
    with pytest.raises(
        PlanError, match=f"{dogs + 1} images per class.*photos has {dogs} training images of class 'dog'"
    ):
        check_shots(asking(dogs + 1))


def test_every_start_and_every_untrained_network_is_evaluated_once(plan: Plan) -> None:
    networks = frozen_networks(plan)
    of_replicate = [("mlp", 0), ("mlp+labels", 60), ("mlp+labels", 240)]
    assert [(one.arm, one.num_pretrain, one.cell.replicate) for one in networks] == [
        (arm, size, replicate) for replicate in (0, 1) for arm, size in of_replicate
    ]
    assert len({one.id for one in networks}) == 6
    assert {one.cell.replicate: one.first_seed for one in networks} == {0: 0, 1: 1000}


def test_how_many_images_are_fine_tuned_on_is_no_part_of_an_evaluation() -> None:
    start = spec().pretraining["labels"].model_copy(update={"num_train": (60,)})
    several = spec(x="num_train", num_train=[40, 80], pretraining={"labels": start})
    networks = frozen_networks(plan_study(several))
    assert len(networks) == 4
    assert {one.id for one in networks} < {one.id for one in frozen_networks(plan_study(spec()))}


def test_a_tuning_which_never_reads_the_test_split_has_none() -> None:
    with_it, without = (
        plan_tuning(Composed(one, KEEPING, TrackingSpec(kind="off"))) for one in (spec(), spec(few_shot=None))
    )
    assert with_it.hash == without.hash
    assert frozen_networks(with_it) == ()


# --- what is computed -----------------------------------------------------------------------------


def by_hand(network: FrozenNetwork, plan: Plan, store: Store) -> dict[int, tuple[float, ...]]:
    """Accuracies by the function that evaluates one network, with rows told apart here."""
    cell, data = network.cell, plan.spec.data
    shared = JobData(data)
    module = initial_network(cell)
    if network.start is not None:
        give_start(module, cell, store)
    found = evaluate_few_shot(
        module,
        batches_of(cell, shared, "cpu", pooled=False),
        pool=shared.pool(cell),
        validation=shared.rows(cell)[1],
        test=data.load("test", seed=cell.seeds.subset),
        num_classes=2,
        shots=(2, 10),
        draws=3,
        seed=1000 * cell.seeds.subset,
    )
    return {one.shots: one.accuracies for one in found}


def test_results_are_those_of_the_evaluation_of_each_network(plan: Plan, evaluated: Store) -> None:
    for network in frozen_networks(plan):
        result = EVALUATIONS.read(evaluated, network.id)
        assert result is not None
        expected = by_hand(network, plan, evaluated)
        assert [(one.shots, one.draw, one.seed) for one in result.draws] == [
            (shots, draw, network.first_seed + draw) for shots in (2, 10) for draw in range(3)
        ]
        found = {shots: [1 - one.test_error for one in result.draws if one.shots == shots] for shots in (2, 10)}
        assert all(found[shots] == pytest.approx(expected[shots]) for shots in (2, 10))
        record = evaluated.record(network.start.origin) if network.start is not None else None
        assert result.weights_sha256 == (record.kept_sha256 if record is not None else "")
        forwards = 200 + 60  # test and validation; besides them what is drawn, each image once
        drawn = result.evaluation_flops // network.cell.forward_flops - forwards
        assert 2 * 10 <= drawn <= 3 * 2 * 10


def test_drawn_images_are_never_validation_images(plan: Plan) -> None:
    cell, data = plan.cells[0], JobData(plan.spec.data)
    pool, (_, validation) = data.pool(cell), data.rows(cell)
    assert not set(pool) & set(validation)
    assert len(pool) + len(validation) == 400
    labels = data.train_split(cell.seeds.subset).labels
    drawn = pool[draw_shots(labels[pool], 10, num_classes=2, seed=0)]
    assert not set(drawn.ravel()) & set(validation)


def test_the_test_split_is_read_once_for_a_network(
    plan: Plan, store: Store, evaluated: Store, tests_read: list[int]
) -> None:
    told: list[str] = []
    assert evaluate_frozen(plan, store, on_message=told.append) == {}
    assert tests_read == [0, 0, 0, 1, 1, 1]
    assert told == [
        "few-shot: ridge regression on the frozen features of 6 networks, 2, 10 images per class, 3 draws each"
    ]
    before = few_shot_frame(plan, store)
    assert evaluate_frozen(plan, store, on_message=told.append) == {}
    assert (len(tests_read), len(told)) == (6, 1)
    pd.testing.assert_frame_equal(before, few_shot_frame(plan, store))
    pd.testing.assert_frame_equal(before, few_shot_frame(plan, evaluated))


def test_what_was_there_before_a_kill_is_kept(
    plan: Plan, store: Store, tests_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Results[Any], result: Any, into: Store, arrays: Any = None) -> None:
        if len(tests_read) == 3:
            raise KeyboardInterrupt
        written(self, result, into, arrays)

    written = Results.write
    monkeypatch.setattr(Results, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_frozen(plan, store)
    done = {one.id for one in frozen_networks(plan)} - {one.id for one in waiting_networks(plan, store)}
    times = {one: EVALUATIONS.path(store, one).stat().st_mtime_ns for one in done}
    assert len(done) == 2
    monkeypatch.setattr(Results, "write", written)
    assert evaluate_frozen(plan, store) == {}
    assert len(tests_read) == 3 + 4
    assert times == {one: EVALUATIONS.path(store, one).stat().st_mtime_ns for one in done}


def test_a_fault_of_one_network_costs_no_other(
    plan: Plan, store: Store, tests_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [one for one in frozen_networks(plan) if one.start is not None]
    gone, wild, broken = begun[:3]
    assert gone.start is not None
    store.weights_path(gone.start.origin, 1.0).unlink()
    give = few_shot_stage.give_start

    def bad(network: torch.nn.Module, cell: Cell, found: Store) -> str:
        if cell == broken.cell:
            raise RuntimeError("out of memory")
        sha256 = give(network, cell, found)
        if cell == wild.cell:
            for parameter in network.parameters():
                parameter.data.fill_(torch.nan)
        return sha256

    monkeypatch.setattr(few_shot_stage, "give_start", bad)
    faults = evaluate_frozen(plan, store)
    assert set(faults) == {gone.title, wild.title, broken.title}
    assert "cannot be read: No such file" in faults[gone.title]
    assert "not finite: the network has diverged" in faults[wild.title]
    assert faults[broken.title] == "RuntimeError: out of memory"
    assert [one.id for one in waiting_networks(plan, store)] == [gone.id, wild.id, broken.id]
    answers = few_shot_answers(plan, store)
    assert answers is not None
    assert answers.missing == (gone.title, wild.title, broken.title)
    assert set(answers.curves["num_replicates"]) == {1, 2}


def test_weights_that_are_gone_are_made_again_where_a_result_still_needs_them(plan: Plan, store: Store) -> None:
    start = next(one.start for one in frozen_networks(plan) if one.start is not None)
    for cell in plan.cells:  # all that is fine-tuned has its result
        store.write_record(record_of(plan, cell, errors=(0.2,)))
    store.weights_path(start.origin, 1.0).unlink()
    told: list[str] = []
    repair_kept(plan, store, told.append)
    assert store.record(start.origin) is None
    assert len(told) == 1
    assert "the cell is trained again" in told[0]
    other = plan_study(spec(few_shot=None))
    repair_kept(other, store, told.append)
    assert len(told) == 1


def test_a_damaged_result_is_set_aside_and_one_that_another_launcher_computes_is_waited_for(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = frozen_networks(plan)[:2]
    path = EVALUATIONS.path(store, first.id)
    path.parent.mkdir(parents=True)
    path.write_text('{"result": {}, "sha256": "0"}')
    told: list[str] = []
    monkeypatch.setattr(few_shot_stage, "BUSY_SECONDS", 0.0)
    with ExitStack() as other:
        other.enter_context(store.result_lock("few_shot", second.id))

        def on_message(message: str) -> None:
            told.append(message)
            if message == "few-shot: 1 network another launcher is at, which is waited for":
                assert EVALUATIONS.read(store, second.id) is None
                other.close()

        assert evaluate_frozen(plan, store, on_message=on_message) == {}
    assert "is damaged: kept as" in told[1]
    assert len(told) == 3
    assert all(EVALUATIONS.read(store, network.id) is not None for network in frozen_networks(plan))
    assert len(list(path.parent.glob("result.damaged-*.json"))) == 1


def test_a_file_of_weights_is_worth_what_the_cell_is_that_left_it(plan: Plan, store: Store) -> None:
    of_cell = next(one for one in frozen_networks(plan) if one.start is not None)
    assert of_cell.start is not None
    path = store.weights_path(of_cell.start.origin, 1.0)
    other = spec(families=["mlp+disk"], x="num_train", replicates=1, pretraining={"disk": {"checkpoint": str(path)}})
    begun = plan_study(other)
    note_files(begun, store)
    assert evaluate_frozen(begun, store) == evaluate_frozen(plan, store) == {}
    untrained, of_file = frozen_networks(begun)
    assert untrained.id == frozen_networks(plan)[0].id
    assert of_file.num_pretrain is None
    results = [EVALUATIONS.read(store, one.id) for one in (of_cell, of_file)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].draws == results[1].draws
    answers = few_shot_answers(begun, store)
    assert answers is not None
    assert [row[1] for row in few_shot_table(answers).rows] == ["untrained", "not known"]
    assert not has_figure(answers)
    assert "labelled images per class" in few_shot_statements(answers)[0]
    of_files = "What begins from a file (disk) is one network for all replicates"
    assert of_files in few_shot_table(answers).note
    assert of_files in answers.as_dict()["interval"]


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (("subset", "order"), "The interval covers other seeds of training and other images to learn from; where"),
        (
            ("order", "initialization"),
            "other seeds of training (order, initialization), not other images to learn from",
        ),
        (("subset",), "The interval covers other images to learn from, not other seeds of training; where"),
        ((), "The interval covers neither other seeds of training nor other images to learn from; where"),
    ],
)
def test_the_note_says_what_the_interval_covers(vary: tuple[str, ...], said: str) -> None:
    columns = ["start", "start_origin"]
    frame = pd.DataFrame([["labels", "0" * 16], [None, None]], columns=columns)
    of_stage = FewShotAnswers(frame, (), (5,), 2, vary).covered
    assert said in of_stage
    assert "file" not in of_stage


# --- what comes out -------------------------------------------------------------------------------


def test_the_table_has_a_row_per_network_shots_and_draw(plan: Plan, evaluated: Store, tmp_path: Path) -> None:
    frame = few_shot_frame(plan, evaluated)
    assert list(frame.columns) == list(FEW_SHOT_COLUMNS)
    assert len(frame) == 6 * 2 * 3
    assert not frame.isna().any().any()
    assert set(frame.loc[frame["num_pretrain"] == 0, "start"]) == {""}
    parquet, csv = export_frame(frame, tmp_path, name="tiny.few_shot")
    assert (parquet.name, csv.name) == ("tiny.few_shot.parquet", "tiny.few_shot.csv")
    again = pd.read_csv(csv, keep_default_na=False)
    assert (again["test_error"] == frame["test_error"]).all()
    assert pd.read_parquet(parquet)["evaluation_id"].tolist() == frame["evaluation_id"].tolist()


def test_the_report_has_table_figure_statements_and_values(plan: Plan, evaluated: Store) -> None:
    paths = report_study(plan, evaluated)
    table = (paths.page.parent / "tables" / "few_shot.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[0] == "| Network | Pretrained on | k = 2 | k = 10 | Replicates |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| Fully connected", "untrained"],
        ["| Fully connected (from labels)", "60"],
        ["| Fully connected (from labels)", "240"],
    ]
    assert "3 draws of k labelled images per class" in table
    assert (paths.page.parent / "figures" / "few_shot.svg") in paths.figures
    (statement,) = [text for text in paths.statements if "few-shot" in text]
    assert "from labels), pretrained on 240 images, makes" in statement
    assert "one of the untrained network" in statement
    answers = json.loads(paths.answers.read_text())["few_shot"]
    frame = few_shot_frame(plan, evaluated)
    for row in answers["curves"]:
        own = frame[(frame["num_pretrain"] == row["num_pretrain"]) & (frame["shots"] == row["shots"])]
        first, second = own.groupby("replicate")["test_error"].mean()
        assert row["mean"] == pytest.approx((first + second) / 2)
        assert row["half_width"] == pytest.approx(12.7062 * abs(first - second) / 2, rel=1e-4)
    assert set(few_shot_values(answers)) == {
        f"few_shot/{arm}/{size}/{shots}"
        for arm, size in (("mlp", "untrained"), ("mlp+labels", "60"), ("mlp+labels", "240"))
        for shots in (2, 10)
    }
    assert few_shot_values(None) == {}


def test_a_study_without_the_section_has_nothing_to_say_of_it(tmp_path: Path) -> None:
    plan, store = plan_study(spec(few_shot=None)), Store(tmp_path)
    assert few_shot_answers(plan, store) is None
    assert evaluate_frozen(plan, store) == {}
    assert few_shot_frame(plan, store).empty


def test_a_bundle_carries_the_results_and_finds_altered_ones(plan: Plan, evaluated: Store, tmp_path: Path) -> None:
    bundle = bundle_study(evaluated, plan.study_id, tmp_path / "tiny.tar")
    assert verify_bundle(bundle) == []
    path = EVALUATIONS.path(evaluated, frozen_networks(plan)[0].id)
    content = path.read_bytes()
    assert content in bundle.read_bytes()
    altered = content.replace(b'"draw": 2', b'"draw": 7', 1)
    assert altered != content
    bundle.write_bytes(bundle.read_bytes().replace(content, altered))
    assert any("was altered" in problem for problem in verify_bundle(bundle))


def test_results_of_weights_that_have_changed_are_absent_not_bundled_and_computed_again(
    plan: Plan, evaluated: Store, tmp_path: Path
) -> None:
    shutil.copytree(evaluated.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    network = next(one for one in frozen_networks(plan) if one.start is not None)
    assert network.start is not None
    record, frame = store.record(network.start.origin), few_shot_frame(plan, store)
    assert record is not None
    path = store.weights_path(record.cell_id, 1.0)
    state = {name: value + 0.1 for name, value in read_weights(path).state.items()}
    arguments = Cell.model_validate(record.cell).network_arguments
    path.unlink()
    save_checkpoint(classifier_checkpoint(state, **arguments), path)
    store.write_record(record.model_copy(update={"kept_sha256": sha256_of(path)}))
    assert waiting_networks(plan, store) == [network]
    assert set(frame["evaluation_id"]) - set(few_shot_frame(plan, store)["evaluation_id"]) == {network.id}
    bundle = bundle_study(store, plan.study_id, tmp_path / "tiny.tar")
    assert verify_bundle(bundle) == []
    assert network.id.encode() not in bundle.read_bytes()
    told: list[str] = []
    assert evaluate_frozen(plan, store, on_message=told.append) == {}
    assert any("is of other weights than the record of cell" in message for message in told)
    assert waiting_networks(plan, store) == []


def test_results_that_no_plan_names_are_orphans(plan: Plan, evaluated: Store, tmp_path: Path) -> None:
    shutil.copytree(evaluated.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    clean: dict[str, Any] = {"interrupted": False, "failed": False, "orphans": True, "really": True}
    assert list(clean_store(store, None, **clean)) == []
    assert len(store.result_ids("few_shot")) == 6
    told = list(clean_store(store, plan.study_id, **clean))
    assert sum("few-shot evaluation" in line for line in told) == 6
    assert store.result_ids("few_shot") == []
