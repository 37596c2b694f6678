"""What `study probe` prints: a table per probe, then what has no result and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from studies.counts import counted
from studies.protocol import Permutation

from .summary import Told

if TYPE_CHECKING:  # printing needs nothing that probes
    from .study_probing import ProbingResult

MOST_TOLD = 3
"""Networks with one reason that are named; the rest is counted."""


def probe_tables(result: ProbingResult) -> Iterator[RenderableType]:
    """A table per probe, then what has no result and why, and what to do about it."""
    plan, probing = result.plan, result.probing
    summary = result.summary
    for kind in result.kinds:
        of_kind = summary.loc[summary["probe"] == kind.name]
        if len(of_kind):
            yield _table(kind.title, of_kind, plan.spec.x, [arm.name for arm in plan.arms])
    yield Text(f"{plan.study_id}: probes, {result.coverage.told}", style="bold")
    for reason, titles in _by_reason(probing.inapplicable):
        yield Text(f"nothing to measure: {_several(titles)}: {reason}", style="dim")
    for reason, titles in _by_reason(probing.faults):
        yield Text(f"failed: {_several(titles)}: {reason}", style="red")
    if probing.without_weights:
        yield from _without_weights(result)
    for cell_id, why in result.not_trained_again.items():
        yield Text(f"cell {cell_id} has no weights still: {why}", style="red")
    if result.report is not None:
        yield Text(f"report: {result.report.page}")


def _table(title: str, rows: pd.DataFrame, x: str, arms: Sequence[str]) -> Table:
    """Mean over replicates and half-width of its 95% interval, by arm and size, untrained against trained."""
    table = Table(title=f"{rows['probe'].iloc[0]}: {title}; mean over replicates ± 95% t-interval")
    table.add_column("arm")
    table.add_column("train size" if x == "num_train" else "pretrained on", justify="right")
    names = ["quantity", "unit", "weights"]
    columns = list(rows[names].drop_duplicates().itertuples(index=False, name=None))
    for quantity, unit, weights in columns:
        table.add_column(f"{quantity} ({unit}), {weights}", justify="right")
    points = rows[["arm", "permutation", "size"]].drop_duplicates().itertuples(index=False, name=None)
    for arm, permutation, size in sorted(points, key=lambda point: _in_order(point, arms)):
        same = (rows["arm"] == arm) & (rows["permutation"] == permutation) & (rows["size"] == size)
        of_point = rows[same].set_index(names)
        told = [
            str(Told(*of_point.loc[column, ["mean", "half_width"]])) if column in of_point.index else "-"
            for column in columns
        ]
        label = arm if permutation == "none" else f"{arm}, {permutation} permuted"
        table.add_row(label, f"{size:,.0f}", *told)
    return table


def _in_order(point: tuple[Any, ...], arms: Sequence[str]) -> tuple[int, int, float]:
    """Arms as the study names them, images as they are before permuted ones, small sizes before large ones."""
    arm, permutation, size = point
    return arms.index(arm), get_args(Permutation).index(permutation), float(size)


def _without_weights(result: ProbingResult) -> Iterator[RenderableType]:
    """Which cells, and what to do."""
    plan, reasons = result.plan, result.probing.without_weights
    cells = [cell for cell in plan.cells if cell.id in reasons]
    yield Text(f"{counted(len(cells), 'cell')} of {len(plan.cells)} without the weights to probe:", style="red")
    for cell in cells:
        yield Text(f"  {cell.title}: {reasons[cell.id]}", style="red")
    finished = [cell for cell in cells if not reasons[cell.id].startswith(f"cell {cell.id} is ")]
    if finished:
        known = counted(len(finished), "finished cell")
        yield Text(f"study probe {plan.study_id} --train-again trains {known} again, to the same bits")
    if len(finished) < len(cells):
        yield Text(
            "the others are still to train: give the command that began the study once more, with "
            "engine.keep_checkpoints=true, which keeps their weights"
        )


def _by_reason(reasons: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Titles of one probe whose reasons are the same but for their numbers; told is the first one's."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for title, reason in reasons.items():
        key = title.partition(" of ")[0], re.sub(r"\d[\d,.]*", "#", reason)
        found.setdefault(key, (reason, []))[1].append(title)
    yield from found.values()


def _several(titles: Sequence[str]) -> str:
    """The first titles, and how many more there are."""
    more = len(titles) - MOST_TOLD
    return "; ".join(titles[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
