"""`study list`: every study once, its stages under it, one broken plan hiding nothing."""

from __future__ import annotations

import io
from pathlib import Path

from planned import finish, planned, record_of
from rich.console import Console

from studies.compose import list_tunings
from studies.listing import OWN_FILE_IS_ELSEWHERE, ListedStudy, StageDone, listed_studies, listing_table
from studies.store import Store
from studies.terminal import tuning_list

FILES = {
    "small": {"name": "small", "question": "who [b]wins[/b]?", "cost": "12 cells"},
    "file_of_other": {"name": "other", "question": "why?", "cost": "a day"},
    "mine-tuning": {"name": "mine-tuning", "question": "a study that is called like a tuning?", "cost": "1 cell"},
}


def shown(studies: list[ListedStudy]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for part in listing_table(studies):
        console.print(part)
    return console.export_text()


def test_stages_are_listed_under_their_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    study = planned()
    finish(store, study, study.cells[:5])
    for name in ("small-pretraining", "small-tuning", "small-pretraining-tuning", "mine-tuning", "other", "unknown"):
        store.lock_plan(planned(name=name, seed=100))
    found = {one.name: one for one in listed_studies(FILES, store)}
    assert list(found) == ["small", "file_of_other", "mine-tuning", "unknown"]
    stages = [(one.stage, one.done, one.cells) for one in found["small"].stages]
    assert sorted(stages) == [
        ("pretraining", 0, 12),
        ("pretraining tuning", 0, 12),
        ("study", 5, 12),
        ("tuning", 0, 12),
    ]
    assert [one.stage for one in found["mine-tuning"].stages] == ["study"]
    assert [one.stage for one in found["file_of_other"].stages] == ["study"]
    assert found["unknown"].cost == OWN_FILE_IS_ELSEWHERE


def test_what_is_not_done_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    study = planned()
    finish(store, study, study.cells[:2])
    store.write_record(record_of(study, study.cells[2], status="failed", reason="killed"))
    with store.lock(study.cells[3].id):
        (listed, *_) = listed_studies(FILES, store)
    assert str(listed.stages[0]) == f"2 of 12 cells, 1 running, 1 failed ({study.study_id})"
    text = shown(listed_studies(FILES, store))
    assert "who [b]wins[/b]?" in text, "a question is not markup"
    assert text.count("nothing yet") == 2


def test_a_damaged_plan_hides_no_other_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, planned())
    path = store.lock_plan(planned(name="other"))
    path.write_text(path.read_text().replace('"num_train": 64', '"num_train": 65'))
    listed = {one.name: one for one in listed_studies(FILES, store)}
    assert listed["small"].stages[0].done == 12
    (damaged,) = listed["file_of_other"].stages
    assert "was altered" in str(damaged)
    assert damaged.to_json()["problem"] == damaged.problem


def test_every_plan_of_a_study_is_listed_not_the_latest_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = planned(), planned(seed=100)
    finish(store, first, first.cells[:5])
    finish(store, second, second.cells[:2])
    (listed, *_) = listed_studies(FILES, store)
    assert [(one.study_id, one.done) for one in listed.stages] == [(first.study_id, 5), (second.study_id, 2)]
    assert all(one.study_id in shown([listed]) for one in (first, second))


def test_an_altered_tuning_hides_no_other(tmp_path: Path) -> None:
    (shipped,) = (path for name, path in list_tunings().items() if name == "data_scaling")
    altered = tmp_path / "altered.yaml"
    altered.write_text(shipped.read_text().replace("num_validation: 1000", "num_validation: 1001"))
    console = Console(width=250, record=True, file=io.StringIO())
    for part in tuning_list({"mine": altered, "data_scaling": shipped, "gone": tmp_path / "gone.yaml"}):
        console.print(part)
    lines = {line.split()[1]: line for line in console.export_text().splitlines() if line.startswith("│")}
    assert "was altered: its content has the hash" in " ".join(lines["mine"].split())
    assert "resnet-circular" in lines["data_scaling"]
    assert "is neither a shipped tuning" in " ".join(lines["gone"].split())


def test_stages_are_told_in_words() -> None:
    assert str(StageDone("transfer-pretraining.0a", "pretraining", {"finished": 3, "waiting": 5})) == (
        "pretraining: 3 of 8 cells (transfer-pretraining.0a)"
    )
