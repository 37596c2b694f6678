"""The command line: a mistake is one message and exit code 2, and every verb says what is true of the store."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from planned import finish, make_arms, own_configs, planned, record_of

from studies import asking, cli, compose, precision, readiness, running
from studies import estimate as estimate_module
from studies.engines import Outcome
from studies.errors import ExitCode, StoreError
from studies.estimate import describe_bytes, disk_needed
from studies.grid import Plan
from studies.interruption import Interrupted
from studies.report import ReportPaths
from studies.store import Store
from studies.tracking import MirrorResult

Call = Callable[..., tuple[int, str, str]]
STUDY = Path(sys.executable).parent / "study"
FAST = ["families=[vit,resnet]", "num_train=[64]", "replicates=1"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """Every cell finished but the first, which failed, and the second, which waits."""
    store = Store(tmp_path / "results")
    finish(store, plan, plan.cells[2:])
    store.write_record(record_of(plan, plan.cells[0], status="failed", reason="out of memory"))
    return store


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; `main` appends it to the import path."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("INDUCTIVE_BIAS_STORE", raising=False)
    return folder


@pytest.fixture
def study(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls `study ARGS` in this process, `mine` being known -> exit code, standard output, standard error."""

    configs = str(own_configs(tmp_path))

    def call(*args: str) -> tuple[int, str, str]:
        composing = args[0] in ("run", "plan", "tune", "list")
        own = ["--config-dir", configs] if composing and "--config-dir" not in args else []
        monkeypatch.setattr(sys, "argv", ["study", *args, *own])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without torch: parameters are not counted."""
    monkeypatch.setattr(asking, "survey_arms", lambda spec, data, designs: make_arms(spec))


# --- mistakes --------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown study": (["run", "data_scalin"], r"study: 'data_scalin' .* did you mean 'data_scaling'"),
    "unknown choice": (["run", "mine", "data=cifar11"], r"data: 'cifar11' .* did you mean 'cifar10'"),
    "misspelt key": (
        ["run", "mine", "num_trian=[64]"],
        r"num_trian: is not a known field; did you mean 'num_t",
    ),
    "wrong type": (["run", "mine", "num_train=[64,x]"], r"num_train\[1\]: .*valid integer.*'x'"),
    "too many images": (["run", "mine", "num_train=[99999]"], r"num_train: 99999 images .* at most 19000"),
    "too few images": (["run", "mine", "num_train=[19]"], r"num_train: 19 is below 20"),
    "small budget": (
        ["run", "mine", "budget=flops", "budget.train_flops=1e3"],
        r"budget.train_flops: 1e\+03 does not pay .* needs at least [\d,]+",
    ),
    "no such folder": (["run", "mine", "data=cifar10", "data.name=/no/such"], r"data.name: .* /no/such"),
    "label-changing crops": (["run", "mine", "recipe.augmentation=[crop]"], r"recipe.augmentation: \['crop'\]"),
    "no configuration folder": (["plan", "mine", "--config-dir", "no"], r"--config-dir: no is not a folder"),
    "study not in the store": (["status", "nothing"], r"no study 'nothing' in results; there are: none"),
    "cell not in the store": (["show", "abc"], r"no cell in results begins with 'abc'"),
}


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_one_message_and_exit_code_2(study: Call, here: Path, name: str) -> None:
    args, says = MISTAKES[name]
    code, out, err = study(*args)
    assert (code, out) == (2, "")
    assert re.match(f"error: (study mine:\n)? *.*{says}", err), err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert list(here.iterdir()) == []  # nothing was trained, nothing was written


IMPOSSIBLE_HERE = {
    "compiled on a CPU": (["engine.compile=true"], r"engine.compile: true .* set engine.compile=false"),
    "an uneven team": (["engine.devices_per_cell=3"], r"engine.devices_per_cell: 3 devices cannot share a batch of 64"),
    "bf16 that kills": (["recipe.precision=bf16"], r"recipe.precision: bf16 .*no bf16 here.* use fp32"),
}


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("verb", ["plan", "plan --tuning", "run", "tune"])
@pytest.mark.parametrize("name", sorted(IMPOSSIBLE_HERE))
def test_what_this_machine_cannot_do_is_refused_by_plan_as_by_run(
    study: Call, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    monkeypatch.setattr(precision, "_TRIAL", "raise SystemExit('no bf16 here')")
    asked, says = IMPOSSIBLE_HERE[name]
    command, *options = verb.split()
    code, out, err = study(command, "mine", *asked, "engine.device=cpu", "budget.batch_size=64", *options)
    assert (code, out) == (2, "")
    assert re.match(f"error: {says}", err), err
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("arithmetic")
def test_plan_and_run_count_the_same_checkpoints(study: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_measured_rate", lambda plan, arm: 1e-9)
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    sizes = ["families=[vit,resnet]", "num_train=[64]", "replicates=5", "engine.device=cpu", "engine.workers=2"]
    _, out, _ = study("plan", "mine", *sizes, "--json", "--store", str(tmp_path / "r"))
    content = json.loads(out)
    told = content["estimate"]["bytes_while_running"]
    assert told == disk_needed(Plan.from_json(content), 2 * 3)[1], "two workers with three lanes each"
    code, _, err = study("run", "mine", *sizes, "--store", str(tmp_path / "r"))
    assert (code, f"{describe_bytes(told)} of it while it runs" in err) == (3, True)


def test_an_unknown_family_names_the_closest(study: Call, here: Path) -> None:
    code, out, err = study("run", "mine", "families=[vitt,mlp]", "primary_pair=null", "replicates=1")
    assert (code, out) == (2, "")
    assert err.startswith("error: study mine:\n  families: unknown family 'vitt' (did you mean 'vit'?)")
    assert list(here.iterdir()) == []


def test_a_misspelt_form_is_named_before_torch_or_any_table_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from studies.__main__ import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'timm', 'pytorch_lightning', 'pandas', 'scipy', 'matplotlib', 'datasets'}\n"
        "    print(sorted(heavy & set(sys.modules)))"
    )
    arms = ["families=[vit,vit-lerned2d]", "primary_pair=null", "data=dial_positions"]
    command = [sys.executable, "-c", program, "plan", "position_embedding", *arms]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 2
    assert "families[1]: family 'vit' has no variant 'nano-lerned2d' (did you mean" in " ".join(ended.stderr.split())
    assert ended.stdout == "[]\n"


def test_an_error_stays_the_last_line_where_torch_and_its_compiler_were_loaded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studies", "plan", "data_scaling", "budget=flops", "budget.train_flops=2e9"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: budget.train_flops: 2e+09 does not pay for the least number of steps")
    assert len(ended.stderr.splitlines()) == 1


def test_a_wrong_command_is_exit_code_2(study: Call) -> None:
    assert study("rnu")[0] == 2
    assert study("plan", "mine", "--fast")[0] == 2


def test_the_installed_command_does_the_same(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    command = [STUDY, "run", "mine", "budget.stepz=3", "--config-dir", own_configs(tmp_path_factory.mktemp("own"))]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == (
        "error: study mine:\n  budget.stepz: is not a known field; did you mean 'steps'? (given: 3)\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("arithmetic")
def test_a_bug_shows_its_traceback(study: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(asking, "plan", broken)
    with pytest.raises(ZeroDivisionError):  # the interpreter prints it and exits with 1
        study("run", "mine")


# --- running ---------------------------------------------------------------------------------------------------


def test_an_incomplete_study_is_exit_code_3_and_says_what_is_missing_and_why(
    study: Call, store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = store.root / "report", ("No crossover from 64 to 128 images.",)
    report = ReportPaths(folder / "index.html", folder / "answers.json", figures=(), tables=(), statements=said)
    mirror = MirrorResult("off", "off", 0, 0, (), "tracking is off")
    outcome = Outcome(incomplete={plan.cells[1].id: "its worker was killed"})

    def end(*args: object, **options: object) -> running.RunResult:
        return running.RunResult(plan, outcome, store.states(plan), report, mirror)

    monkeypatch.setattr(asking, "plan", lambda spec: plan)
    monkeypatch.setattr(running, "run", end)
    code, out, _ = study("run", "mine", *FAST, "--store", str(store.root))
    assert code == ExitCode.INCOMPLETE
    assert "12 cells: 10 finished, 1 failed, 1 waiting" in out
    for cell, why in zip(plan.cells, ("out of memory", "its worker was killed"), strict=False):
        state = "failed" if cell is plan.cells[0] else "not finished"
        assert f"{cell.title} ({cell.id}) {state}: {why}; study logs {cell.id} --store {store.root}" in out
    assert f"study run ... --store {store.root} --retry failed" in out
    assert f"report: {report.page}" in out
    assert said[0] in out
    finish(store, plan, plan.cells[:2])
    assert study("run", "mine", *FAST, "--store", str(store.root))[0] == ExitCode.OK


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (Interrupted(), ExitCode.INTERRUPTED, "continue with the same command"),
        (StoreError("disk: no space left"), ExitCode.INCOMPLETE, "error: disk: no space left"),
    ],
)
def test_an_ended_run_says_how_it_ended(
    study: Call,
    monkeypatch: pytest.MonkeyPatch,
    outcome: BaseException,
    code: int,
    says: str,
) -> None:
    def end(*args: object, **options: object) -> None:
        raise outcome

    monkeypatch.setattr("studies.interruption.signal.signal", lambda number, handler: None)
    monkeypatch.setattr(running, "run", end)
    found, _, err = study("run", "mine", *FAST)
    assert (found, says in err) == (code, True)


# --- looking ---------------------------------------------------------------------------------------------------


def test_list_shows_what_is_shipped_and_what_is_done(study: Call, store: Store) -> None:
    code, out, _ = study("list", "--store", str(store.root), "--json")
    rows = {row["study"]: row for row in json.loads(out)}
    assert code == 0
    assert set(rows) == {*compose.list_studies(), "mine", "small"}  # the last has no file here, but is in the store
    assert rows["mine"]["question"] == "why?"
    assert rows["mine"]["runs"] == []
    own = planned(name="mine")
    finish(store, own, own.cells[:5])
    _, out, _ = study("list", "--store", str(store.root), "--json")
    (row,) = (row for row in json.loads(out) if row["study"] == "mine")
    # Its cells are those of `small`: ten were finished, and now so are the failed and the waiting one.
    (run,) = row["runs"]
    assert (run["study_id"], run["stage"], run["done"], run["cells"]) == (own.study_id, "study", 12, 12)


@pytest.mark.usefixtures("arithmetic")
def test_plan_prints_the_locked_form_and_what_is_done(study: Call, tmp_path: Path) -> None:
    args = ["mine", *FAST, "--store", str(tmp_path / "r"), "--no-timing"]
    code, out, _ = study("plan", *args, "--json")
    content = json.loads(out)
    plan = Plan.from_json(content)
    assert (code, len(plan.cells), content["done"], content["estimate"]) == (0, 2, [], None)
    finish(Store(tmp_path / "r"), plan, plan.cells[:1])
    assert json.loads(study("plan", *args, "--json")[1])["done"] == [plan.cells[0].id]
    _, table, _ = study("plan", *args)
    assert f"{plan.study_id}: {plan.spec.question}" in table
    assert "2 cells, 1 done; " in table
    assert all(f"note: {note}" in table for note in plan.notes)


def test_status_tells_the_state_of_every_cell(study: Call, store: Store, plan: Plan) -> None:
    with store.lock(plan.cells[1].id):
        store.write_progress(plan.cells[1].id, 47, 94)
        code, out, _ = study("status", "small", "--store", str(store.root), "--json")
        _, table, _ = study("status", plan.study_id, "--store", str(store.root))
    content = json.loads(out)
    states = {cell["id"]: cell["state"] for cell in content["cells"]}
    assert code == 0
    assert list(states) == [cell.id for cell in plan.cells]
    assert states == {plan.cells[0].id: "failed", plan.cells[1].id: "running"} | {
        c.id: "finished" for c in plan.cells[2:]
    }
    assert content["counts"] == {"failed": 1, "running": 1, "finished": 10}
    assert "12 cells: 10 finished, 1 running, 1 failed" in table
    assert "step 47 of 94" in table
    assert "out of memory" in table


def test_show_prints_the_record_of_a_cell(study: Call, store: Store, plan: Plan) -> None:
    cell = plan.cells[3]
    code, out, _ = study("show", cell.id[:8], "--store", str(store.root))
    record = store.record(cell.id)
    assert record is not None
    assert (code, json.loads(out)) == (0, record.model_dump(mode="json"))
    with store.lock(plan.cells[1].id):
        code, out, _ = study("show", plan.cells[1].id, "--store", str(store.root))
    assert (code, out) == (3, f"cell {plan.cells[1].id} is running; it has no record yet\n")


def test_show_of_a_damaged_record_says_so(study: Call, store: Store, plan: Plan) -> None:
    (store.cell_folder(plan.cells[3].id) / "record.json").write_text("{")
    code, _, err = study("show", plan.cells[3].id, "--store", str(store.root))
    assert (code, "record.json is damaged" in err) == (3, True)


def test_report_and_export_name_what_they_cannot_read(study: Call, store: Store, plan: Plan, tmp_path: Path) -> None:
    (store.cell_folder(plan.cells[3].id) / "record.json").write_text("{")
    code, out, err = study("report", "small", "--store", str(store.root))
    told = "9 of 12 planned cells are finished"
    damaged = "1 failed, 1 with a damaged record, which the next run trains again, 1 not trained yet"
    assert code == 0
    assert told in err
    assert damaged in err
    page = Path(out.strip()).read_text()
    assert told in page
    assert damaged in page
    assert "no record that can be read" in page
    code, out, err = study("export", "small", "--store", str(store.root), "--output", str(tmp_path / "tables"))
    assert (code, len(pd.read_csv(out.splitlines()[1]))) == (0, 4 * 9 + 1)
    assert f"left out, since their records are damaged: {plan.cells[3].id};" in err


def test_logs_prints_what_a_worker_printed(study: Call, store: Store, plan: Plan) -> None:
    text = "[red]not markup[/red] and a line that is longer than any terminal is wide " + "x" * 300 + "\nlast\n"
    (store.cell_folder(plan.cells[3].id) / "log.txt").write_text(text)
    assert study("logs", plan.cells[3].id, "--store", str(store.root)) == (0, text, "")
    assert study("logs", plan.cells[4].id, "--store", str(store.root)) == (0, "", "")


def test_export_writes_the_table(study: Call, store: Store, plan: Plan, tmp_path: Path) -> None:
    code, out, _ = study("export", "small", "--store", str(store.root), "--output", str(tmp_path / "tables"))
    paths = [Path(line) for line in out.splitlines()]
    assert (code, [path.name for path in paths]) == (0, [f"{plan.study_id}.parquet", f"{plan.study_id}.csv"])
    assert len(pd.read_csv(paths[1])) == 4 * 10 + 1
    assert len(pd.read_parquet(paths[0])) == 4 * 10 + 1


def test_clean_says_and_then_does(study: Call, store: Store, plan: Plan) -> None:
    failed = plan.cells[0].id
    code, out, _ = study("clean", "--failed", "--store", str(store.root))
    assert (code, "would remove cell" in out, "add --yes" in out) == (0, True, True)
    assert failed in store.cell_ids()
    code, out, _ = study("clean", "--failed", "--yes", "--store", str(store.root))
    assert (code, out.startswith(f"removed cell {failed} (failed; "), "add --yes" in out) == (0, True, False)
    assert store.state(failed) == "waiting"


def test_the_store_may_be_named_by_the_environment(
    study: Call,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INDUCTIVE_BIAS_STORE", str(store.root))
    assert json.loads(study("status", "small", "--json")[1])["counts"]["finished"] == 10


def test_a_bundle_that_was_altered_is_exit_code_4(study: Call, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "small.tar.gz"
    assert study("bundle", "small", "--store", str(store.root), "--output", str(file))[0] == 0
    code, out, _ = study("verify", str(file))
    assert (code, "is whole" in out) == (0, True)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, out, err = study("verify", str(file))
    assert (code, out) == (4, "")
    assert err
