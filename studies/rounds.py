"""Tuning a study: plan a round, train it, extend where the winner is at an edge, and write down who won.

A round is an ordinary plan, locked before its first step: cells with ids, locks, checkpoints and records as in a run.
Its plan holds every trial so far, so that the last one is the whole tuning; only what has no record is trained. The
next round is a function of the records alone: the same command continues a killed tuning and repeats no finished cell.

Every trial ends in one branch, at the full budget C, without those at fractions of C that a study reports. So all
trials cost the same, and each has one look at validation: the best of several looks favours whoever is noisier. What is
chosen is the rate of the trunk, which all branches share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .answering import study_card
from .asking import plan
from .cell import Cell
from .compose import Composed
from .engines import Outcome
from .errors import ConfigError, ExitCode, PlanError
from .grid import Plan
from .plan_notes import FIXED_RECIPE
from .planning import networks_of
from .records import Record
from .retry import RETRIED
from .running import REPEATED, train_cells
from .spec import StudySpec
from .store import CellState, Store
from .tracking import MirrorResult, mirror_study
from .tuned import Conditions, Origin, TunedPoint, Tuning, TuningCost
from .tuning import TUNING_SEED, Pair, Trial, TuningSpec, at_edge, extension, geometric_mean, winner
from .tuning_file import write_tuning

SUFFIX = "-tuning"
"""A study's tuning goes by the study's name with this: `study status data_scaling-tuning`."""

Place = tuple[str, int]
"""An arm and a train size."""


@dataclass(frozen=True)
class TuneResult:
    """What a tuning left behind.

    Attributes:
        plan: of the last round, with every trial.
        states: cell id -> state at the end.
        mirror: what became of the W&B mirror, a run per cell.
        tuning: None where cells failed or are not finished.
        path: where the tuning was written.
    """

    plan: Plan
    outcome: Outcome
    states: Mapping[str, CellState]
    mirror: MirrorResult
    tuning: Tuning | None = None
    path: Path | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Zero only if the tuning is finished."""
        return ExitCode.OK if self.tuning is not None else ExitCode.INCOMPLETE


def tune(
    study: Composed,
    store: Store,
    *,
    out: Path | None = None,
    retry_failed: bool = False,
    on_start: Callable[[Plan], None] = lambda plan: None,
    on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> TuneResult:
    """Tunes every arm of a study at every tuned size, in rounds, and writes the file that other studies cite.

    Args:
        out: the file; by default `tuning.yaml` in the folder of the last round.
        retry_failed: train the cells again too whose record says failed or invalid.
        on_start: called with the plan of every round once it is locked.
        on_poll: called a few times per second with the ids of the running cells.
        on_message: called with what a person should know meanwhile.

    Raises:
        ConfigError: nothing was trained; says which field and why.
        StoreError: the results folder cannot be written.
    """
    rules, grids, plans = study.tuning, first_grids(study), list[Plan]()
    wanted = REPEATED | RETRIED if retry_failed else REPEATED
    template = _template(study.spec, rules)
    while True:
        planned = _round(template, rules, grids)
        plans.append(planned)
        outcome = train_cells(planned, study, store, wanted, on_start, on_poll, on_message)
        states = store.states(planned)
        records = store.records(planned)
        if not all(state in ("finished", "diverged") for state in states.values()):
            return TuneResult(planned, outcome, states, _mirror(planned, records, study, store))
        tables = trials_of(planned, records)
        more = {place: extension(trials, rules, study.spec.num_validation) for place, trials in tables.items()}
        if not any(more.values()):
            break
        grids = {place: grids[place] + more[place] for place in grids}
    tuning = _assemble(study.spec, rules, plans, tables, records)
    path = write_tuning(tuning, out or store.study_folder(planned.study_id) / "tuning.yaml")
    return TuneResult(planned, outcome, states, _mirror(planned, records, study, store), tuning, path)


def plan_tuning(study: Composed) -> Plan:
    """The first round: the grid of every arm and size. Trains nothing.

    Raises:
        ConfigError: the study cannot be tuned as asked; says which field and why.
    """
    return _round(_template(study.spec, study.tuning), study.tuning, first_grids(study))


def first_grids(study: Composed) -> dict[Place, tuple[Pair, ...]]:
    """The trials every arm and size begins with."""
    sizes = study.tuning.sizes_of(study.spec.num_train)
    return {(arm, size): study.tuning.grid for arm in study.spec.families for size in sizes}


def trials_of(planned: Plan, records: Sequence[Record]) -> dict[Place, list[Trial]]:
    """The trials of a finished round by arm and size, each with its validation errors in the order of replicates."""
    found: dict[Place, dict[Pair, list[Record]]] = {}
    cells = {cell.id: cell for cell in planned.cells}
    for record in sorted(records, key=lambda record: cells[record.cell_id].replicate):
        cell = cells[record.cell_id]
        trials = found.setdefault((planned.arm(cell).name, cell.num_train), {})
        trials.setdefault((cell.learning_rate, cell.weight_decay), []).append(record)
    return {
        place: [
            Trial(
                learning_rate=rate,
                weight_decay=decay,
                validation_errors=tuple(record.branches[-1].validation_error for record in trials[rate, decay]),
                diverged=sum(record.branches[-1].diverged for record in trials[rate, decay]),
            )
            for rate, decay in sorted(trials)
        ]
        for place, trials in sorted(found.items(), key=lambda item: _order(planned, item[0]))
    }


def _order(planned: Plan, place: Place) -> tuple[int, int]:
    return planned.spec.families.index(place[0]), place[1]


def _template(spec: StudySpec, rules: TuningSpec) -> Plan:
    """The study at the tuned sizes, at its full budget alone: a cell per arm, size and replicate, not yet per trial."""
    name = spec.name + SUFFIX
    if len(name) > 64:
        raise ConfigError(f"name: {spec.name!r} is too long to be tuned: {name!r} would have {len(name)} letters of 64")
    sizes = rules.sizes_of(spec.num_train)
    changes = {
        "name": name,
        "question": f"Which learning rate and weight decay suit each arm of {spec.name} at each size?",
        "cost": "",
        "num_train": sizes,
        "replicates": max(rules.num_replicates(size, sizes) for size in sizes),
        "vary": ("subset", "order", "initialization", "augmentation"),
        "budget": spec.budget.model_copy(update={"branches": (1.0,)}),
        "recipe": spec.recipe.model_copy(update={"tuning": None}),
        "primary_pair": None,
        "few_shot": None,  # it reads the test split
        "ladder": (),  # rates are tuned on images as they are
    }
    try:
        return plan(spec.model_copy(update=changes))
    except PlanError as error:
        where = "" if rules.sizes is None else " (in the tuning, whose train sizes are tuning.sizes)"
        raise PlanError(f"{error}{where}") from None


def _round(template: Plan, rules: TuningSpec, grids: Mapping[Place, Sequence[Pair]]) -> Plan:
    sizes = template.spec.num_train
    cells = tuple(
        _trial_cell(cell, pair)
        for cell in template.cells
        if cell.replicate < rules.num_replicates(cell.num_train, sizes)
        for pair in grids[template.arm(cell).name, cell.num_train]
    )
    notes = tuple(note for note in template.notes if note != FIXED_RECIPE)
    declared = (*notes, _declaration(rules, sizes))
    return Plan(template.spec, template.data, template.arms, cells, declared, pretraining=template.pretraining)


def _trial_cell(cell: Cell, pair: Pair) -> Cell:
    """The cell with a trial's rate and decay, on seeds that no reported replicate can have, and without a test."""
    seeds = {kind: seed + TUNING_SEED for kind, seed in cell.seeds}
    update = {"learning_rate": pair[0], "weight_decay": pair[1], "reads_test": False}
    return cell.model_copy(update=update | {"seeds": cell.seeds.model_copy(update=seeds)})


def _declaration(rules: TuningSpec, sizes: Sequence[int]) -> str:
    """The rules in a sentence; a note of the plan, so that its hash covers them."""
    rates, decays = (
        ", ".join(f"{value:g}" for value in values) for values in (rules.learning_rates, rules.weight_decays)
    )
    replicates = ", ".join(f"{rules.num_replicates(size, sizes)} at N = {size:,}" for size in sizes)
    return (
        f"Tuning: every arm and size begins with learning rates {rates} and weight decays {decays}; while the best "
        f"rate is at an edge, one more is tried beyond it with every decay, up to {rules.max_trials} trials for each "
        f"arm and size. Replicates: {replicates}, none ever reported. The smallest mean log validation error at the "
        "full budget wins; the test split is not read."
    )


def _mirror(planned: Plan, records: Sequence[Record], study: Composed, store: Store) -> MirrorResult:
    return mirror_study(records, study_card(planned), store.study_folder(planned.study_id), study.tracking)


def _assemble(
    spec: StudySpec,
    rules: TuningSpec,
    plans: Sequence[Plan],
    tables: Mapping[Place, list[Trial]],
    records: Sequence[Record],
) -> Tuning:
    last = plans[-1]
    steps = {(last.arm(cell).name, cell.num_train): cell.steps for cell in last.cells}
    arms: dict[str, dict[int, TunedPoint]] = {}
    for (arm, size), trials in tables.items():
        best = winner(trials, spec.num_validation)
        arms.setdefault(arm, {})[size] = TunedPoint(
            steps=steps[arm, size],
            learning_rate=best.learning_rate,
            weight_decay=best.weight_decay,
            validation_error=geometric_mean(best, spec.num_validation),
            at_edge=at_edge(trials, spec.num_validation),
            num_trials=len(trials),
            trials=tuple(trials),
        )
    return Tuning(
        name=spec.name,
        origin=Origin(
            study_id=last.study_id,
            plan_hashes=tuple(one.hash for one in plans),
            protocol_version=last.protocol_version,
            package_versions=tuple(
                sorted({record.environment.code_version for record in records if record.environment})
            ),
        ),
        conditions=Conditions.of(last.spec, last.data),
        rules=rules,
        cost=TuningCost(
            trials=sum(map(len, tables.values())),
            cells=len(last.cells),
            train_flops=sum(record.executed_train_flops for record in records),
        ),
        networks=networks_of(last.arms),
        arms=arms,
    ).sealed()
