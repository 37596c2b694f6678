"""Removing what is no longer wanted from a store; never a running cell."""

from __future__ import annotations

from collections.abc import Iterator

from .counts import counted
from .estimate import describe_bytes
from .few_shot_networks import frozen_networks
from .probes.probe_results import result_ids
from .store import Store, bytes_held


def clean_store(
    store: Store, study_id: str | None, *, interrupted: bool, failed: bool, orphans: bool, really: bool
) -> Iterator[str]:
    """Removes what is asked for and says it line by line; with `really` false it only says.

    Args:
        study_id: a study whose plan and report go, and those of its earlier stages that no other study has; its cells
            stay until they are orphans.
        interrupted: checkpoints of unfinished cells that nobody trains.
        failed: cells whose record says failed or invalid, so that a run trains them again.
        orphans: cells, few-shot evaluations and probe results of no plan in the store.
    """
    verb = "removed" if really else "would remove"
    going = [] if study_id is None else _with_stages(store, study_id)
    for one in tuple(going):
        if running := sum(store.is_locked(cell.id) for cell in store.plan(one).cells):
            going.remove(one)
            yield f"{one} is kept: {counted(running, 'cell')} of it {'is' if running == 1 else 'are'} running"
    for one in going:
        size = describe_bytes(bytes_held([store.study_folder(one)]))
        if really:
            store.discard_study(one)
        yield f"{verb} plan and report of {one} ({size}); its cells are kept, --orphans removes those no plan names"
    others = [one for one in store.study_ids() if one not in going] if orphans else []
    plans = [store.plan(one) for one in others]
    planned = {cell.id for plan in plans for stage in plan.stages for cell in stage.cells}
    for cell_id in store.cell_ids():
        state = store.state(cell_id)
        reasons = [
            reason
            for wanted, reason in (
                (orphans and cell_id not in planned, "no plan names it"),
                (interrupted and state == "interrupted", "interrupted"),
                (failed and state in ("failed", "invalid"), state),
            )
            if wanted
        ]
        if not reasons or state == "running":
            continue
        size = describe_bytes(bytes_held([store.cell_folder(cell_id)]))
        if not really or store.discard_cell(cell_id):
            yield f"{verb} cell {cell_id} ({', '.join(reasons)}; {size})"
    if not orphans:
        return
    asked = {
        "few_shot": {network.id for plan in plans for network in frozen_networks(plan)},
        "probes": {result_id for plan in plans for stage in plan.stages for result_id in result_ids(stage)},
    }
    for kind, noun in (("few_shot", "few-shot evaluation"), ("probes", "probe result")):
        for result_id in store.result_ids(kind):
            if result_id not in asked[kind] and (not really or store.discard_result(kind, result_id)):
                yield f"{verb} {noun} {result_id} (no plan names it)"


def _with_stages(store: Store, study_id: str) -> list[str]:
    """The study, and its earlier stages that are in the store and belong to no other study there."""
    own = [stage.study_id for stage in store.plan(study_id).pretraining]
    known = store.study_ids()
    others = [store.plan(one) for one in known if one not in (study_id, *own)] if own else []
    shared = {stage.study_id for plan in others for stage in plan.pretraining}
    return [study_id, *(one for one in own if one in known and one not in shared)]
