"""What the command line prints: tables of a plan, of a study's state and of its outcome."""

from __future__ import annotations

import datetime
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .cell import Cell
from .counts import counted
from .errors import ConfigError
from .estimate import Estimate, describe_bytes, describe_flops, describe_seconds, shares
from .few_shot_networks import frozen_networks
from .few_shot_results import count_results
from .grid import Arm, Plan
from .name_table import NameTable
from .probes.probe_results import coverage
from .records import records_frame, selected_rows
from .start_checks import lost_starts
from .store import CellState, Progress, Store
from .troubled_lines import TROUBLED, option, troubled_line, troubled_lines
from .tuning import TuningSpec
from .tuning_file import read_tuning

if TYPE_CHECKING:  # printing a status needs nothing that runs a study
    from .rounds import TuneResult
    from .running import RunResult

SILENT_MINUTES = 2  # without a note of its progress a running cell is said to be silent

STATE_STYLES: Mapping[CellState, str] = {
    "finished": "green",
    "running": "cyan",
    "diverged": "magenta",
    "invalid": "red",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
    "waiting": "dim",
}


MOST_CELLS = 1000
"""Cells that a table on a terminal lists one by one."""


def plan_tables(plan: Plan, cost: Estimate | None, num_done: int) -> Iterator[RenderableType]:
    """The question, the arms, the sizes and what it all costs."""
    spec, data = plan.spec, plan.data
    yield Text(f"{plan.study_id}: {spec.question}", style="bold")
    yield Text(
        f"data {data.name}: {data.image_size} px, {'colour' if data.in_channels == 3 else 'greyscale'}, "
        f"{data.num_classes} classes; "
        f"{data.num_train:,} training images of which {spec.num_validation:,} validate, {data.num_test:,} test"
    )
    begun = ("begins from", "its cost a run") if any(arm.start is not None for arm in plan.arms) else ()
    columns = ("forward / image", "exact / forward", "parameters", "peak lr", "decay", "replicates", "in all")
    arms = NameTable(
        "arm",
        *("variant", *begun, *columns),
        expendable=("variant", "exact / forward", "replicates", "parameters", "in all", "decay", "forward / image"),
    )
    flops = shares(plan)
    for arm in plan.arms:
        arms.add_row(
            arm.name,
            arm.variant,
            *(_begins_from(plan, arm) if begun else ()),
            describe_flops(arm.forward_flops),
            f"{(3 * arm.forward_flops - arm.first_layer_flops) / arm.forward_flops:.3f}",
            f"{arm.num_parameters:,}",
            _extent(cell.learning_rate for cell in plan.cells if plan.arm(cell) is arm),
            _extent(cell.weight_decay for cell in plan.cells if plan.arm(cell) is arm),
            str(spec.num_replicates(arm.name)),
            describe_flops(flops[arm.name]),
        )
    yield arms
    sizes = Table("train size", "steps x batch", "epochs", "budget C", "spent with all branches")
    for cell in _one_per_length(plan):
        same = {plan.arm(one).name for one in plan.cells if (one.num_train, one.steps) == (cell.num_train, cell.steps)}
        whose = "" if len(same) == len(plan.arms) else f" ({', '.join(sorted(same))})"
        sizes.add_row(
            f"{cell.num_train:,}",
            f"{cell.steps:,} x {cell.batch_size}{whose}",
            f"{cell.steps * cell.batch_size / cell.num_train:,.1f}",
            describe_flops(3 * cell.forward_flops * cell.batch_size * cell.steps),
            f"{cell.executed_steps / cell.steps:.4g} C",
        )
    yield sizes
    if plan.tuning is not None:
        cited, share = plan.tuning, plan.tuning.train_flops / plan.executed_flops
        yield Text(
            f"tuned: learning rates and weight decays of {cited.name}, sha256 {cited.sha256[:12]} ({cited.trials} "
            f"trials; {describe_flops(cited.train_flops)}, {share:.0%} of this study's training)"
        )
    yield Text(f"branches end at {', '.join(f'{fraction:g} C' for fraction in spec.budget.branches)}")
    if spec.ladder:
        yield Text(f"every arm is trained under each permutation of the ladder: {', '.join(spec.ladder)}")
    if (asked := plan.spec.few_shot) is not None:
        shots = ", ".join(map(str, asked.shots))
        yield Text(
            f"few-shot beside: ridge regression on frozen features of {counted(len(frozen_networks(plan)), 'network')}"
            f", {shots} images per class, {counted(asked.draws, 'draw')}; reads the test split"
        )
    cells = counted(len(plan.cells), "cell")
    yield Text(f"{cells}, {num_done:,} done; {describe_flops(plan.executed_flops)} of training in all")
    if cost is not None:
        how = f" ({', '.join(cost.measured_arms)} timed now)" if cost.measured_arms else ""
        yield Text(
            f"{_time_told(cost)}{how}; disk: "
            f"{describe_bytes(cost.bytes_kept)} kept, {describe_bytes(cost.bytes_while_running)} of checkpoints while "
            "running"
        )
    for note in plan.notes:
        yield Text(f"note: {note}")


def stages_in_all(plan: Plan, costs: Sequence[Estimate | None]) -> Iterator[RenderableType]:
    """What all stages of a study come to; nothing where it has one.

    Args:
        plan: of the last stage.
        costs: of every stage.
    """
    if not plan.pretraining:
        return
    earlier = sum(stage.executed_flops for stage in plan.pretraining)
    text = (
        f"{sum(len(stage.cells) for stage in plan.stages)} cells in {len(plan.stages)} stages; "
        f"{describe_flops(earlier + plan.executed_flops)} of training in all, {describe_flops(earlier)} of them "
        "pretraining"
    )
    known = [cost.seconds for cost in costs if cost is not None and cost.seconds is not None]
    if len(known) == len(costs):
        text += f"; estimated {describe_seconds(sum(known))}"
    yield Text(text, style="bold")


def status_tables(plan: Plan, states: Mapping[str, CellState], store: Store) -> Iterator[RenderableType]:
    """Counts per state, then every cell, or of very many a count by arm and size; last what is in trouble, and why."""
    yield Text(f"{plan.study_id}: {_counted(states)}", style="bold")
    if len(plan.cells) > MOST_CELLS:
        yield _states_by_size(plan, states)
        yield Text(
            f"by arm and size, because there are many; study status {plan.study_id}{option(store)} --json has all"
        )
    else:
        yield _cells_table(plan, states, store)
    yield from troubled_lines(plan, states, store)
    done, networks = count_results(plan, store)
    if networks:
        yield Text(f"few-shot: {done} of {counted(networks, 'network')} evaluated")
    probed = coverage(plan, store)
    if probed.asked:
        yield Text(f"probes: {probed.told}")


def _states_by_size(plan: Plan, states: Mapping[str, CellState]) -> Table:
    """How many cells of every arm at every size are in which state."""
    found: dict[tuple[str, int], Counter[CellState]] = {}
    for cell in plan.cells:
        found.setdefault((plan.arm(cell).name, cell.num_train), Counter())[states[cell.id]] += 1
    there = [state for state in STATE_STYLES if any(counts[state] for counts in found.values())]
    table = NameTable("arm", "train size", *there)
    for (arm, size), counts in sorted(found.items()):
        table.add_row(arm, f"{size:,}", *(f"{counts[state]:,}" if counts[state] else "-" for state in there))
    return table


def _cells_table(plan: Plan, states: Mapping[str, CellState], store: Store) -> Table:
    trial = ("peak lr", "decay") if plan.is_tuning else ()
    begun = ("pretrained on",) if any(cell.start is not None for cell in plan.cells) else ()
    permuted = ("permutation",) if plan.spec.ladder else ()
    columns = ("cell", "arm", *permuted, *begun, "train size", *trial, "replicate", "state", "")
    cells = NameTable(*columns, names=("cell", "arm"))
    lost = lost_starts(plan, store)
    for cell in plan.cells:
        state = states[cell.id]
        cells.add_row(
            cell.id,
            plan.arm(cell).name,
            *((cell.permutation,) if permuted else ()),
            *((_pretrained_on(cell),) if begun else ()),
            f"{cell.num_train:,}",
            *((f"{cell.learning_rate:g}", f"{cell.weight_decay:g}") if trial else ()),
            str(cell.replicate),
            Text(state, style=STATE_STYLES[state]),
            lost.get(cell.id) or _remark(cell, state, store),
        )
    return cells


def result_tables(result: RunResult, store: Store) -> Iterator[RenderableType]:
    """Test errors by arm and size, what is missing and why, and where the report lies."""
    plan = result.plan
    frame = selected_rows(records_frame(store.records(plan), plan.spec.tier))
    if len(frame):
        yield _error_table(plan, frame)
    states = Counter(result.states.values())
    yield Text(
        f"{plan.study_id}: {_counted(result.states)}", style="bold" if set(states) == {"finished"} else "bold red"
    )
    yield from _problems(result, store)
    for network, why in result.not_evaluated.items():
        yield Text(f"few-shot of {network}: {why}", style="red")
    for statement in result.report.statements:
        yield Text(statement)
    yield Text(f"W&B: {result.mirror.message}")
    yield Text(f"report: {result.report.page}")


def trial_tables(plan: Plan, rules: TuningSpec, cost: Estimate | None, num_done: int) -> Iterator[RenderableType]:
    """What a tuning tries, and what its first round costs."""
    yield Text(f"{plan.study_id}: {plan.spec.question}", style="bold")
    sizes = plan.spec.num_train
    table = Table("train size", "arms", "trials per arm", "replicates", "steps x batch", "cells")
    for size in sizes:
        cells = [cell for cell in plan.cells if cell.num_train == size]
        table.add_row(
            f"{size:,}",
            str(len(plan.arms)),
            f"{len(rules.grid)}, at most {rules.max_trials}",
            str(rules.num_replicates(size, sizes)),
            f"{_extent(cell.steps for cell in cells)} x {cells[0].batch_size}",
            f"{len(cells):,}",
        )
    yield table
    most = plan.executed_flops * rules.max_trials / len(rules.grid)
    yield Text(
        f"{counted(len(plan.cells), 'cell')}, {num_done:,} done; {describe_flops(plan.executed_flops)} of training in "
        f"the first round, at most {describe_flops(most)} with all extensions"
    )
    if cost is not None:
        yield Text(f"{_time_told(cost)} for what is left of this round")
    for note in plan.notes:
        yield Text(f"note: {note}")


def _time_told(cost: Estimate) -> str:
    workers = counted(cost.num_workers, "worker")
    if cost.seconds is None:
        return f"time on {workers} unknown: no such cells have been trained on a GPU; `study bench gpu` measures it"
    return f"estimated {describe_seconds(cost.seconds)} on {workers}"


def tuned_tables(result: TuneResult, store: Store) -> Iterator[RenderableType]:
    """Winners by arm and size, or what is missing and why, and where the file lies."""
    plan, tuning = result.plan, result.tuning
    if tuning is not None:
        sizes = [f"N = {size:,}" for size in plan.spec.num_train]
        title = "best on validation: peak learning rate, weight decay (validation error, trials)"
        table = NameTable("arm", *sizes, title=title)
        for arm, points in tuning.arms.items():
            table.add_row(
                arm,
                *(
                    f"{point.learning_rate:g}{' (edge)' if point.at_edge else ''}, {point.weight_decay:g} "
                    f"({point.validation_error:.3f}, {point.num_trials})"
                    for point in points.values()
                ),
            )
        yield table
        cost = tuning.cost
        trials, cells = counted(cost.trials, "trial"), counted(cost.cells, "cell")
        yield Text(f"{trials}, {cells}, {describe_flops(cost.train_flops)} of training")
    states = set(result.states.values())
    yield Text(f"{plan.study_id}: {_counted(result.states)}", style="bold" if states == {"finished"} else "bold red")
    yield from _problems(result, store)
    yield Text(f"W&B: {result.mirror.message}")
    if tuning is None:
        yield Text("not finished: the same command continues, with --retry failed failed cells are trained again")
    else:
        yield Text(f"tuning: {result.path} (sha256 {tuning.sha256[:12]}); cite it with recipe.tuning={result.path}")


def tuning_list(tunings: Mapping[str, Path]) -> Iterator[RenderableType]:
    """The tunings that a study can cite by name."""
    table = NameTable(
        *("tuning", "made for", "arms", "train sizes", "trials", "sha256"),
        names=("tuning",),
        title="recipe.tuning=NAME cites one",
    )
    for name, path in tunings.items():
        try:
            tuning = read_tuning(str(path))
        except ConfigError as error:  # one damaged file must not hide all others
            table.add_row(name, Text(str(error).removeprefix("recipe.tuning: "), style="red"))
            continue
        made = tuning.conditions
        sizes = sorted({size for points in tuning.arms.values() for size in points})
        table.add_row(
            name,
            f"{made.data}, {made.image_size} px, {made.tier}",
            ", ".join(tuning.arms),
            ", ".join(f"{size:,}" for size in sizes),
            str(tuning.cost.trials),
            tuning.sha256[:12],
        )
    if tunings:
        yield table


def _problems(result: RunResult | TuneResult, store: Store) -> Iterator[RenderableType]:
    """Cells that have no result and why, then what a person should know of the run itself."""
    for stage in result.plan.stages:
        states = result.states if stage is result.plan else store.states(stage)
        for cell in stage.cells:
            if states[cell.id] not in TROUBLED and (why := result.outcome.incomplete.get(cell.id)):
                yield troubled_line(cell, "not finished", why, store)
        yield from troubled_lines(stage, states, store)
    for warning in result.outcome.warnings:
        yield Text(f"warning: {warning}", style="yellow")


def _extent(values: Iterable[float]) -> str:
    """One value, or the smallest and the largest."""
    found = sorted(set(values))
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"


def _error_table(plan: Plan, frame: pd.DataFrame) -> Table:
    by = plan.spec.x
    sizes = sorted({int(size) for size in frame[by].dropna()})
    laddered = bool(plan.spec.ladder)
    table = NameTable(
        "arm",
        *(("permutation",) if laddered else ()),
        *(_size_heading(size, by) for size in sizes),
        title="test error in percent, of the branch chosen on validation: arithmetic mean (standard deviation)"
        + ("" if by == "num_train" else "; by images pretrained on"),
    )
    for arm, rung in itertools.product(plan.arms, plan.spec.rungs):
        own = frame[(frame["arm"] == arm.name) & (frame["permutation"] == rung)]
        texts = []
        for size in sizes:
            errors = own.loc[own[by] == size, "test_error"]
            spread = f" ({100 * errors.std(ddof=1):.1f})" if len(errors) > 1 else ""
            texts.append(f"{100 * errors.mean():.1f}{spread}" if len(errors) else "-")
        table.add_row(arm.name, *((rung,) if laddered else ()), *texts)
    return table


def _size_heading(size: int, x: str) -> str:
    if x == "num_train":
        return f"N = {size:,}"
    return f"{size:,}" if size else "scratch"


def _one_per_length(plan: Plan) -> list[Cell]:
    """A cell for every number of steps at every size; arms of unequal FLOPs take their own."""
    lengths = {(cell.num_train, -cell.steps): cell for cell in plan.cells}
    return [lengths[key] for key in sorted(lengths)]


def _counted(states: Mapping[str, CellState]) -> str:
    counts = Counter(states.values())
    told = ", ".join(f"{counts[state]} {state}" for state in STATE_STYLES if counts[state])
    return f"{counted(len(states), 'cell')}: {told}"


def _begins_from(plan: Plan, arm: Arm) -> tuple[str, str]:
    """What an arm begins from, and what that costs."""
    if arm.start is None:
        return "drawn weights", "-"
    costs = sorted(
        {
            cell.start.train_flops
            for cell in plan.cells
            if plan.arm(cell) is arm and cell.start and cell.start.train_flops
        }
    )
    span = " to ".join(describe_flops(cost) for cost in dict.fromkeys((*costs[:1], *costs[-1:])))
    at = f", sized for {arm.designed_for} px" if arm.designed_for else ""
    return f"{arm.start}{at}", span or "unknown"


def _pretrained_on(cell: Cell) -> str:
    """How many images the start of a cell was trained on."""
    if cell.start is None:
        return "-"
    return "a file" if cell.start.num_pretrain is None else f"{cell.start.num_pretrain:,}"


def _remark(cell: Cell, state: CellState, store: Store) -> str:
    if state == "running":
        return _how_far(store.progress(cell.id))
    if state in ("failed", "invalid", "diverged") and (record := store.record(cell.id)) is not None:
        return record.reason
    return ""


def _how_far(progress: Progress | None) -> str:
    """Of a running cell: its step; or that it has taken none yet, and since when."""
    if progress is None:
        return "starting"
    step = f"step {progress.step} of {progress.total_steps}"
    minutes = int(time.time() - progress.updated) // 60
    silent = f", no progress for {minutes} minutes" if minutes >= SILENT_MINUTES else ""
    if not progress.starting:
        return step + silent
    since = datetime.datetime.fromtimestamp(progress.updated, datetime.UTC)
    return f"starting{f' from {step}' if progress.step else ''}, since {since:%Y-%m-%d %H:%M:%S} UTC"
