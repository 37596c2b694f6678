"""Rounds of a tuning: which cells, on which seeds, when another round follows, and that nothing is done twice."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from planned import make_arms, make_spec, own_configs, record_of
from training import tiny_spec, train

from datamodules import DialData
from studies import answering, asking, cli, readiness, rounds
from studies.cell import Cell
from studies.compose import Composed, compose_study
from studies.engine_spec import EngineSpec
from studies.engines import Outcome
from studies.errors import ConfigError, ExitCode, PlanError
from studies.estimate import disk_needed, evaluation_flops
from studies.grid import Plan
from studies.planning import make_plan
from studies.records import Status, records_frame
from studies.rounds import plan_tuning, tune
from studies.stages import PRETRAINING_SEED
from studies.store import Store
from studies.tracking import TrackingSpec
from studies.tuning import TUNING_SEED, TuningSpec
from studies.tuning_file import read_tuning

ARMS = ("vit", "resnet", "mlp")
RULES = TuningSpec(max_trials=12)
UNREAD = {"test_error": None, "test_loss": None, "test_calibration_error": None}


def study(rules: TuningSpec = RULES, **changes: Any) -> Composed:
    spec = make_spec(**({"num_train": (64, 256, 1024)} | changes))
    return Composed(spec, EngineSpec(), TrackingSpec(kind="off"), rules)


def bowl(best: dict[str, float]) -> Callable[[Cell], float]:
    """Validation errors with one best rate per family, and the smaller decay the better."""

    def error(cell: Cell) -> float:
        distance = abs(math.log(cell.learning_rate / best[cell.family]))
        return min(0.5, 0.05 + distance / 20 + cell.weight_decay / 100)

    return error


INSIDE = bowl(dict.fromkeys(ARMS, 0.002))


class Trainer:
    """Takes the place of training: records with known errors, and a note of every cell it was asked for."""

    def __init__(self, error: Callable[[Cell], float] = INSIDE) -> None:
        self.error, self.trained, self.plans = error, list[str](), list[Plan]()
        self.statuses: dict[str, Status] = {}
        self.dies_after = 10**9

    def __call__(self, planned: Plan, study: Composed, store: Store, *rest: Any) -> Outcome:
        store.lock_plan(planned)
        self.plans.append(planned)
        for cell in planned.cells:
            if store.record(cell.id) is None:
                if len(self.trained) == self.dies_after:
                    raise KeyboardInterrupt
                self.trained.append(cell.id)
                status = self.statuses.get(cell.id, "finished")
                record = record_of(planned, cell, errors=(self.error(cell),), status=status)
                branches = tuple(one.model_copy(update=UNREAD) for one in record.branches)
                store.write_record(record.model_copy(update={"branches": branches}))
        return Outcome()


@pytest.fixture(autouse=True)
def _arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without torch: parameters are not counted."""
    monkeypatch.setattr(asking, "survey_arms", lambda spec, data, designs: make_arms(spec))


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    fake = Trainer()
    monkeypatch.setattr(rounds, "train_cells", fake)
    return fake


def trials_by_place(cells: Sequence[Cell]) -> dict[tuple[str, int], set[tuple[float, float]]]:
    found: dict[tuple[str, int], set[tuple[float, float]]] = {}
    for cell in cells:
        found.setdefault((cell.family, cell.num_train), set()).add((cell.learning_rate, cell.weight_decay))
    return found


# --- the plan of a round ---------------------------------------------------------------------------------------


def test_every_arm_and_size_begins_with_the_same_grid() -> None:
    plan = plan_tuning(study())
    found = trials_by_place(plan.cells)
    assert set(found) == {(arm, size) for arm in ARMS for size in (64, 256, 1024)}
    assert all(pairs == set(RULES.grid) for pairs in found.values())
    assert Counter(cell.num_train for cell in plan.cells) == {64: 3 * 3 * 8, 256: 3 * 8, 1024: 3 * 8}


def test_trials_have_the_studys_own_budget_and_recipe_and_one_branch() -> None:
    changes: dict[str, Any] = {"budget": {"steps": 120, "batch_size": 16}, "permutation": "pixels",
                               "recipe": {"label_smoothing": 0.1, "precision": "bf16"}}  # fmt: skip
    one = study(**changes)
    reported = asking.plan(one.spec).cells[0]
    for cell in plan_tuning(one).cells:
        assert cell.branches == (1.0,)
        assert cell.executed_steps == cell.steps == 120, "all trials cost C, no more"
        same = ("batch_size", "permutation", "label_smoothing", "precision", "num_validation", "augmentation")
        assert {name: getattr(cell, name) for name in same} == {name: getattr(reported, name) for name in same}


@pytest.mark.parametrize("seed", [0, 7, PRETRAINING_SEED - 1_000])
@pytest.mark.parametrize("replicates", [1, 5, 1_000])
@pytest.mark.parametrize("vary", [("subset", "order", "initialization", "augmentation"), ("order",)])
def test_no_seed_of_a_trial_can_be_one_of_a_reported_replicate(
    seed: int, replicates: int, vary: tuple[str, ...]
) -> None:
    one = study(seed=seed, replicates=replicates, vary=vary, families=("vit",), primary_pair=None, num_train=(64,))
    reported = {value for cell in asking.plan(one.spec).cells for _, value in cell.seeds}
    tried = {value for cell in plan_tuning(one).cells for _, value in cell.seeds}
    assert max(reported) < TUNING_SEED <= min(tried), "of any study, not only of this one"
    assert len(tried) == 3, "and the replicates of a trial differ"


@pytest.mark.parametrize("seed", [PRETRAINING_SEED - 1, TUNING_SEED - 1])
def test_a_reported_seed_that_belongs_to_stages_or_tunings_is_refused(seed: int) -> None:
    spec = make_spec(seed=seed, replicates=2)
    told = rf"seed: {seed} makes seeds up to {seed + 1}, .* 2147483648 .* earlier stages, .* 4294967296 on to tunings"
    with pytest.raises(PlanError, match=told):
        make_plan(spec, spec.data.describe(), make_arms(spec))
    last = make_spec(seed=PRETRAINING_SEED - 2, replicates=2)
    assert make_plan(last, last.data.describe(), make_arms(last)).cells


def test_a_cell_that_reads_the_test_split_is_another_cell() -> None:
    cell = plan_tuning(study()).cells[0]
    assert cell.model_copy(update={"reads_test": True}).id != cell.id


def test_the_rules_are_locked_with_the_plan() -> None:
    plain = plan_tuning(study())
    other = plan_tuning(study(RULES.model_copy(update={"max_trials": 14})))
    assert [cell.id for cell in plain.cells] == [cell.id for cell in other.cells]
    assert plain.hash != other.hash
    assert any(note.startswith("Tuning: every arm and size begins with") for note in plain.notes)
    assert not any("Fixed recipe" in note for note in plain.notes)
    assert Plan.from_json(plain.to_json()) == plain


def test_trials_cost_no_test_and_keep_no_predictions() -> None:
    plan = plan_tuning(study())
    cell = plan.cells[0]
    assert evaluation_flops(cell) == cell.forward_flops * cell.num_validation
    assert disk_needed(plan, 1)[0] < disk_needed(asking.plan(study().spec), 1)[0] / 6 * len(plan.cells)


def test_a_name_that_leaves_no_room_is_refused() -> None:
    assert plan_tuning(study(name="a" * 57)).study_id.startswith("a" * 57 + "-tuning.")
    with pytest.raises(ConfigError, match="too long to be tuned"):
        plan_tuning(study(name="a" * 58))


def test_a_size_the_data_do_not_have_is_refused_by_its_name() -> None:
    with pytest.raises(PlanError, match=r"num_train: 5000 .*tuning\.sizes"):
        plan_tuning(study(RULES.model_copy(update={"sizes": (64, 5000)})))


# --- rounds ----------------------------------------------------------------------------------------------------


def test_winners_inside_the_grid_need_one_round(trainer: Trainer, tmp_path: Path) -> None:
    result = tune(study(), Store(tmp_path))
    assert result.exit_code == ExitCode.OK
    assert len(trainer.plans) == 1
    assert result.tuning is not None
    assert all(
        (point.learning_rate, point.weight_decay, point.num_trials, point.at_edge) == (0.003, 0.02, 8, False)
        for points in result.tuning.arms.values()
        for point in points.values()
    )


def test_only_who_is_at_an_edge_is_extended_and_nobody_beyond_the_maximum(trainer: Trainer, tmp_path: Path) -> None:
    trainer.error = bowl({"vit": 0.002, "resnet": 0.03, "mlp": 1e-9})
    result = tune(study(), Store(tmp_path))
    assert result.tuning is not None
    trials = {arm: [point.num_trials for point in points.values()] for arm, points in result.tuning.arms.items()}
    assert trials == {"vit": [8, 8, 8], "resnet": [12, 12, 12], "mlp": [12, 12, 12]}
    edges = {arm: {point.at_edge for point in points.values()} for arm, points in result.tuning.arms.items()}
    assert edges == {"vit": {False}, "resnet": {False}, "mlp": {True}}
    assert result.tuning.arms["resnet"][64].learning_rate == 0.032
    rates = {trial.learning_rate for trial in result.tuning.arms["mlp"][64].trials}
    assert min(rates) == 2.9e-05, "two steps of 3.2 below 0.0003"
    assert len(trainer.plans) == 3
    for before, after in zip(trainer.plans, trainer.plans[1:], strict=False):
        assert {cell.id for cell in before.cells} < {cell.id for cell in after.cells}, "a round holds all before it"
    assert len(trainer.trained) == len(set(trainer.trained)) == len(result.plan.cells)


def test_the_file_says_who_made_it_for_what_and_at_what_cost(trainer: Trainer, tmp_path: Path) -> None:
    trainer.error = bowl({"vit": 0.002, "resnet": 0.02, "mlp": 0.002})
    result = tune(study(), Store(tmp_path))
    assert result.path == tmp_path / "studies" / result.plan.study_id / "tuning.yaml"
    tuning = read_tuning(str(result.path))
    assert tuning == result.tuning
    assert tuning.origin.plan_hashes == tuple(plan.hash for plan in trainer.plans)
    assert tuning.origin.study_id == result.plan.study_id
    assert tuning.conditions.data_fingerprint == result.plan.data.fingerprint
    assert tuning.cost.cells == len(result.plan.cells)
    assert tuning.cost.train_flops == sum(cell.executed_flops for cell in result.plan.cells)
    assert tuning.cost.trials == sum(point.num_trials for points in tuning.arms.values() for point in points.values())
    assert [len(point.trials[0].validation_errors) for point in tuning.arms["vit"].values()] == [3, 1, 1]
    assert list(tuning.arms) == list(ARMS)


def test_a_study_can_cite_what_it_was_tuned_for(trainer: Trainer, tmp_path: Path) -> None:
    path = tune(study(), Store(tmp_path / "results"), out=tmp_path / "mine.yaml").path
    cited = asking.plan(study(recipe={"tuning": str(path)}).spec)
    assert {(cell.learning_rate, cell.weight_decay) for cell in cited.cells} == {(0.003, 0.02)}
    assert not any("differ" in note or "Outside" in note for note in cited.notes)
    again = plan_tuning(study(recipe={"tuning": str(path)}))
    assert again.tuning is None, "a study that cites a tuning can be tuned anew"


def test_a_killed_tuning_continues_and_repeats_nothing(trainer: Trainer, tmp_path: Path) -> None:
    trainer.error = bowl({"vit": 0.002, "resnet": 0.03, "mlp": 0.002})
    whole = tune(study(), Store(tmp_path / "whole"))
    for dies_after in (5, len(whole.plan.cells) - 3):
        store = Store(tmp_path / str(dies_after))
        trainer.trained, trainer.dies_after = [], dies_after
        with pytest.raises(KeyboardInterrupt):
            tune(study(), store)
        trainer.dies_after = 10**9
        result = tune(study(), store)
        assert Counter(trainer.trained) == dict.fromkeys((cell.id for cell in whole.plan.cells), 1)
        assert result.tuning == whole.tuning
        trainer.trained.clear()
        assert tune(study(), store).tuning == whole.tuning
        assert trainer.trained == [], "a finished tuning trains nothing"


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_a_failed_cell_stays_visible_and_the_tuning_is_not_finished(
    status: Status, trainer: Trainer, tmp_path: Path
) -> None:
    trainer.error = bowl(dict.fromkeys(ARMS, 0.03))  # another round would follow
    cell = plan_tuning(study()).cells[4]
    trainer.statuses = {cell.id: status}
    result = tune(study(), Store(tmp_path))
    assert (result.tuning, result.path, result.exit_code) == (None, None, ExitCode.INCOMPLETE)
    assert result.states[cell.id] == status
    assert len(trainer.plans) == 1, "no round is decided without it"
    assert not list(tmp_path.rglob("tuning.yaml"))


def test_a_diverged_cell_is_chance_and_counted(trainer: Trainer, tmp_path: Path) -> None:
    diverged = [cell.id for cell in plan_tuning(study()).cells if cell.learning_rate == 0.01 and cell.num_train == 64]
    trainer.statuses = dict.fromkeys(diverged, "diverged")
    assert tune(study(), Store(tmp_path)).exit_code == ExitCode.OK


# --- really trained --------------------------------------------------------------------------------------------


@pytest.fixture
def no_test(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A dial that has no test split; notes what is loaded."""
    loaded: list[str] = []
    load = DialData.load

    def guarded(self: DialData, split: Any, **rest: Any) -> Any:
        loaded.append(split)
        assert split == "train", "the test split was read"
        return load(self, split, **rest)

    monkeypatch.setattr(DialData, "load", guarded)
    return loaded


def real_tuning(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Composed, Plan]:
    monkeypatch.undo()  # the true survey of arms
    return (one := Composed(tiny_spec(**changes), EngineSpec(), TrackingSpec(kind="off"), RULES)), plan_tuning(one)


def test_the_test_split_is_never_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any) -> None:
    _, plan = real_tuning(monkeypatch)
    loaded: list[str] = request.getfixturevalue("no_test")
    readiness.prepare_data(plan)
    record = train(plan.cells[0], plan, tmp_path)
    assert set(loaded) == {"train"}
    assert record.status == "finished"
    (branch,) = record.branches
    assert (branch.test_error, branch.test_loss, branch.test_calibration_error) == (None, None, None)
    assert 0 < branch.validation_error < 1
    assert (record.test_checksum, record.predictions_sha256) == ("", "")
    assert record.evaluation_flops == plan.cells[0].forward_flops * 60
    assert not Store(tmp_path).predictions_path(record.cell_id).exists()
    assert Store(tmp_path).record(record.cell_id) == record
    assert records_frame([record])["test_error"].isna().all()


def test_the_guard_would_notice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any) -> None:
    """Otherwise the test above could not fail."""
    _, plan = real_tuning(monkeypatch)
    request.getfixturevalue("no_test")
    reported = plan.cells[0].model_copy(update={"reads_test": True})
    with pytest.raises(AssertionError, match="the test split was read"):
        train(reported, plan, tmp_path)


def test_a_tuning_has_no_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, plan = real_tuning(monkeypatch)
    with pytest.raises(ConfigError, match="is a tuning: it has no report"):
        answering.report_study(plan, Store(tmp_path))


class PlugPulledError(Exception):
    """Somebody pulls the plug."""


def test_a_really_trained_tuning_survives_an_interruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rules = TuningSpec(learning_rates=(0.001, 0.003, 0.009), max_trials=6)
    monkeypatch.undo()
    one = Composed(tiny_spec(), EngineSpec(checkpoint_seconds=0), TrackingSpec(kind="off"), rules)
    store = Store(tmp_path)

    def pull_the_plug(running: Sequence[str]) -> None:
        if len(list(tmp_path.glob("cells/*/record.json"))) >= 3:
            raise PlugPulledError

    with pytest.raises(PlugPulledError):
        tune(one, store, on_poll=pull_the_plug)
    early = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/record.json")}
    assert 3 <= len(early) < 18
    assert not list(tmp_path.rglob("tuning.yaml"))

    result = tune(one, store)
    assert result.exit_code == ExitCode.OK
    assert {path: path.stat().st_mtime_ns for path in early} == early, "finished cells are not trained again"
    tuning = read_tuning(str(result.path))
    records = store.records(store.plan("tiny-tuning"))
    assert len(records) == tuning.cost.cells == 3 * 6
    assert all(record.status == "finished" and not record.predictions_sha256 for record in records)
    (point,) = tuning.arms["mlp"].values()
    found = sorted(record.branches[0].validation_error for record in records)
    assert sorted(error for trial in point.trials for error in trial.validation_errors) == found
    assert found[0] < found[-1]
    means = {trial.pair: trial.mean_log_error(60) for trial in point.trials}
    assert means[point.learning_rate, point.weight_decay] == min(means.values())


# --- the command -----------------------------------------------------------------------------------------------

MINE = ["mine", "families=[vit,resnet,mlp]", "num_train=[64,256,1024]", "replicates=2", "tracking=off"]


@pytest.fixture
def command(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Any]:
    """Calls `study ARGS` in this process -> exit code, standard output without line breaks, standard error."""
    configs = own_configs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("INDUCTIVE_BIAS_STORE", raising=False)

    def call(*args: str) -> tuple[int, str, str]:
        own = ["--config-dir", str(configs)] if args[0] in ("tune", "plan", "list") else []
        monkeypatch.setattr(sys, "argv", ["study", *args, *own])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out.replace("\n", ""), captured.err

    return call


def test_the_command_tells_the_cost_first_and_the_winners_last(
    command: Callable[..., Any], trainer: Trainer, tmp_path: Path
) -> None:
    trainer.error = bowl({"vit": 0.002, "resnet": 0.02, "mlp": 0.002})
    code, printed, _ = command("plan", *MINE, "--tuning", "--no-timing")
    assert code == ExitCode.OK
    assert "120 cells, 0 done" in printed
    code, printed, _ = command("tune", *MINE, "--out", "tunings/mine.yaml")
    assert code == ExitCode.OK
    assert "cite it with recipe.tuning=tunings/mine.yaml" in printed
    assert "0.032, 0.02 (0.0" in printed, "the rate beyond the edge that won"
    assert read_tuning("tunings/mine.yaml").name == "mine"
    code, printed, _ = command("plan", *MINE, "recipe.tuning=tunings/mine.yaml", "--no-timing")
    assert "tuned: learning rates and weight decays of mine, sha256" in printed
    _, printed, _ = command("status", "mine-tuning")
    assert "peak lr" in printed
    assert "finished" in printed
    _, printed, _ = command("list", "--json")
    assert "mine-tuning." in printed
    (tmp_path / "my configs" / "tuning").mkdir()
    Path("tunings/mine.yaml").rename(tmp_path / "my configs" / "tuning" / "found.yaml")
    _, printed, _ = command("list")
    assert "recipe.tuning=NAME cites one" in printed
    assert "found" in printed
    code, printed, _ = command("plan", *MINE, "recipe.tuning=found", "--no-timing")
    assert "tuned: learning rates and weight decays of mine, sha256" in printed
    code, _, errors = command("report", "mine-tuning")
    assert code == ExitCode.USAGE
    assert "it has no report" in errors


def test_the_command_says_what_failed(command: Callable[..., Any], trainer: Trainer, tmp_path: Path) -> None:
    spec = compose_study("mine", MINE[1:], tmp_path / "my configs")
    trainer.statuses = {plan_tuning(spec).cells[0].id: "failed"}
    code, printed, _ = command("tune", *MINE)
    assert code == ExitCode.INCOMPLETE
    assert "1 failed" in printed
    assert "not finished: the same command continues" in printed
