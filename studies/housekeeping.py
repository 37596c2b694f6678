"""Removing what is no longer wanted from a store; never a running cell."""

from __future__ import annotations

from collections.abc import Iterator

from .estimate import describe_bytes
from .store import Store, bytes_held


def clean_store(
    store: Store, study_id: str | None, *, interrupted: bool, failed: bool, orphans: bool, really: bool
) -> Iterator[str]:
    """Removes what is asked for and says it line by line; with `really` false it only says.

    Args:
        study_id: a study whose plan and report go; its cells stay until they are orphans.
        interrupted: checkpoints of unfinished cells that nobody trains.
        failed: cells whose record says failed or invalid, so that a run trains them again.
        orphans: cells of no plan in the store.
    """
    verb = "removed" if really else "would remove"
    if study_id is not None:
        size = describe_bytes(bytes_held([store.study_folder(study_id)]))
        if really:
            store.discard_study(study_id)
        yield (
            f"{verb} plan and report of {study_id} ({size}); its cells are kept, --orphans removes those no plan names"
        )
    others = [one for one in store.study_ids() if one != study_id] if orphans else []
    planned = {cell.id for one in others for cell in store.plan(one).cells}
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
