"""Who is measured when, what a child process answers, and what a race or a run on a GPU leaves behind."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models import forward_flops
from studies.bench import gpu, train_race
from studies.bench.children import Child, Crew, running
from studies.bench.gpu import FullStudy, fastest, measure_gpu, study_minutes
from studies.bench.study_race import StudyRace, race_study, shortened
from studies.bench.tables import gpu_tables
from studies.bench.train_race import CONTENDERS, RaceSettings, jobs_of, num_cores, race, timings_of
from studies.bench.workload import Workload, as_json
from studies.cli import app
from studies.compose import compose_study
from studies.errors import ConfigError, StudyError

TINY = Workload("mlp", "nano", 16, batch_size=32, num_train=320)


class FakeChild:
    """Answers at once; time passes only as its contender's speed says."""

    def __init__(self, job: Mapping[str, Any], log: list[tuple[str, int]]) -> None:
        self.job, self.log = job, log

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        answers: dict[str, dict[str, Any]] = {
            "describe": {"device": "cpu (fake)", "torch": "2", "timm": "1", "cores": 2, "load_average": 0.0},
            "peaks": {"matmul": {"64": 1e9}, "flops": 1e9, "copy_bytes": 1e9},
            "traffic": {"step_bytes": 1000},
            "facts": {"num_parameters": 5, "options": {}, "gpu_bytes": 0},
            "choose": {"tried": [{"workers": 0, "images_per_second": 1.0}]},
            "width": {"lanes": 3},
        }
        return answers[do]

    def end(self) -> None:
        pass


class FakeCrew:
    speeds = {"study": 0.1, "lightning": 0.2, "timm": 0.4}  # noqa: RUF012  # seconds per step

    def __init__(self, jobs: Sequence[Mapping[str, Any]], log: list[tuple[str, int]]) -> None:
        self.children = [FakeChild(job, log) for job in jobs]
        self.log = log

    def steps(self, count: int) -> dict[str, float]:
        name = self.children[0].job["contender"]
        self.log.append((name, count))
        return {"images": 32 * count * len(self.children), "seconds": count * self.speeds[name], "stop": 1.0, "loss": 1}

    def start_up(self) -> float:
        return 7.0

    def peak_memory(self) -> int:
        return 123


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def fake(jobs: Sequence[Mapping[str, Any]], deadline: float | None = None) -> Iterator[FakeCrew]:
        yield FakeCrew(jobs, found)

    monkeypatch.setattr(train_race, "running", fake)
    monkeypatch.setattr(train_race, "Child", lambda job: FakeChild(job, found))
    return found


def test_contenders_take_turns_and_each_is_warm(log: list[tuple[str, int]]) -> None:
    content = json.loads(json.dumps(race([TINY], RaceSettings(repeats=3, seconds=2.0))))
    turns = [name for name, count in log if (name, count) in {("study", 20), ("lightning", 10), ("timm", 5)}]
    warm_ups = log[: len(log) - 18]
    assert [name for name, _ in log[-18:]] == [
        *CONTENDERS,
        *CONTENDERS,
    ] * 3  # whole machine, then one thread; A B C ...
    assert len(turns) >= 18
    assert {name for name, _ in warm_ups} == set(CONTENDERS)
    found = list(timings_of(content["families"][0]))
    assert [(one.contender, one.mode) for one in found] == [(n, m) for m in ("machine", "thread") for n in CONTENDERS]
    assert all(len(one.seconds) == 3 for one in found)
    assert found[0].images == 32 * 20 * num_cores()
    assert found[0].startup_seconds == 7.0
    assert found[3].images == 32 * 20  # one thread: one process
    assert content["families"][0]["lanes"] == 3


def test_what_a_race_leaves_behind(log: list[tuple[str, int]]) -> None:
    kept: list[int] = []
    race([TINY, TINY], RaceSettings(repeats=1, seconds=1.0), keep=lambda result: kept.append(len(result["families"])))
    assert kept == [1, 2], "a race cut short leaves what it has measured"
    content = race([TINY], RaceSettings(repeats=1, seconds=1.0))
    assert set(content) == {"schema", "kind", "machine", "settings", "precision", "peaks", "families"}
    (family,) = content["families"]
    assert {"arm", "workload", "lanes", "step_flops", "step_bytes", "timings", "timm_choices"} < set(family)
    assert family["step_flops"] == TINY.batch_size * TINY.flops.train_exact
    assert Workload.from_json(family["workload"]) == TINY


def test_this_package_fills_a_cpu_with_single_threads_and_a_gpu_with_lanes() -> None:
    jobs = jobs_of("study", "machine", TINY, RaceSettings())
    assert [job["threads"] for job in jobs] == [1] * num_cores()
    assert [job["workload"]["replicate"] for job in jobs] == list(range(num_cores()))
    (peer,) = jobs_of("timm", "machine", TINY, RaceSettings())
    assert peer["threads"] == num_cores()
    (alone,) = jobs_of("lightning", "thread", TINY, RaceSettings())
    assert alone["threads"] == 1
    (program,) = jobs_of("study", "machine", TINY, RaceSettings("cuda", lanes=8))
    assert program["lanes"] == 8
    assert RaceSettings("cuda").modes == ("machine",)


# --- real processes -------------------------------------------------------------------------------------------


def test_a_child_trains_and_is_weighed() -> None:
    job = {"contender": "study", "workload": as_json(TINY), "device": "cpu", "threads": 1}
    with running([job]) as crew:
        assert crew.start_up() > 0
        span = crew.steps(3)
        assert span["images"] == 3 * TINY.batch_size
        assert 0 < span["seconds"] < 60
        assert crew.peak_memory() > 50e6
        facts = crew.children[0].ask("facts")
        assert facts["num_parameters"] > 0
        with pytest.raises(StudyError, match=r"study mlp ended with exit code 1: AttributeError: .*no_such_command"):
            crew.children[0].ask("no_such_command")


def test_a_child_that_is_too_slow_is_ended() -> None:
    child = Child({"contender": "machine", "device": "cpu", "threads": 1}, deadline=time.monotonic() + 0.1)
    with pytest.raises(StudyError, match="the measurement of machine gave no answer within 0 s"):
        child.ask("describe")
    child.end()


def test_a_crew_counts_from_the_first_start_to_the_last_stop() -> None:
    crew = Crew([])
    spans = [
        {"start": 1.0, "stop": 4.0, "images": 10, "loss": 1.0},
        {"start": 2.0, "stop": 6.0, "images": 30, "loss": 2.0},
    ]

    class Told:
        def __init__(self, span: dict[str, float]) -> None:
            self.span = span

        def tell(self, do: str, count: int) -> None:
            assert (do, count) == ("steps", 5)

        def answer(self) -> dict[str, float]:
            return self.span

    crew.children = [Told(span) for span in spans]  # type: ignore[misc]
    assert crew.steps(5) == {"images": 40, "seconds": 5.0, "stop": 6.0, "loss": 1.0}


# --- a whole study --------------------------------------------------------------------------------------------


def test_the_raced_study_is_planned_with_the_declared_steps() -> None:
    asked = StudyRace()
    spec = compose_study("data_scaling", asked.overrides).spec
    assert len(asked.cells) == 12
    assert spec.num_train == asked.sizes
    assert spec.budget.steps == asked.steps
    assert spec.budget.branches == (1.0,)
    assert len(shortened(asked).cells) == 4


def test_a_study_that_timm_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no whole number of batches of 96"):
        race_study(StudyRace(sizes=(100,)), tmp_path)
    with pytest.raises(ConfigError, match=r"--timm-script is .*nowhere\.py, which is no file"):
        race_study(StudyRace(timm_script=tmp_path / "nowhere.py"), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- a GPU ----------------------------------------------------------------------------------------------------


def test_the_full_study_is_the_shipped_one() -> None:
    spec = compose_study("cifar10_full", []).spec
    full = FullStudy()
    assert len(spec.num_train) == full.num_sizes
    assert spec.replicates == full.replicates
    assert spec.budget.train_flops == full.train_flops
    assert (spec.budget.batch_size, spec.budget.branches) == (full.batch_size, full.branches)
    assert spec.budget.cooldown_fraction == full.cooldown_fraction
    assert spec.augmentation == ("crop", "flip")
    assert max(spec.num_train) + spec.num_validation <= 50_000


def test_the_minutes_of_the_full_study_follow_from_the_speeds() -> None:
    flops = {arm: forward_flops(arm, "tiny", image_size=32, in_channels=3, num_classes=10).total
             for arm in ("vit", "resnet", "hybrid", "mixer", "lstm", "mlp")}  # fmt: skip
    images = FullStudy().images_per_family(max(flops.values()))
    assert sum(3 * f * images for f in flops.values()) == pytest.approx(141e15, rel=0.02)  # six families, 240 cells
    rows = [{"tier": "tiny", "arm": arm, "images_per_second": images / 60, "lanes": 10, "compiled": False}
            for arm in flops]  # fmt: skip
    slower = [row | {"images_per_second": 1.0} for row in rows]
    compiled = [row | {"images_per_second": images / 30, "compiled": True} for row in rows[:2]]
    without_lanes = [row | {"images_per_second": 1e9, "lanes": 0} for row in rows]  # which no study does on a GPU
    planned = study_minutes({"lanes": [*slower, *rows, *compiled, *without_lanes]})
    assert planned["eager"]["total"] == pytest.approx(6.0), "what is compiled is no speed of the default"
    assert planned["eager"]["complete"]
    assert planned["compiled"]["total"] == pytest.approx(1.0)
    assert list(planned["compiled"]["families"]) == [row["arm"] for row in compiled]
    assert planned["compiled"]["complete"] is False
    assert fastest(rows, "nano", "vit") is None


def fake_tasks(works: Sequence[Any]) -> Any:
    return lambda device, image_size: [gpu._Task(f"task {number}", work) for number, work in enumerate(works)]


def test_a_run_on_a_gpu_keeps_its_time_and_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    given: list[float] = []

    def measure(result: dict[str, Any], until: float) -> None:
        given.append(until - clock[0])
        clock[0] += 50
        result["lanes"].append({"tier": "tiny", "arm": "vit", "lanes": 4, "images_per_second": 1e6, "flops": 1e12,
                                "mfu": 0.1, "compiled": False})  # fmt: skip

    def fail(result: dict[str, Any], until: float) -> None:
        raise StudyError("out of memory")

    monkeypatch.setattr(gpu, "_tasks", fake_tasks([measure, fail, measure, measure]))
    saved: list[dict[str, Any]] = []
    result = measure_gpu(1.5, save=lambda part: saved.append(json.loads(json.dumps(part))))
    assert given == [90.0, 40.0]  # never more than is left
    why = [(row["what"], row["why"]) for row in result["left_out"]]
    assert why == [("task 1", "out of memory"), ("task 3", "the time was up")]
    assert [len(part["lanes"]) for part in saved] == [1, 1, 2, 2]
    assert saved[0]["study_minutes"]["eager"]["families"]["vit"] > 0
    assert saved[0]["study_minutes"]["compiled"] == {"families": {}, "total": 0, "complete": False}
    told = [str(part) for part in gpu_tables(result)]
    assert any(line.startswith("planned with engine.compile=false, the default: ") for line in told)
    assert not any("engine.compile=true" in line for line in told), "nobody measured it"


def test_a_family_is_measured_until_wider_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {0: 10.0, 1: 20.0, 5: 40.0, 10: 41.0}

    class Told(FakeChild):
        def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
            if do == "compare":
                return {"largest": 0.0, "bitwise": True}
            if arguments["compile_network"]:
                return {"error": "no compiler here"}
            return {"lanes": arguments["lanes"], "images_per_second": rates[arguments["lanes"]]}

    @contextlib.contextmanager
    def fake(jobs: Sequence[Mapping[str, Any]], deadline: float | None = None) -> Iterator[Any]:
        crew = FakeCrew(jobs, [])
        crew.children = [Told(jobs[0], [])]
        yield crew

    monkeypatch.setattr(gpu, "running", fake)
    result: dict[str, Any] = {"lanes": [], "equal": [], "left_out": [], "peaks": {"bf16": {"flops": 1e12}}}
    workload = Workload("vit", "tiny", precision="bf16")
    gpu._lanes_task(workload, "cuda").work(result, 0.0)
    assert [row["lanes"] for row in result["lanes"]] == [0, 1, 5, 10]  # 10 is hardly faster than 5: 20 is not tried
    assert result["lanes"][2]["mfu"] == pytest.approx(40 * workload.flops.train_exact / 1e12)
    assert result["equal"] == [{"tier": "tiny", "arm": "vit", "largest": 0.0, "bitwise": True}]
    assert result["left_out"] == [{"what": "tiny vit: this package, 5 lanes", "why": "no compiler here"}]


# --- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--families", "vti"], "unknown family 'vti'"),
        (["train", "--image-size", "33"], "--image-size is 33; the tier nano is for images of 16, 28, 32 px"),
        (["train", "--tier", "huge"], "--tier is 'huge'"),
        (["train", "--device", "tpu"], "--device is 'tpu'; expected auto, cpu or cuda"),
        (["study", "--timm-script", "nowhere.py"], "nowhere.py, which is no file"),
    ],
)
def test_a_mistake_is_one_message(words: list[str], told: str) -> None:
    outcome = CliRunner().invoke(app, ["bench", *words])
    assert isinstance(outcome.exception, ConfigError)
    assert told in str(outcome.exception)
    assert outcome.exception.exit_code == 2


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("studies.engines.local._num_gpus", lambda: 0)
    monkeypatch.chdir(tmp_path)
    for words in (["gpu"], ["train", "--device", "cuda"]):
        outcome = CliRunner().invoke(app, ["bench", *words])
        assert isinstance(outcome.exception, ConfigError)
        assert "torch sees none on this machine" in str(outcome.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_race_is_printed_written_and_drawn(log: list[tuple[str, int]], tmp_path: Path) -> None:
    words = ["bench", "train", "--families", "mlp", "--image-size", "16", "--quick", "--device", "cpu"]
    outcome = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in tmp_path.iterdir()} == {"train-nano-16px.json", "roofline.png", "roofline.svg"}
    assert json.loads((tmp_path / "train-nano-16px.json").read_text())["kind"] == "train"
