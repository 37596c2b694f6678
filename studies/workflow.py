"""From a question to its answer: plan, prepare the data, train what is missing, report, mirror.

These functions are the Python way in; the command line calls nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules import DataError, DataInfo

from .analysis.answers import Answers, analyse
from .analysis.of_records import Rule, records_table
from .analysis.study import measured_pair, read_blocks
from .analysis.table import CurveTable
from .arms import parse_arm
from .compose import Composed, compose_study
from .engine_spec import EngineSpec
from .engines import LocalEngine, Outcome
from .engines.local import devices
from .errors import ConfigError, ExitCode, StoreError
from .estimate import describe_bytes, disk_needed
from .jobs import cells_at_once
from .planning import Arm, Plan, make_plan
from .precision import check_precision
from .records import Record, records_frame
from .report import ReportPaths, write_report
from .report.card import StudyCard
from .spec import StudySpec
from .stages import stage_specs, start_sources, with_own_images
from .start_checks import check_starts_fit, note_files, repair_kept, without_start
from .store import CellState, Store
from .survey import survey_arms
from .tracking import MirrorResult, TrackingSpec, decide, mirror_study
from .tuning_file import read_tuning

REPEATED: frozenset[CellState] = frozenset({"waiting", "interrupted", "running", "damaged"})
"""States whose cells a run takes up; a running one belongs to another launcher until it turns out otherwise."""


SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        states: cell id -> state at the end.
        report: the files of the report, or None where no cell is finished.
        mirror: what became of the W&B mirror.
    """

    plan: Plan
    outcome: Outcome
    states: Mapping[str, CellState]
    report: ReportPaths
    mirror: MirrorResult

    @property
    def exit_code(self) -> ExitCode:
        """Zero only if every cell is finished or honestly at chance."""
        complete = all(state in ("finished", "diverged") for state in self.states.values())
        return ExitCode.OK if complete else ExitCode.INCOMPLETE


def load_study(name: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """A study file with overrides, validated; see `compose_study`."""
    return compose_study(name, overrides, config_dir)


def plan(spec: StudySpec) -> Plan:
    """Resolves and validates every cell without decoding an image or training a step.

    Raises:
        ConfigError: the study cannot be run as asked; says which field and why.
    """
    info = _describe(spec)
    starts = start_sources(spec, info, {name: _plan_stage(name, stage) for name, stage in stage_specs(spec).items()})
    designs = {name: source.image_size for name, source in starts.items()}
    arms: dict[str, Arm] = survey_arms(spec, info, designs)
    known = {arm.name for arm in arms.values()} | {arm.family for arm in arms.values()} | {"default"}
    _check_recipe_names(spec, known)
    planned = make_plan(spec, info, arms, read_tuning(spec.recipe.tuning) if spec.recipe.tuning else None, starts)
    check_starts_fit(planned, starts)
    return planned


def _plan_stage(name: str, spec: StudySpec) -> Plan:
    """The plan of an earlier stage, whose mistakes are told where the study file has them."""
    try:
        return with_own_images(plan(spec))
    except ConfigError as error:
        raise type(error)(f"pretraining.{name}: {error}") from None


def run(
    study: Composed,
    store: Store,
    *,
    planned: Plan | None = None,
    retry_failed: bool = False,
    on_start: Callable[[Plan], None] = lambda plan: None,
    on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> RunResult:
    """Trains every cell of a study that has no record yet, then writes the report and the mirror.

    Args:
        planned: the study's plan where the caller already has it.
        retry_failed: train cells again whose record says failed or invalid.
        on_start: called once everything is validated and the plan is locked.
        on_poll: called a few times per second with the ids of the running cells.
        on_message: called with what a person should know meanwhile.

    Raises:
        ConfigError: nothing was trained; says which field and why.
        StoreError: the results folder cannot be written.
    """
    locked = planned or plan(study.spec)
    outcome = train_cells(locked, study, store, retry_failed, on_start, on_poll, on_message)
    for stage in locked.pretraining:
        mirror_study(store.records(stage), study_card(stage), store.study_folder(stage.study_id), study.tracking)
    card = study_card(locked)
    reports: list[ReportPaths] = []
    mirror = mirror_study(
        store.records(locked),
        card,
        store.study_folder(locked.study_id),
        study.tracking,
        meanwhile=lambda: reports.append(report_study(locked, store, card)),
    )
    return RunResult(locked, outcome, store.states(locked), reports[0], mirror)


def train_cells(
    planned: Plan,
    study: Composed,
    store: Store,
    retry_failed: bool,
    on_start: Callable[[Plan], None],
    on_poll: Callable[[Sequence[str]], None],
    on_message: Callable[[str], None],
) -> Outcome:
    """Checks the machine, locks a plan and trains its cells that have no record yet; arguments as of `run`.

    Earlier stages are made ready together with the plan, then trained before it.
    """
    available = check_machine(planned, study.engine)
    at_once = max(cells_at_once(stage.cells, study.engine, available) for stage in planned.stages)
    check_disk(planned, store, at_once)
    for stage in planned.stages:
        prepare_data(stage)
        store.lock_plan(stage)
    note_files(planned, store)
    repair_kept(planned, store, on_message)
    total = Outcome()
    for stage in planned.pretraining:
        kept = study.engine.model_copy(update={"keep_checkpoints": True})
        total += _train_stage(stage, study, store, kept, retry_failed, on_start, on_poll, on_message)
    blocked = without_start(planned, store)
    total += _train_stage(planned, study, store, study.engine, retry_failed, on_start, on_poll, on_message, blocked)
    return total


def _train_stage(
    stage: Plan,
    study: Composed,
    store: Store,
    settings: EngineSpec,
    retry_failed: bool,
    on_start: Callable[[Plan], None],
    on_poll: Callable[[Sequence[str]], None],
    on_message: Callable[[str], None],
    blocked: Mapping[str, str] | None = None,
) -> Outcome:
    """Trains the cells of one plan that have no record yet.

    Args:
        blocked: of the last stage, cell id -> why it cannot be trained.
    """
    waiting = _missing(stage, store, retry_failed, on_message)
    if waiting or blocked is not None:  # an earlier stage with nothing to do is not announced
        on_start(stage)
    incomplete = {cell_id: why for cell_id, why in (blocked or {}).items() if cell_id in waiting}
    missing = [cell_id for cell_id in waiting if cell_id not in incomplete]
    engine = LocalEngine(store, stage, settings, _live_tracking(study.tracking), on_poll)
    outcome = engine.run(missing) if missing else Outcome()
    outcome.incomplete |= incomplete
    return outcome


def check_machine(planned: Plan, settings: EngineSpec) -> list[str]:
    """Refuses what this machine cannot do as asked, before anything is written or trained.

    Returns:
        The first device of each worker, as of `devices`.

    Raises:
        ConfigError: says which field, the value given and what to do.
    """
    available = devices(settings)
    if settings.compile and available[0] == "cpu":
        raise ConfigError(
            "engine.compile: true was asked for, but only programs on a GPU are compiled and these cells would train "
            "on the CPU; set engine.compile=false, or run where torch sees a GPU"
        )
    for stage in planned.stages:
        if settings.devices_per_cell > 1:
            from .team import check_team

            check_team(stage.cells, settings, available[0])
        check_precision(stage.spec.recipe.precision, available[0])
    return available


def prepare_data(planned: Plan) -> None:
    """Decodes both splits into the cache once, so that a broken image is found now and no worker decodes.

    Of a tuning only the training split: nothing of it ever opens the other.

    Raises:
        ConfigError: an image cannot be decoded, or the data are not what the plan was made from.
    """
    data = planned.spec.data
    try:
        fingerprint = data.describe().fingerprint
        expected = {"train": planned.data.num_train, "test": planned.data.num_test}
        splits = {name: data.load(name) for name in SPLITS if name == "train" or not planned.is_tuning}
        for images in splits.values():
            images.verify()  # workers verify each image they read; damage found here costs nobody a training
    except DataError as error:
        raise ConfigError(_of_data(error)) from None
    if fingerprint != planned.data.fingerprint:
        raise ConfigError("data: the files have changed since the study was planned; plan it anew")
    for name, images in splits.items():
        if len(images) != expected[name]:
            raise ConfigError(
                f"data: the {name} split has {len(images)} images where the plan counted {expected[name]}"
            )


def check_disk(planned: Plan, store: Store, num_running: int) -> None:
    """Refuses a study that cannot fit on the disk, the checkpoints of `num_running` cells at once included.

    Raises:
        StoreError: says how much it needs and how much there is.
    """
    kept = running = 0.0
    for stage in planned.stages:
        states = store.states(stage)
        left = 1 - sum(state in ("finished", "diverged") for state in states.values()) / len(states)
        of_records, of_checkpoints = disk_needed(stage, num_running, keeps_weights=stage is not planned)
        kept, running = kept + of_records * left, max(running, of_checkpoints if left else 0)
    needed, running = round(kept + running), round(running)
    folder = next(path for path in (store.root.absolute(), *store.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{folder}: the study needs about {describe_bytes(needed)}, {describe_bytes(running)} of it while it runs, "
            f"but {describe_bytes(free)} are free; choose another folder with --store, or lower engine.lanes or "
            "engine.workers"
        )


def report_study(planned: Plan, store: Store, card: StudyCard | None = None) -> ReportPaths:
    """Writes the report of a study from its records alone.

    Raises:
        ConfigError: the plan is a tuning's, which has no test errors to report.
    """
    if planned.is_tuning:
        raise ConfigError(
            f"{planned.study_id} is a tuning: it has no report, its result is the file that `study tune` writes; "
            "`study status` and `study export` show its cells"
        )
    folder = store.study_folder(planned.study_id) / "report"
    records = store.records(planned)
    return write_report(records, card or study_card(planned), folder, _predictions(records, store))


def _predictions(records: Sequence[Record], store: Store) -> dict[str, Path]:
    """Where the predictions of each cell lie."""
    return {record.cell_id: store.predictions_path(record.cell_id) for record in records if record.branches}


def study_card(planned: Plan) -> StudyCard:
    """What the report and the mirror say of the study besides its records."""
    spec = planned.spec
    classifies = spec.objective == "classification"
    bayes = getattr(spec.data, "bayes_error", None) if classifies and not planned.is_tuning else None
    return StudyCard(
        name=spec.name,
        study_id=planned.study_id,
        question=spec.question,
        plan_hash=planned.hash,
        protocol_version=planned.protocol_version,
        num_cells=len(planned.cells),
        primary_pair=spec.primary_pair,
        chance_error=chance_error(planned),
        data_name=planned.data.name,
        bayes_error=bayes().error if bayes else None,
        floor=getattr(spec.data, "position_dependence", None) if classifies else None,
        x=spec.x,
        num_validation=spec.num_validation,
        notes=planned.notes,
        executed_flops=planned.executed_flops,
        tier=spec.tier,
        published=spec.published,
        tuning=planned.tuning,
    )


def chance_error(planned: Plan) -> float:
    """Error of guessing: one of the classes, or one of the colours of a patch (8 for every channel)."""
    masked = planned.spec.objective == "masked_patches"
    return 1 - 1 / (8**planned.data.in_channels if masked else planned.data.num_classes)


def load_records(study: str = "data_scaling", store: Path | str = "results") -> list[Record]:
    """The records of a study, by its name or id.

    Raises:
        StoreError: the store has no such study.
    """
    found = Store(store)
    return found.records(found.plan(study))


def load_answers(
    study: str = "data_scaling",
    store: Path | str = "results",
    *,
    rule: Rule = "selected",
    x: str | None = None,
    num_train: int | None = None,
    control: str | None = None,
) -> Answers:
    """What the records of a study say, with its declared pair, its chance error and its test images counted in.

    Args:
        study: name or id.
        store: where its records are.
        rule: `selected` reads the branch chosen on validation, `full_budget` the branch at exactly C.
        x: what error is measured against; see `records_table`. By default what the study declares.
        num_train: only cells of this size; needed where x is a cost of branches, as `train_flops`.
        control: name or id of the same study with permuted pixels, for the difference of differences.

    Raises:
        StoreError: the store has no such study.
        ConfigError: there is no such column, or it holds no numbers.
    """
    found = Store(store)
    planned = found.plan(study)

    def table_of(one: Plan) -> CurveTable:
        records = found.records(one)
        frame = records_frame(records, one.spec.tier)
        blocks = read_blocks(frame, _predictions(records, found))
        return records_table(frame, rule=rule, x=x or planned.spec.x, num_train=num_train, blocks=blocks)

    table = table_of(planned)
    return analyse(
        table,
        pair=measured_pair(table, planned.spec.primary_pair),
        control=None if control is None else table_of(found.plan(control)),
        chance=chance_error(planned),
    )


def _live_tracking(settings: TrackingSpec) -> TrackingSpec:
    """The settings for running cells: online only if that works, found out once and not by every cell."""
    online = settings.mode == "online" and decide(settings).mode == "online"
    return settings if online else settings.model_copy(update={"mode": "offline"})


def _describe(spec: StudySpec) -> DataInfo:
    try:
        return spec.data.describe()
    except DataError as error:
        raise ConfigError(_of_data(error)) from None


def _of_data(error: DataError) -> str:
    text = str(error)
    return text if text.startswith("data.") else f"data: {text}"


def _check_recipe_names(spec: StudySpec, known: set[str]) -> None:
    """A learning rate for a misspelt family would silently not be used."""
    from models import family_names

    for field in ("learning_rate", "weight_decay"):
        setting = getattr(spec.recipe, field)
        for name in setting if isinstance(setting, dict) else ():
            if name not in known and parse_arm(name, spec.tier).family not in family_names() and ":" not in name:
                raise ConfigError(
                    f"recipe.{field}.{name}: no such family; expected default, an arm of this study "
                    f"({', '.join(spec.families)}) or one of {', '.join(family_names())}"
                )


def _missing(planned: Plan, store: Store, retry_failed: bool, on_message: Callable[[str], None]) -> list[str]:
    states = store.states(planned)
    for cell_id, state in states.items():
        if state == "damaged":
            if aside := store.set_aside_record(cell_id):
                on_message(f"the record of cell {cell_id} is damaged: kept as {aside.name}, the cell is trained again")
        elif retry_failed and state in ("failed", "invalid"):
            store.discard_cell(cell_id, ("failed", "invalid"))
    wanted = REPEATED | ({"failed", "invalid"} if retry_failed else set())
    return [cell_id for cell_id, state in states.items() if state in wanted]
