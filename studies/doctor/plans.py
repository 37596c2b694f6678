"""The plans of a store: whether each can be read and is unaltered, and whether any cell belongs to none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from studies.counts import counted

from .entries import Inventory
from .finding import Finding, broken, fine, printable, some

if TYPE_CHECKING:
    from studies.store import Store


def plans(store: Store, there: Inventory) -> Iterator[Finding]:
    """Reads every plan."""
    from studies.errors import StoreError

    check, readable, faults = "store: plans", 0, list[str]()
    planned: set[str] = set()
    for study_id in there.studies:
        try:
            plan = store.plan(study_id)
        except StoreError as error:
            faults.append(f"{study_id}: {error}")
            continue
        readable += 1
        planned |= {cell.id for stage in plan.stages for cell in stage.cells}
    for fault in faults:
        advice = "study run STUDY plans it anew and keeps its finished cells; then remove the damaged folder"
        yield broken(check, printable(fault), advice)
    if faults:
        return
    yield fine(check, f"{counted(readable, 'plan')}, as {'it was' if readable == 1 else 'they were'} locked")
    if orphans := [cell_id for cell_id in there.cells if cell_id not in planned]:
        told = f"{counted(len(orphans), 'cell')} of no plan in this store: {some(orphans)}"
        yield fine("store: cells of no plan", told, "study clean --orphans shows them, with --yes removes them")


def results(store: Store, there: Inventory) -> Iterator[Finding]:
    """Reads every few-shot evaluation and every probe result."""
    from studies.errors import StoreError
    from studies.few_shot_results import EVALUATIONS
    from studies.probes.probe_results import PROBED

    faults, total = [], 0
    for kind in (EVALUATIONS, PROBED):
        for result_id in there.results.get(kind.folder, ()):
            total += 1
            try:
                kind.read(store, result_id)
            except StoreError as error:
                faults.append(printable(error))
    for fault in faults:
        yield broken("store: probes and few-shot results", fault, "the same command computes it again")
    if total and not faults:
        yield fine("store: probes and few-shot results", f"{counted(total, 'result')}, all whole")
