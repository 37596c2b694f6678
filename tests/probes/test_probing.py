"""Probes of a study: applied once, kept, and told where there is nothing or something is wrong."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probed_study import KEEPING, QUICK, small_plan, train_all

from studies.digest import digest
from studies.grid import Plan
from studies.kept_results import DamagedError
from studies.probes import applied as applied_module
from studies.probes import probe_arrays, probe_frame
from studies.probes.catalogue import chosen
from studies.probes.probe import Probed
from studies.probes.probe_results import PROBED, coverage
from studies.probes.probing import probe_networks
from studies.probes.study_probing import ProbingResult
from studies.probes.subjects import Subject, once, subjects
from studies.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def times(store: Store, found: tuple[Subject, ...]) -> dict[str, int]:
    paths = {one.id: PROBED.path(store, one.id) for one in found}
    return {one: path.stat().st_mtime_ns for one, path in paths.items() if path.exists()}


def test_what_was_there_before_a_kill_is_kept(plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen = subjects(plan, QUICK), list[int]()
    apply = applied_module.apply

    def killed(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return apply(*arguments)

    monkeypatch.setattr("studies.probes.job.apply", killed)
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

    monkeypatch.setattr("studies.probes.job.apply", failing)
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


@pytest.mark.parametrize("another_leaves_it", [True, False], ids=["it is there then", "it is not"])
def test_a_result_that_another_process_computes_is_waited_for(
    another_leaves_it: bool, plan: Plan, store: Store, probed: tuple[Store, ProbingResult]
) -> None:
    """The others come first; where the other process ends without a result, it is computed here."""
    asked, told, seen = once(subjects(plan, QUICK)), list[str](), list[tuple[int, int]]()
    busy = asked[0].id
    with ExitStack() as other:
        other.enter_context(store.result_lock("probes", busy))

        def on_message(message: str) -> None:
            told.append(message)
            assert set(times(store, asked)) == {one.id for one in asked[1:]}
            if another_leaves_it:
                shutil.copytree(
                    probed[0].result_folder("probes", busy), store.result_folder("probes", busy), dirs_exist_ok=True
                )
            threading.Timer(0.1, other.close).start()

        found = probe_networks(
            plan, store, asked, on_progress=lambda *counts: seen.append(counts), on_message=on_message
        )
    assert told == ["probes: 1 result another process is at, which is waited for"]
    assert (found.faults, found.busy) == ({}, [])
    assert set(times(store, asked)) == {one.id for one in asked}
    assert seen[-2:] == [(len(asked) - 1, len(asked)), (len(asked), len(asked))]
    copied = PROBED.read(probed[0], busy)
    assert (PROBED.read(store, busy) == copied) is another_leaves_it


def test_what_another_process_has_computed_meanwhile_is_taken(plan: Plan, probed_copy: Store) -> None:
    one = subjects(plan, QUICK)[0]
    known = PROBED.read(probed_copy, one.id)

    def never() -> Any:
        pytest.fail("computed twice")

    assert PROBED.compute(probed_copy, one.id, one.title, never, print) == known


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
    opened = Path.open

    def gone(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", gone)
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
