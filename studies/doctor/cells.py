"""The cells of a store: records and predictions against their checksums, locks and their holders, leftovers."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from studies.counts import counted
from studies.estimate import describe_bytes

from .entries import Inventory
from .finding import Finding, broken, fine, some, warning
from .holders import describe, holders

if TYPE_CHECKING:
    from studies.store import Store

SILENT_SECONDS = 3600.0
"""A running cell that has told nothing for so long may hang: compiling or starting takes minutes at most."""


@dataclass
class Cells:
    """What is true of the cells of a store.

    Attributes:
        states: how many are in which state.
        damaged: what is wrong with records and predictions.
        running: cell id -> who trains it.
        silent: ids of running cells that have told nothing for long.
    """

    states: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    running: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)


def survey(store: Store, cell_ids: list[str]) -> Cells:
    """Reads every record and its predictions, and asks for every lock.

    Args:
        cell_ids: of cells whose files can be opened.
    """
    found = Cells()
    for cell_id in cell_ids:
        state = _state(store, cell_id, found)
        found.states[state] += 1
        if store.is_locked(cell_id):
            own = holders(store.cell_folder(cell_id) / "lock")
            found.running[cell_id] = ", ".join(map(describe, own)) or "a process this system does not show"
        if state == "running":
            progress = store.progress(cell_id)
            if progress is not None and time.time() - progress.updated > SILENT_SECONDS:
                found.silent.append(cell_id)
    return found


def _state(store: Store, cell_id: str, found: Cells) -> str:
    from studies.errors import StoreError
    from studies.files import sha256_of

    try:
        record = store.record(cell_id)
        if record is not None and record.predictions_sha256:
            path = store.predictions_path(cell_id)
            if not path.exists():
                found.damaged.append(f"{path} is missing")
            elif sha256_of(path) != record.predictions_sha256:
                found.damaged.append(f"{path} is not what its record states")
    except (StoreError, OSError) as error:
        found.damaged.append(str(error).partition(": run the study again")[0])
        return "damaged"
    return store.state(cell_id) if record is None else record.status


def records(cells: Cells) -> Iterator[Finding]:
    """What is told of records, damaged and failed ones first."""
    states = cells.states
    total = sum(states.values())
    if cells.damaged:
        yield broken(
            "store: checksums",
            f"{counted(len(cells.damaged), 'damaged file')}: {some(cells.damaged)}",
            "run the study again: it sets a damaged record aside and trains that cell anew; for damaged predictions "
            "delete the record beside them first",
        )
    else:
        yield fine("store: checksums", f"{counted(total, 'cell')}: every record and its predictions are whole")
    told = ", ".join(f"{count:,} {state}" for state, count in states.most_common()) or "none yet"
    if troubled := [state for state in ("failed", "invalid") if states[state]]:
        advice = "`study status STUDY` says why; the command that trained them, and --retry failed, trains just those"
        yield warning("store: cells", f"{told} ({' and '.join(troubled)} ones are in no curve)", advice)
    else:
        yield fine("store: cells", told)


def running(cells: Cells) -> Iterator[Finding]:
    """Who holds which lock, and who has said nothing for long."""
    by_holder = Counter(cells.running.values())
    told = "; ".join(f"{counted(count, 'cell')} by {who}" for who, count in by_holder.most_common(4))
    if cells.silent:
        hours = datetime.timedelta(seconds=SILENT_SECONDS)
        found = f"{told}; no step for {hours} in {some(cells.silent)}"
        yield warning(
            "store: locks held", found, "study logs CELL; if it hangs end its process, and the cell continues"
        )
    else:
        yield fine("store: locks held", told or "none")


def leftovers(store: Store, there: Inventory, cells: Cells) -> Iterator[Finding]:
    """Temporary files of processes that were killed; those of running cells are in use."""
    dead = [name for name in there.temporary if name.split("/")[1] not in cells.running]
    size = sum(path.stat().st_size for path in map(store.root.joinpath, dead) if path.exists())
    advice = ""
    if dead:
        advice = "harmless; a cell removes its own when it is finished, others can be deleted while nothing runs"
    told = f"{counted(len(dead), 'temporary file')} ({describe_bytes(size)}): {some(dead)}" if dead else "none"
    yield fine("store: leftovers of killed processes", told, advice)
    if waiting := cells.states["interrupted"]:
        advice = "the command that was killed continues them; study clean --interrupted --yes gives them up"
        yield fine("store: interrupted cells", f"{counted(waiting, 'cell')} with a checkpoint", advice)
