"""Running: what a plan still lacks is trained, stage by stage; then the report and the mirror are written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .answering import report_study, study_card
from .asking import plan
from .compose import Composed
from .engine_spec import EngineSpec
from .engines import Outcome, make_engine
from .engines.local import devices
from .errors import ConfigError, ExitCode
from .few_shot_results import waiting_networks
from .grid import Plan
from .jobs import cells_at_once
from .probes.probe_results import probe_frame
from .probes.summary import run_values
from .readiness import check_disk, check_machine, prepare_data
from .report import ReportPaths
from .retry import FAILED_ASIDE, RETRIED
from .start_checks import note_files, repair_kept, without_start
from .store import CellState, Store
from .tracking import MirrorResult, TrackingSpec, decide, mirror_study

REPEATED: frozenset[CellState] = frozenset({"waiting", "interrupted", "running", "damaged"})
"""States whose cells a run takes up; a running one belongs to another launcher until it turns out otherwise."""


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        states: cell id -> state at the end.
        report: the files of the report, or None where no cell is finished.
        mirror: what became of the W&B mirror.
        not_evaluated: network -> why its frozen features have no few-shot result, where the study asks for one.
    """

    plan: Plan
    outcome: Outcome
    states: Mapping[str, CellState]
    report: ReportPaths
    mirror: MirrorResult
    not_evaluated: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """Zero only if every cell is finished or honestly at chance, and every few-shot evaluation is there."""
        complete = all(state in ("finished", "diverged") for state in self.states.values())
        return ExitCode.OK if complete and not self.not_evaluated else ExitCode.INCOMPLETE


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
    """Trains every cell of a study that has no record yet, evaluates frozen features, writes the report and the mirror.

    Args:
        planned: the study's plan where the caller already has it.
        retry_failed: train just the cells whose record says failed or invalid, again; all others stay as they are.
        on_start: called once everything is validated and the plan is locked.
        on_poll: called a few times per second with the ids of the running cells.
        on_message: called with what a person should know meanwhile.

    Raises:
        ConfigError: nothing was trained; says which field and why, or that there is nothing to retry.
        StoreError: the results folder cannot be written.
    """
    locked = planned or plan(study.spec)
    if retry_failed and locked.study_id not in store.study_ids():
        raise ConfigError(
            f"--retry failed: {store.root} has no study of these settings, so nothing of it has failed; give the "
            "overrides that it was run with, or leave out --retry to run it"
        )
    wanted = RETRIED if retry_failed else REPEATED
    outcome = train_cells(locked, study, store, wanted, on_start, on_poll, on_message)
    not_evaluated = _evaluate_frozen(locked, study, store, on_message)
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
        probed=run_values(probe_frame(locked, store)),
    )
    return RunResult(locked, outcome, store.states(locked), reports[0], mirror, not_evaluated)


def train_cells(
    planned: Plan,
    study: Composed,
    store: Store,
    wanted: Collection[CellState],
    on_start: Callable[[Plan], None],
    on_poll: Callable[[Sequence[str]], None],
    on_message: Callable[[str], None],
) -> Outcome:
    """Checks the machine, locks a plan and trains its cells; arguments as of `run`.

    Earlier stages are made ready together with the plan, then trained before it.

    Args:
        wanted: states of the cells to train.
    """
    available = check_machine(planned, study.engine, store)
    at_once = max(cells_at_once(stage.cells, study.engine, available) for stage in planned.stages)
    check_disk(planned, store, at_once)
    for stage in planned.stages:
        prepare_data(stage)
    if planned.spec.few_shot is not None:
        from .few_shot_stage import check_shots

        check_shots(planned)
    for stage in planned.stages:
        store.lock_plan(stage)
    note_files(planned, store)
    if "waiting" in wanted:  # else what is repaired would not be trained
        repair_kept(planned, store, on_message)
    total = Outcome()
    for stage in planned.pretraining:
        kept = study.engine.model_copy(update={"keep_checkpoints": True})
        total += _train_stage(stage, study, store, kept, wanted, on_start, on_poll, on_message)
    blocked = without_start(planned, store)
    total += _train_stage(planned, study, store, study.engine, wanted, on_start, on_poll, on_message, blocked)
    return total


def _train_stage(
    stage: Plan,
    study: Composed,
    store: Store,
    settings: EngineSpec,
    wanted: Collection[CellState],
    on_start: Callable[[Plan], None],
    on_poll: Callable[[Sequence[str]], None],
    on_message: Callable[[str], None],
    blocked: Mapping[str, str] | None = None,
) -> Outcome:
    """Trains the cells of one plan that are in one of the wanted states.

    Args:
        blocked: of the last stage, cell id -> why it cannot be trained.
    """
    waiting = _missing(stage, store, wanted, on_message)
    if waiting or blocked is not None:  # an earlier stage with nothing to do is not announced
        on_start(stage)
    incomplete = {cell_id: why for cell_id, why in (blocked or {}).items() if cell_id in waiting}
    missing = [cell_id for cell_id in waiting if cell_id not in incomplete]
    engine = make_engine(store, stage, settings, _live_tracking(study.tracking), on_poll, on_message)
    outcome = engine.run(missing) if missing else Outcome()
    store.tidy(stage)
    outcome.incomplete |= incomplete
    return outcome


def _evaluate_frozen(planned: Plan, study: Composed, store: Store, on_message: Callable[[str], None]) -> dict[str, str]:
    """The few-shot evaluations that a study declares and lacks; see `few_shot_stage.evaluate_frozen`."""
    if not waiting_networks(planned, store):
        return {}
    from .few_shot_stage import evaluate_frozen

    return evaluate_frozen(planned, store, devices(study.engine.here)[0], on_message)


def _missing(
    planned: Plan, store: Store, wanted: Collection[CellState], on_message: Callable[[str], None]
) -> list[str]:
    """The cells in one of the wanted states, their records, damaged or failed, set aside.

    Where failed ones are wanted, so are those whose failed record an earlier call has set aside before it was killed.
    """
    found = []
    for cell_id, state in store.states(planned).items():
        begun = state in REPEATED and set(wanted) >= RETRIED and store.was_set_aside(cell_id, FAILED_ASIDE)
        if state not in wanted and not begun:
            continue
        if state == "damaged":
            if aside := store.set_aside_record(cell_id):
                on_message(f"the record of cell {cell_id} is damaged: kept as {aside.name}, the cell is trained again")
        elif state in RETRIED:
            store.set_aside_record(cell_id, RETRIED, FAILED_ASIDE)
        found.append(cell_id)
    return found


def _live_tracking(settings: TrackingSpec) -> TrackingSpec:
    """The settings for running cells: online only if that works, found out once and not by every cell."""
    online = settings.mode == "online" and decide(settings).mode == "online"
    return settings if online else settings.model_copy(update={"mode": "offline"})
