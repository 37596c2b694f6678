"""The verbs that plan and train: `study plan`, `study run`, `study tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from .console import ConfigDirOption, JsonOption, StoreOption, err, out, print_json
from .counts import counted
from .retry import RetryOption, asks_to_retry

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .compose import Composed
    from .grid import Plan
    from .store import Store

StudyArgument = Annotated[str, typer.Argument(help="Name of a study file, see `study list`.")]
OverridesArgument = Annotated[
    Optional[list[str]],  # noqa: UP045  # typer reads this form
    typer.Argument(help="Overrides such as data=cifar10 num_train=[100,1000] engine.workers=1."),
]


def plan(
    study: StudyArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = Path("results"),
    config_dir: ConfigDirOption = None,
    as_json: JsonOption = False,
    timing: Annotated[bool, typer.Option(help="Measure a few steps per arm for the estimated time.")] = True,
    tuning: Annotated[bool, typer.Option("--tuning", help="Plan what `study tune` would do instead.")] = False,
) -> None:
    """Validate a study and print its cells, steps, FLOPs, time and disk, without training."""
    from . import asking

    composed = _composed(study, overrides, config_dir)
    if tuning:
        from . import rounds

        planned = rounds.plan_tuning(composed)
    else:
        planned = asking.plan(composed.spec)

    from . import readiness  # what follows loads much, and a mistake has been named by now
    from .estimate import estimate
    from .jobs import cells_at_once
    from .store import Store
    from .terminal import plan_tables, stages_in_all, trial_tables

    found = Store(store)
    available = readiness.check_machine(planned, composed.engine, found)
    records = found.all_records()
    stages = []
    for stage in planned.stages:
        states = found.states(stage)
        done = frozenset(cell_id for cell_id, state in states.items() if state in ("finished", "diverged"))
        cost = None
        if timing:
            at_once = cells_at_once(stage.cells, composed.engine, available)
            workers = len(available)
            cost = estimate(stage, records, workers, num_running=at_once, done=done, device=available[0])
        stages.append((stage, cost, done))
    if as_json:
        told = [
            stage.to_json() | {"estimate": vars(cost) if cost else None, "done": sorted(done)}
            for stage, cost, done in stages
        ]
        print_json(told[-1] | {"pretraining": told[:-1]})
        return
    for stage, cost, done in stages:
        tried = stage.is_tuning
        parts = trial_tables(stage, composed.tuning, cost, len(done)) if tried else plan_tables(stage, cost, len(done))
        for part in parts:
            out.print(part)
    for part in stages_in_all(planned, [cost for _, cost, _ in stages]):
        out.print(part)


def run(
    study: StudyArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = Path("results"),
    config_dir: ConfigDirOption = None,
    retry: RetryOption = None,
) -> None:
    """Train every cell that has no record yet, then write the report. The same command continues a killed run.

    With --retry failed just the cells whose record says failed or invalid are trained, again; their records are kept as
    record.failed-*.json. A diverged cell is a result, which counts at chance, and not a failure.
    """
    from . import asking, running
    from .progress import StagesProgress
    from .terminal import result_tables

    again = asks_to_retry(retry)
    composed, found = _for_training(study, overrides, config_dir, store)
    planned = asking.plan(composed.spec)

    with StagesProgress(found, out) as progress:

        def on_start(stage: Plan) -> None:
            notes = (f"note: {note}" for note in stage.notes)
            progress.begin(stage, [_locked(stage, stage.study_id, found), *notes])

        result = running.run(
            composed,
            found,
            planned=planned,
            retry_failed=again,
            on_start=on_start,
            on_poll=progress.update,
            on_message=_tell,
        )
    for part in result_tables(result, found):
        out.print(part)
    raise SystemExit(result.exit_code)


def tune(
    study: StudyArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = Path("results"),
    config_dir: ConfigDirOption = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="File to write; by default tuning.yaml in the folder of the tuning."),
    ] = None,
    retry: RetryOption = None,
) -> None:
    """Find learning rate and weight decay of every arm on validation, into a file that studies cite.

    The same command continues a killed tuning; with --retry failed it trains failed and invalid cells again too. The
    test split is never read.
    """
    from . import rounds
    from .progress import StagesProgress
    from .terminal import trial_tables, tuned_tables

    again = asks_to_retry(retry)
    composed, found = _for_training(study, overrides, config_dir, store)
    rounds_begun: list[Plan] = []

    with StagesProgress(found, out) as progress:

        def on_start(locked: Plan) -> None:
            if not locked.is_tuning:
                progress.begin(locked, [_locked(locked, f"stage {locked.spec.name}", found)])
                return
            rounds_begun.append(locked)
            said: list[RenderableType] = [_locked(locked, f"round {len(rounds_begun)}", found)]
            if len(rounds_begun) == 1:
                done = sum(state in ("finished", "diverged") for state in found.states(locked).values())
                said = [*trial_tables(locked, composed.tuning, None, done), *said]
            progress.begin(locked, said)

        result = rounds.tune(
            composed,
            found,
            out=output,
            retry_failed=again,
            on_start=on_start,
            on_poll=progress.update,
            on_message=_tell,
        )
    for part in tuned_tables(result, found):
        out.print(part)
    raise SystemExit(result.exit_code)


def _for_training(
    study: str, overrides: list[str] | None, config_dir: Path | None, store: Path
) -> tuple[Composed, Store]:
    """The study and its store, with the engine's first worker on its way while the study is planned."""
    from .engines.local import warm_up
    from .store import Store

    composed = _composed(study, overrides, config_dir)
    if composed.engine.kind == "local":
        warm_up()
    return composed, Store(store)


def _composed(study: str, overrides: list[str] | None, config_dir: Path | None) -> Composed:
    """The study, after saying what its overrides did besides what they say."""
    from .compose import compose_study

    composed = compose_study(study, overrides or [], config_dir)
    for note in composed.notes:
        _tell(f"note: {note}")
    return composed


def _locked(plan: Plan, called: str, store: Store) -> str:
    return f"{called}: {counted(len(plan.cells), 'cell')}, plan locked in {store.study_folder(plan.study_id)}"


def _tell(message: str) -> None:
    err.print(message, markup=False)
