"""Results of few-shot evaluations as files: whole or refused, counted, and a table over those that are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from planned import make_arms, make_spec, record_of

from studies.arms import parse_arm
from studies.errors import StoreError
from studies.few_shot_networks import FrozenNetwork, frozen_networks
from studies.few_shot_results import (
    EVALUATIONS,
    FEW_SHOT_COLUMNS,
    Draw,
    FewShotResult,
    count_results,
    current,
    few_shot_frame,
    waiting_networks,
    why_outdated,
)
from studies.grid import Plan
from studies.planning import make_plan
from studies.starts import FileStart
from studies.store import Store
from studies.terminal import status_tables


def plan_with(**changes: object) -> Plan:
    """Two replicates of a network from a file: with the untrained network beside it, four evaluations."""
    spec = make_spec(
        families=("vit+disk", "vit"),
        primary_pair=None,
        num_train=(64,),
        pretraining={"disk": {"checkpoint": "weights.pt", "num_train": 640}},
        **({"few_shot": {"shots": [5, 1], "draws": 2}} | changes),
    )
    arms = {name: replace(arm, start=parse_arm(name, spec.tier).start) for name, arm in make_arms(spec).items()}
    disk = FileStart("disk", Path("weights.pt"), "f" * 64, 16, "classification", 640, None)
    return make_plan(spec, spec.data.describe(), arms, starts={"disk": disk})


@pytest.fixture
def plan() -> Plan:
    return plan_with()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def result_of(network: FrozenNetwork, plan: Plan, error: float = 0.25) -> FewShotResult:
    return FewShotResult(
        evaluation_id=network.id,
        identity=network.identity,
        study=plan.study_id,
        plan_hash=plan.hash,
        weights_sha256="" if network.start is None else network.start.origin,
        train_checksum="a" * 64,
        test_checksum="b" * 64,
        evaluation_flops=123,
        evaluation_seconds=0.5,
        finished_at="2026-01-01T00:00:00+00:00",
        environment=record_of(plan, plan.cells[0]).environment,
        draws=tuple(
            Draw(shots=shots, draw=draw, seed=network.first_seed + draw, regularization=0.1, test_error=error)
            for shots in network.spec.shots
            for draw in range(network.spec.draws)
        ),
    )


def test_a_result_is_read_as_it_was_written(plan: Plan, store: Store) -> None:
    network = frozen_networks(plan)[0]
    assert EVALUATIONS.read(store, network.id) is None
    EVALUATIONS.write(result_of(network, plan), store)
    assert EVALUATIONS.read(store, network.id) == result_of(network, plan)
    assert EVALUATIONS.path(store, network.id) == store.root / "few_shot" / network.id / "result.json"


def test_an_altered_result_is_refused(plan: Plan, store: Store) -> None:
    network = frozen_networks(plan)[0]
    EVALUATIONS.write(result_of(network, plan), store)
    path = EVALUATIONS.path(store, network.id)
    altered = path.read_text().replace('"test_error": 0.25', '"test_error": 0.2')
    assert altered != path.read_text()
    path.write_text(altered)
    with pytest.raises(StoreError, match=r"result\.json is damaged \(its checksum does not match\): run the study"):
        EVALUATIONS.read(store, network.id)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"result": {}}', "\xff"])
def test_what_is_no_result_is_refused(plan: Plan, store: Store, content: str) -> None:
    network = frozen_networks(plan)[0]
    EVALUATIONS.write(result_of(network, plan), store)
    EVALUATIONS.path(store, network.id).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match="is damaged"):
        EVALUATIONS.read(store, network.id)


def test_the_result_of_another_network_is_refused(plan: Plan, store: Store) -> None:
    first, second = frozen_networks(plan)[:2]
    EVALUATIONS.write(result_of(second, plan), store)
    EVALUATIONS.path(store, second.id).parent.rename(EVALUATIONS.path(store, first.id).parent)
    with pytest.raises(StoreError, match=f"it belongs to few-shot result {second.id}"):
        EVALUATIONS.read(store, first.id)


def test_a_result_that_cannot_be_read_is_told_as_such(plan: Plan, store: Store) -> None:
    network = frozen_networks(plan)[0]
    EVALUATIONS.path(store, network.id).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot be read: it is no ordinary file"):
        EVALUATIONS.read(store, network.id)


def test_a_damaged_result_set_aside_is_kept_and_counts_as_waiting(plan: Plan, store: Store) -> None:
    network = frozen_networks(plan)[0]
    EVALUATIONS.write(result_of(network, plan), store)
    path = EVALUATIONS.path(store, network.id)
    path.write_text("damaged")
    assert network in waiting_networks(plan, store)
    aside = EVALUATIONS.set_aside(store, network.id)
    assert (aside.read_text(), aside.parent, path.exists()) == ("damaged", path.parent, False)
    assert aside.name.startswith("result.damaged-")
    assert EVALUATIONS.read(store, network.id) is None


def test_what_is_done_is_counted_by_evaluation(plan: Plan, store: Store) -> None:
    """A file is one network for all replicates, but fine-tuned on images of each: four evaluations."""
    networks = frozen_networks(plan)
    assert count_results(plan, store) == (0, 4) == (0, len(networks))
    assert waiting_networks(plan, store) == list(networks)
    for network in networks[:3]:
        EVALUATIONS.write(result_of(network, plan), store)
    assert count_results(plan, store) == (3, 4)
    assert waiting_networks(plan, store) == [networks[3]]
    EVALUATIONS.path(store, networks[0].id).write_text("{}")
    assert count_results(plan, store) == (2, 4)
    assert count_results(plan_with(few_shot=None), store) == (0, 0)


def test_status_tells_how_many_are_done(plan: Plan, store: Store) -> None:
    EVALUATIONS.write(result_of(frozen_networks(plan)[0], plan), store)
    *_, few_shot = status_tables(plan, store.states(plan), store)
    assert str(few_shot) == "few-shot: 1 of 4 networks evaluated"
    without = plan_with(few_shot=None)
    assert not any("few-shot" in str(part) for part in status_tables(without, store.states(without), store))


def test_the_table_has_a_row_per_draw_of_what_is_there(plan: Plan, store: Store) -> None:
    untrained, begun = (network for network in frozen_networks(plan) if network.cell.replicate == 1)
    for network, error in ((untrained, 0.4), (begun, 0.3)):
        EVALUATIONS.write(result_of(network, plan, error), store)
    frame = few_shot_frame(plan, store)
    assert list(frame.columns) == list(FEW_SHOT_COLUMNS)
    rows = frame[["arm", "start", "num_pretrain", "replicate", "shots", "draw", "draw_seed", "test_error"]]
    assert [tuple(row) for row in rows.itertuples(index=False)] == [
        (arm, start, size, 1, shots, draw, 1000 + draw, error)
        for arm, start, size, error in (("vit", "", 0, 0.4), ("vit+disk", "disk", 640, 0.3))
        for shots in (1, 5)
        for draw in (0, 1)
    ]
    assert set(frame["weights_sha256"]) == {"", "f" * 64}
    assert set(frame["start_origin"]) == {"", "f" * 64}
    assert few_shot_frame(plan, Store(store.root / "empty")).empty


# --- weights that have changed -------------------------------------------------------------------------------------


def begun_from_a_cell(plan: Plan) -> FrozenNetwork:
    """The network of a replicate that begins from a cell instead of a file."""
    network = next(one for one in frozen_networks(plan) if one.start is not None)
    origin = plan.cells[0].id
    start = network.cell.start
    assert start is not None
    start = start.model_copy(update={"origin": origin})
    return replace(network, start=start, cell=network.cell.model_copy(update={"start": start}))


def kept(plan: Plan, store: Store, sha256: str) -> None:
    """The record of the cell it begins from states these weights."""
    store.write_record(record_of(plan, plan.cells[0]).model_copy(update={"kept_sha256": sha256}))


def test_a_result_is_of_the_weights_that_the_record_of_its_start_states(plan: Plan, store: Store) -> None:
    network = begun_from_a_cell(plan)
    result = result_of(network, plan).model_copy(update={"weights_sha256": "a" * 64})
    EVALUATIONS.write(result, store)
    assert why_outdated(network, store, result) == "", "no record speaks against it"
    for sha256, outdated in (("a" * 64, False), ("", False), ("b" * 64, True)):
        kept(plan, store, sha256)
        told = f"is of other weights than the record of cell {plan.cells[0].id} states now" if outdated else ""
        assert why_outdated(network, store, result) == told
        assert (current(network, store) is None) == outdated


def test_files_and_drawn_weights_are_never_other_ones(plan: Plan, store: Store) -> None:
    for network in frozen_networks(plan):
        assert why_outdated(network, store, result_of(network, plan)) == ""


def test_nobody_can_say_where_the_record_of_the_start_is_damaged(plan: Plan, store: Store) -> None:
    network = begun_from_a_cell(plan)
    EVALUATIONS.write(result_of(network, plan), store)
    kept(plan, store, "a" * 64)
    (store.cell_folder(plan.cells[0].id) / "record.json").write_text("{}")
    with pytest.raises(StoreError, match="record"):
        why_outdated(network, store, result_of(network, plan))
    assert current(network, store) is None
