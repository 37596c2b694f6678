"""Pretrain, kill, resume, fine-tune, report: two linked stages run for real on a tiny dial."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import build_network
from models.checkpoints import read_weights
from studies import asking, running
from studies.cell import Cell
from studies.compose import Composed
from studies.engine_spec import EngineSpec
from studies.errors import StudyError
from studies.grid import Plan
from studies.kept_weights import give_start, why_not_kept
from studies.outcome import weights_sha256
from studies.program import Chunk, initial_network
from studies.records import DETERMINISTIC_COLUMNS, Record, records_frame
from studies.spec import StudySpec
from studies.store import Store
from studies.tracking import TrackingSpec
from studies.train import Lockstep, train_cell

DIAL = {"kind": "dial", "num_train": 400, "num_test": 200}
ENGINE = EngineSpec(workers=1, device="cpu", checkpoint_seconds=0, chunk_steps=10)
KEEPING = ENGINE.model_copy(update={"keep_checkpoints": True})


class _Killed(BaseException):
    """As a signal would, it passes every handler of exceptions."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def study(**changes: Any) -> Composed:
    """One family, two sizes of pretraining, from scratch too."""
    content: dict[str, Any] = {
        "name": "tiny",
        "question": "does it help?",
        "data": DIAL,
        "families": ["mlp+labels", "mlp"],
        "num_train": [40],
        "num_validation": 60,
        "replicates": 2,
        "x": "num_pretrain",
        "pretraining": {
            "labels": {
                "data": DIAL | {"seed": 1, "num_classes": 3},
                "num_train": [60, 240],
                "budget": {"steps": 40, "batch_size": 16},
            }
        },
        "budget": {"steps": 40, "batch_size": 16, "branches": [1.0]},
    }
    return Composed(StudySpec.model_validate(content | changes), ENGINE, TrackingSpec(kind="off"))


def train(cell: Cell, plan: Plan, store: Store, settings: EngineSpec = ENGINE) -> Record:
    return train_cell(cell, plan.spec.data, store, plan.study_id, plan.hash, settings)


def deterministic(records: list[Record]) -> list[dict[str, Any]]:
    return records_frame(records)[list(DETERMINISTIC_COLUMNS)].to_dict("records")


# --- one cell -------------------------------------------------------------------------------------


def begun(plan: Plan) -> tuple[Cell, Cell]:
    """A cell with a start, and the earlier one that it begins from."""
    cell = next(cell for cell in plan.cells if cell.start is not None)
    assert cell.start is not None
    origin = cell.start.origin
    return cell, next(one for one in plan.pretraining[0].cells if one.id == origin)


def test_a_cell_begins_from_the_weights_of_its_start_and_from_a_head_of_zeros(tmp_path: Path) -> None:
    plan, store = asking.plan(study().spec), Store(tmp_path)
    cell, origin = begun(plan)
    record = train(origin, plan.pretraining[0], store, KEEPING)
    kept = read_weights(store.weights_path(origin.id, 1.0)).state
    assert weights_sha256(kept) == record.branches[-1].weights_sha256
    network = initial_network(cell)
    assert give_start(network, cell, store) == record.kept_sha256
    state = network.state_dict()
    assert state["head.weight"].shape[0] == 2
    assert not state["head.weight"].any()
    body = [name for name in state if not name.startswith("head.")]
    assert body
    assert all(torch.equal(state[name], kept[name]) for name in body)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_fine_tuning_at_twice_the_size_begins_from_the_resized_weights(family: str, tmp_path: Path) -> None:
    composed = study(families=[f"{family}+labels"], data=DIAL | {"image_size": 32, "patch_size": 8}, replicates=1)
    plan, store = asking.plan(composed.spec), Store(tmp_path)
    cell, origin = begun(plan)
    train(origin, plan.pretraining[0], store, KEEPING)
    record = train(cell, plan, store)
    assert record.status == "finished"
    frame = records_frame([record])
    assert frame[["image_size", "designed_for", "num_pretrain", "start"]].iloc[0].tolist() == [32, 16, 60, "labels"]
    network = build_network(family, "nano", image_size=32, designed_for=16, in_channels=1, num_classes=2)
    assert record.num_parameters == sum(one.numel() for one in network.parameters())


def killing_after(count: int) -> Callable[[Lockstep, int, Chunk], None]:
    """A chunk that is the last one its process lives to take."""
    after, seen = Lockstep._after_chunk, list[int]()

    def kill(self: Lockstep, stop: int, chunk: Chunk) -> None:
        after(self, stop, chunk)
        seen.append(stop)
        if len(seen) == count:
            raise _Killed

    return kill


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_killed_fine_tuning_resumes_bit_for_bit_without_beginning_anew(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = asking.plan(study().spec)
    cell, origin = begun(plan)
    records = []
    for name in ("whole", "killed"):
        store = Store(tmp_path / name)
        train(origin, plan.pretraining[0], store, KEEPING)
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Lockstep, "_after_chunk", killing_after(killed_at))
                with pytest.raises(_Killed):
                    train(cell, plan, store)
            assert store.state(cell.id) == "interrupted"
        records.append(train(cell, plan, store))
    assert [record.resumes for record in records] == [0, 1]
    assert deterministic(records[:1]) == deterministic(records[1:])


def test_cells_that_begin_from_different_weights_train_as_lanes_of_one_program(tmp_path: Path) -> None:
    from studies.train import train_cells

    composed = study(families=["vit+labels", "vit"])
    plan, store = asking.plan(composed.spec), Store(tmp_path)
    for cell in plan.pretraining[0].cells:
        train(cell, plan.pretraining[0], store, KEEPING)
    arguments = (plan.spec.data, store, plan.study_id, plan.hash, ENGINE)
    together = dict(train_cells(plan.cells, *arguments, in_lanes=True))
    alone = dict(train_cells(plan.cells, *arguments, in_lanes=False))
    for cell in plan.cells:
        ours, theirs = together[cell.id], alone[cell.id]
        assert isinstance(ours, Record)
        assert isinstance(theirs, Record)
        assert ours.start_sha256 == theirs.start_sha256
        assert ours.train_losses[0].loss == pytest.approx(theirs.train_losses[0].loss, rel=1e-4)


def test_weights_that_were_altered_are_not_begun_from(tmp_path: Path) -> None:
    plan, store = asking.plan(study().spec), Store(tmp_path)
    cell, origin = begun(plan)
    train(origin, plan.pretraining[0], store)
    assert "without keeping its weights" in str(why_not_kept(origin.id, store))
    with pytest.raises(StudyError, match="run the study again"):
        train(cell, plan, store)
    assert store.set_aside_record(origin.id, ("finished",), "without-weights") is not None
    train(origin, plan.pretraining[0], store, KEEPING)
    assert why_not_kept(origin.id, store) is None
    path = store.weights_path(origin.id, 1.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged or was altered" in str(why_not_kept(origin.id, store))
    with pytest.raises(StudyError, match="damaged or was altered"):
        train(cell, plan, store)


# --- the whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, running.RunResult, list[str]]:
    store, begun_stages = Store(tmp_path_factory.mktemp("finished")), list[str]()
    result = running.run(study(), store, on_start=lambda plan: begun_stages.append(plan.spec.name))
    return store, result, begun_stages


def test_a_study_runs_its_stages_in_order_and_reports_over_pretraining_images(
    finished: tuple[Store, running.RunResult, list[str]],
) -> None:
    store, result, stages = finished
    assert stages == ["tiny-pretraining", "tiny"]
    assert result.exit_code == 0
    assert set(result.states.values()) == {"finished"}
    assert len(store.records(store.plan("tiny-pretraining"))) == 4
    frame = records_frame(store.records(result.plan))
    assert sorted(set(frame["num_pretrain"])) == [0, 60, 240]
    assert (frame.loc[frame["start"] != "", "pretrain_flops"] > 0).all()
    assert (frame.loc[frame["start"] != "", "start_sha256"].str.len() == 64).all()
    folder = store.study_folder(result.plan.study_id) / "report"
    assert "pretrained on 240" in (folder / "tables" / "test_error_selected.md").read_text()
    assert "from scratch" in (folder / "tables" / "test_error_selected.md").read_text()
    assert (folder / "tables" / "starts.md").exists()
    assert (folder / "tables" / "gain.md").exists()
    assert any("times the errors of the same network from scratch" in text for text in result.report.statements)
    answers = json.loads(result.report.answers.read_text())
    (gain,) = answers["against_scratch"]
    assert [row["x"] for row in gain["tests"]] == pytest.approx([60, 240])
    assert "pretraining images" in result.report.page.read_text()


def test_a_finished_study_begins_nothing_again(finished: tuple[Store, running.RunResult, list[str]]) -> None:
    store, result, _ = finished
    before = deterministic(store.records(result.plan))
    again: list[str] = []
    running.run(study(), store, on_start=lambda plan: again.append(plan.spec.name))
    assert again == ["tiny"], "a stage with nothing to do is not announced"
    assert deterministic(store.records(result.plan)) == before


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_weights_that_are_gone_are_made_again_before_anything_begins_from_them(
    harm: str, finished: tuple[Store, running.RunResult, list[str]]
) -> None:
    store, result, _ = finished
    cell, origin = begun(result.plan)
    before = store.record(cell.id)
    path = store.weights_path(origin.id, 1.0)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert store.discard_cell(cell.id)
    told: list[str] = []
    again = running.run(study(), store, on_message=told.append)
    assert again.exit_code == 0
    assert len(told) == 1
    assert "is trained again" in told[0]
    after = store.record(cell.id)
    assert before is not None
    assert after is not None
    assert deterministic([before]) == deterministic([after])


def test_what_begins_from_a_stage_that_failed_is_left_to_do_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studies.train import failed_record

    composed, store = study(replicates=1), Store(tmp_path)
    plan = asking.plan(composed.spec)
    cell, origin = begun(plan)
    stage = plan.pretraining[0]
    store.write_record(failed_record(origin, stage.study_id, stage.hash, "a fault of its own"))
    result = running.run(composed, store)
    assert result.exit_code == 3
    assert result.states[cell.id] == "waiting"
    assert f"cell {origin.id} is failed" in result.outcome.incomplete[cell.id]
    others = {state for cell_id, state in result.states.items() if cell_id != cell.id}
    assert others == {"finished"}
