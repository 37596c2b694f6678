"""The W&B mirror: real offline runs read back, and nothing that W&B does reaches the caller."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Never

import pytest
import yaml
from report.synthetic import failed_record, flexible_error, make_record, prior_error, study_records

from studies.analysis.study import analyse_study
from studies.records import Record, records_frame
from studies.report import StudyCard
from studies.tracking import LiveMirror, MirrorResult, TrackingSpec, decide, mirror_study, sync_study
from studies.tracking import live as live_module
from studies.tracking import mirror as mirror_module
from studies.tracking import settings as settings_module
from studies.tracking.client import follow, write_runs
from studies.tracking.live import QUEUE_ROWS, LiveResult
from studies.tracking.mirror import read_answers
from studies.tracking.runs import cell_run, history, run_id, train_row, validation_row
from studies.tracking.settings import Server, connection_problem
from studies.tracking.summary import summary_run

OFFLINE = TrackingSpec(kind="wandb")
ONLINE = TrackingSpec(kind="wandb", mode="online")
CARD = StudyCard(
    name="example",
    study_id="example.0011aabb",
    question="Which one?",
    plan_hash="0011aabb" * 8,
    protocol_version="1",
    num_cells=2,
    primary_pair=("resnet", "vit"),
    chance_error=0.5,
    data_name="dial",
    bayes_error=None,
    floor=None,
    num_validation=2000,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def inspect(folder: Path) -> list[dict[str, Any]]:
    """All records of an offline run, by wandb's own reader."""
    result = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [make_record("vit", error=0.2), make_record("resnet", error=0.25)]


@pytest.fixture(scope="module")
def mirrored(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MirrorResult]:
    folder = tmp_path_factory.mktemp("study")
    figures = folder / "report" / "figures"
    figures.mkdir(parents=True)
    from studies.records import records_frame
    from studies.report.axes import png_bytes
    from studies.report.course_figures import plot_cost

    (figures / "cost.png").write_bytes(png_bytes(plot_cost(records_frame(records)), 40))
    return folder, mirror_study(records, CARD, folder, OFFLINE)


def run_folder(folder: Path, identifier: str) -> Path:
    (found,) = (folder / "wandb" / "wandb").glob(f"offline-run-*-{identifier}")
    return found


def test_a_cell_becomes_one_clean_offline_run(records: list[Record], mirrored: tuple[Path, MirrorResult]) -> None:
    folder, result = mirrored
    assert (result.state, result.mode, result.written, result.problems) == ("mirrored", "offline", 3, ())
    identifier = run_id(CARD.study_id, records[1].cell_id)
    entries = inspect(run_folder(folder, identifier))
    (run,) = [entry["run"] for entry in entries if entry["type"] == "run"]
    assert run["run_id"] == identifier
    assert (run["run_group"], run["job_type"], run["project"]) == (CARD.study_id, "resnet", "inductive-bias-study")
    assert run["display_name"] == "resnet N=512 r0"
    config = run["config"]["update"]
    assert config["num_train"] == 512
    assert config["seeds"]["subset"] == 0
    assert config["plan_hash"] == CARD.plan_hash
    assert config["subset_hash"] == records[1].subset_hash
    assert config["budget_flops"] == 3 * 12_000_000 * 128 * 200
    rows = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
    assert len(rows) == len(list(history(records[1]))) == 16
    assert all({"train_flops", "examples"} <= set(row) for row in rows)
    assert [row["train_flops"] for row in rows] == sorted(row["train_flops"] for row in rows)
    assert [row["test/error"] for row in rows if "test/error" in row] == [b.test_error for b in records[1].branches]
    metrics = {m["metric"].get("glob_name", m["metric"].get("name")): m["metric"] for m in entries if "metric" in m}
    assert {"train_flops", "examples"} <= set(metrics)
    assert {metrics[name]["step_metric"] for name in ("train/*", "validation/*", "test/*")} == {"train_flops"}
    assert entries[-1] == {"num": entries[-1]["num"], "type": "exit", "exit": {"exit_code": 0}}
    summary: dict[str, Any] = {}
    for entry in entries:
        if entry["type"] == "summary":
            summary |= entry["summary"]["update"]
    assert summary["selected/test_error"] == 0.25


def test_the_summary_run_has_the_curve_table_and_the_figures(mirrored: tuple[Path, MirrorResult]) -> None:
    folder, _ = mirrored
    media = list((folder / "wandb" / "wandb").glob("offline-run-*/files/media/**/*.*"))
    tables = [path for path in media if path.name.endswith(".table.json")]
    assert len(tables) == 1
    content = json.loads(tables[0].read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [(row["rule"], row["arm"], row["mean"]) for row in rows if row["rule"] == "selected"] == [
        ("selected", "resnet", 0.25),
        ("selected", "vit", 0.2),
    ]
    assert [path.read_bytes() for path in media if path.suffix == ".png"] == [
        (folder / "report" / "figures" / "cost.png").read_bytes()
    ]


def test_only_what_is_new_or_was_interrupted_is_written(
    records: list[Record], mirrored: tuple[Path, MirrorResult]
) -> None:
    folder, _ = mirrored
    again = mirror_study(records, CARD, folder, OFFLINE)
    assert (again.written, again.kept) == (0, 3)
    identifier = run_id(CARD.study_id, records[0].cell_id)
    (folder / "wandb" / f"{identifier}.json").unlink()  # as if killed before the marker
    third = mirror_study([*records, failed_record("mlp")], CARD, folder, OFFLINE)
    assert (third.state, third.written, third.kept) == ("mirrored", 3, 1)  # the cut one, the new one, a new summary
    assert run_folder(folder, identifier).is_dir()
    assert len(list((folder / "wandb" / "wandb").glob("offline-run-*"))) == 4  # the old summary went


def test_ids_are_functions_of_study_and_cell(records: list[Record]) -> None:
    assert cell_run(records[0], CARD)["id"] == run_id("example.0011aabb", records[0].cell_id)
    assert run_id("a", "b") != run_id("a", "c") != run_id("b", "c")


def test_unknown_values_never_reach_the_rows() -> None:
    record = make_record()
    nan = record.branches[0].model_copy(update={"test_loss": float("nan"), "diverged": True})
    record = record.model_copy(update={"branches": (nan, *record.branches[1:])})
    json.dumps(cell_run(record, CARD), allow_nan=False)
    records = study_records(replicates=1)
    json.dumps(summary_run(records, CARD, []), allow_nan=False)
    answers = analyse_study(records_frame(records), pair=("resnet", "vit"), chance=0.5).as_dict()
    json.dumps(summary_run(records, CARD, [], answers), allow_nan=False)


def test_the_summary_has_the_answers() -> None:
    curves = {"resnet": prior_error, "vit": flexible_error}
    records = study_records(curves, sizes=(100, 140, 250, 400, 800), replicates=5, noise=0.01)
    of = analyse_study(records_frame(records), pair=("resnet", "vit"), chance=0.5)
    summary = summary_run(records, CARD, [], of.as_dict())["summary"]
    crossover, floor = of.by_rule["selected"].crossovers[0], of.by_rule["full_budget"].floors["resnet"]
    assert summary["selected/decision"] == "crosses"
    assert summary["selected/crossover"] == pytest.approx(crossover.roots[0].x, abs=0.05)
    assert summary["selected/crossover_low"] == crossover.confidence_set[0].low
    assert summary["selected/multiplier/250"] == of.by_rule["selected"].multipliers[0].by_x["multiplier"].iloc[2]
    assert summary["full_budget/floor/resnet_high"] == pytest.approx(floor.high)
    assert "selected/decision" not in summary_run(records, CARD, [])["summary"]


def test_answers_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    assert read_answers(tmp_path / "answers.json") is None
    (tmp_path / "answers.json").write_text("{cut")
    assert read_answers(tmp_path / "answers.json") is None


def test_a_trial_of_a_tuning_has_no_test_rows() -> None:
    record = make_record()
    unread = {"test_error": None, "test_loss": None, "test_calibration_error": None}
    untested = record.model_copy(update={"branches": tuple(one.model_copy(update=unread) for one in record.branches)})
    text = json.dumps(cell_run(untested, CARD), allow_nan=False)
    assert "test_error" in json.dumps(cell_run(record, CARD))
    assert "test/error" in json.dumps(cell_run(record, CARD))
    assert "test_error" not in text
    assert "test/error" not in text
    assert "validation/error" in text
    json.dumps(summary_run([untested], CARD, []), allow_nan=False)


def test_live_rows_have_the_names_of_the_record(records: list[Record]) -> None:
    names = {name for row in history(records[0]) for name in row}
    assert set(train_row(0.0, 1, 2, 0.5)) | set(validation_row(0.5, 1, 2, 0.1, 0.2)) <= names
    assert set(train_row(0.125, 1, 2, 0.5)) <= names


def test_off_and_absent_and_disabled(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirror_study(records, CARD, tmp_path, TrackingSpec()).message == "not mirrored: tracking is off"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mirror_study(records, CARD, tmp_path, OFFLINE).state == "off"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = mirror_study(records, CARD, tmp_path, ONLINE)
    assert (result.state, result.written) == ("off", 0)
    assert "wandb is not installed" in result.message
    assert list(tmp_path.iterdir()) == []


def test_online_with_a_dead_server_falls_back(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: no process of wandb is asked for its settings, or is to hand anything over."""

    def asked(*_: object) -> Never:
        raise AssertionError("wandb is asked")

    monkeypatch.setattr(settings_module, "ask_client", asked)
    monkeypatch.setattr(mirror_module, "SYNC_COMMAND", (sys.executable, "-c", "raise SystemExit('must not be called')"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    assert decide(ONLINE).mode == "offline"
    result = mirror_study(records[:1], CARD, tmp_path, ONLINE)
    assert (result.state, result.mode, result.written) == ("mirrored", "offline", 2)
    assert f"http://127.0.0.1:{port} cannot be reached" in result.message
    synced = sync_study(tmp_path, ONLINE)
    assert (synced.ok, synced.handed_over, synced.waiting) == (False, 0, 2)
    assert "cannot be reached" in synced.message


def test_a_missing_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        decision = decide(ONLINE)
    assert decision.mode == "offline"
    assert "no API key" in decision.reason
    assert "wandb login" in decision.reason


def test_a_proxy_is_tried_in_place_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert connection_problem("https://server.invalid") == ""
    assert "cannot be reached" in connection_problem("https://server.invalid")


def test_a_hanging_client_is_stopped(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is replaced by one that never answers; the time limit holds for it and for what it started."""
    monkeypatch.setattr(mirror_module, "CLIENT", (sys.executable, "-c", "import time; time.sleep(600)"))
    start = time.monotonic()
    result = mirror_study(records, CARD, tmp_path, TrackingSpec(kind="wandb", timeout_seconds=0.2))
    assert time.monotonic() - start < 500, "it was waited for"
    assert (result.state, result.written) == ("partial", 0)
    assert "stopped after" in result.message


def test_a_crashing_client_is_reported(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "CLIENT", (sys.executable, "-c", "raise SystemExit('the client broke')"))
    result = mirror_study(records, CARD, tmp_path, OFFLINE)
    assert result.state == "partial"
    assert "ended with code 1: the client broke" in result.message


def test_the_report_is_written_while_the_cells_are_mirrored(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    cells_handed_over, report_written = threading.Event(), threading.Event()

    def write(runs: list[dict[str, Any]], *_: object) -> tuple[str, ...]:
        if runs[0]["job_type"] != "summary":
            cells_handed_over.set()
            assert report_written.wait(600)  # the cells are still being written when the report is made
        order.append(" ".join(run["job_type"] for run in runs))
        return ()

    def report() -> None:
        assert cells_handed_over.wait(600)
        order.append("report")
        report_written.set()

    monkeypatch.setattr(mirror_module, "_write", write)
    mirror_study(records, CARD, tmp_path, OFFLINE, meanwhile=report)
    assert order == ["report", "vit resnet", "summary"]


def test_a_report_that_fails_is_told_and_leaves_no_writer(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(mirror_module, "_write", lambda runs, *_: written.append(len(runs)) or ())
    with pytest.raises(ZeroDivisionError):
        mirror_study(records, CARD, tmp_path, OFFLINE, meanwhile=lambda: 1 / 0)
    assert written == [2]
    assert (
        mirror_study(records, CARD, tmp_path, TrackingSpec(kind="off"), meanwhile=lambda: written.append(-1)).state
        == "off"
    )
    assert written == [2, -1]


class FakeWandb:
    """A client that keeps what it is given and raises for the runs named in `broken`."""

    def __init__(self, folder: Path, broken: tuple[str, ...] = ()) -> None:
        self.folder, self.broken = folder, broken
        self.runs: list[SimpleNamespace] = []
        self.finished_badly = 0

    def init(self, **options: Any) -> SimpleNamespace:
        if options["name"] in self.broken:
            raise RuntimeError("the client raised")
        rows: list[dict[str, Any]] = []
        run = SimpleNamespace(
            options=options, rows=rows, log=rows.append, summary={}, dir=str(self.folder / "run" / "files"),
            url="http://server/run", finished=False, define_metric=lambda *names, **options: None,
        )  # fmt: skip
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run

    def finish(self, exit_code: int) -> None:
        self.finished_badly += exit_code

    def Settings(self, **options: Any) -> dict[str, Any]:  # noqa: N802
        return options


def job_of(folder: Path, names: list[str]) -> dict[str, Any]:
    runs = [cell_run(make_record(replicate=index), CARD) | {"name": name} for index, name in enumerate(names)]
    return {"folder": str(folder), "mode": "offline", "project": "p", "entity": None, "runs": runs}


def test_a_raising_client_costs_its_own_run_only(tmp_path: Path) -> None:
    client = FakeWandb(tmp_path, broken=("b",))
    problems = write_runs(client, job_of(tmp_path, ["a", "b", "c"]))
    assert problems == ["b: RuntimeError: the client raised"]
    assert [run.options["name"] for run in client.runs if run.finished] == ["a", "c"]
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert client.finished_badly == 1


def test_three_failures_in_a_row_end_the_attempt(tmp_path: Path) -> None:
    client = FakeWandb(tmp_path, broken=("b",))
    problems = write_runs(client, job_of(tmp_path, ["b"] * 5))
    assert len(problems) == 4
    assert problems[-1] == "gave up after 3 failures in a row"


@pytest.fixture
def waiting(tmp_path: Path) -> list[Path]:
    """Two offline runs with markers that say they were not handed over."""
    folders = []
    for name in ("one", "two"):
        folders.append(tmp_path / "wandb" / "wandb" / f"offline-run-1-{name}")
        folders[-1].mkdir(parents=True)
        (folders[-1] / f"run-{name}.wandb").touch()
        marker = {"digest": "d", "mode": "offline", "folder": str(folders[-1]), "url": None, "synced": False}
        (tmp_path / "wandb" / f"{name}.json").write_text(json.dumps(marker))
    return folders


def fake_sync(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(mirror_module, "find_server", lambda: Server("http://server"))
    monkeypatch.setattr(mirror_module, "SYNC_COMMAND", (sys.executable, "-c", code))


def test_sync_hands_over_once(waiting: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch = "next(pathlib.Path(path).glob('*.wandb')).with_suffix('.wandb.synced').touch()"
    done = f"import sys, pathlib; [{touch} for path in sys.argv[1:]]"
    fake_sync(monkeypatch, done)
    first = sync_study(tmp_path, OFFLINE)
    assert (first.ok, first.handed_over, first.waiting) == (True, 2, 0)
    assert first.message == "2 runs handed over to http://server"
    fake_sync(monkeypatch, "raise SystemExit('must not be called')")
    assert sync_study(tmp_path, OFFLINE).ok


@pytest.mark.parametrize(
    ("code", "timeout", "message"),
    [
        ("raise SystemExit('refused by the server')", 300, "code 1: refused by the server"),
        ("import time; time.sleep(600)", 1, "stopped after 1 seconds"),
        ("", 300, "wandb did not say that it has them"),
    ],
    ids=["refused", "hangs", "silent"],
)
def test_sync_failures_are_said(
    waiting: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout: float, message: str
) -> None:
    fake_sync(monkeypatch, code)
    result = sync_study(tmp_path, OFFLINE, timeout=timeout)
    assert (result.ok, result.handed_over, result.waiting) == (False, 0, 2)
    assert message in result.message


def test_following_a_cell_logs_its_rows_and_its_address(tmp_path: Path) -> None:
    client = FakeWandb(tmp_path)
    job = job_of(tmp_path, ["live"])
    lines = [{**job, "run": job["runs"][0], "status": str(tmp_path / "status.json")}, {"train_flops": 1}]

    def parent() -> Iterator[str]:
        yield from map(json.dumps, lines)

    before = set(threading.enumerate())
    follow(client, parent())
    watching = [thread for thread in set(threading.enumerate()) - before if not thread.finished.is_set()]  # type: ignore[attr-defined]
    assert watching == [], "what would end a process that does not come to its end goes on watching"
    assert client.runs[0].rows == [{"train_flops": 1}]
    assert client.runs[0].finished
    assert json.loads((tmp_path / "status.json").read_text()) == {"url": "http://server/run"}


def test_live_mirror_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = LiveMirror(make_record().cell, "cell", "study", tmp_path, OFFLINE)
    offline.log({"train_flops": 1})
    assert offline.close().message == "not shown: tracking is not online"
    hanging = threading.Event()
    monkeypatch.setattr(live_module, "decide", lambda settings: hanging.wait())  # a server that never answers
    live = LiveMirror(make_record().cell, "cell", "study", tmp_path, ONLINE)
    found: list[LiveResult] = []

    def show() -> None:
        for step in range(QUEUE_ROWS + 4000):
            live.log(train_row(0.0, step, step, 0.5))
        found.append(live.close(0.1))

    showing = threading.Thread(target=show, daemon=True)
    showing.start()
    showing.join(300)
    assert found == [LiveResult(None, 4000, "not shown: still connecting")]


def test_live_mirror_says_that_its_server_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    live = LiveMirror(make_record().cell, "cell", "study", tmp_path, ONLINE)
    live.log(train_row(0.0, 1, 1, 0.5))
    result = live.close(300)
    assert (result.url, result.dropped) == (None, 0)
    assert "cannot be reached" in result.message


def test_live_mirror_speaks_to_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that writes down what it is told stands in for wandb."""
    heard = tmp_path / "heard"
    code = f"import sys, pathlib; pathlib.Path({str(heard)!r}).write_text(sys.stdin.read())"
    monkeypatch.setattr("studies.tracking.live.LIVE_CLIENT", (sys.executable, "-c", code))
    monkeypatch.setattr("studies.tracking.live.decide", lambda settings: settings_module.Decision("online"))
    live = LiveMirror(make_record().cell, "cell", "study", tmp_path, ONLINE)
    live.log(train_row(0.0, 10, 20, 0.5))
    assert live.close(300).message == "shown"
    job, row = map(json.loads, heard.read_text().splitlines())
    assert (job["run"]["group"], job["run"]["job_type"], job["run"]["tags"]) == ("study", "vit", ["live"])
    assert row == {"train_flops": 10, "examples": 20, "train/loss": 0.5}


@pytest.mark.parametrize(("name", "kind"), [("wandb", "wandb"), ("off", "off")])
def test_packaged_choices_are_valid(name: str, kind: str) -> None:
    text = (Path(__file__).parents[2] / "configs" / "tracking" / f"{name}.yaml").read_text()
    assert TrackingSpec.model_validate(yaml.safe_load(text)).kind == kind
