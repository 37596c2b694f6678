"""Finished cells trained again for the weights that were not kept: the same bits, or nothing changes.

It happens in a store of its own, `STORE/again`, by the engine that trains everything, so that it is resumed like all
training, and removed once nothing in it waits to be continued. No test image is read there. Weights are taken over only
if every branch has the SHA-256 that the cell's record states; the record keeps all of its numbers, and only learns that
its weights are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

from .cell import Cell
from .engine_spec import EngineSpec
from .engines import LocalEngine
from .errors import StudyError
from .files import is_still_there
from .grid import Plan
from .kept_weights import why_not_kept
from .records import Record
from .store import Store
from .tracking import TrackingSpec

FOLDER = "again"
"""Of the store in a store; what is in it is only of use until the cell is trained."""
IN_USE = "in-use"
"""File in it, on which every process that works there has a shared lock, and who removes it all an exclusive one."""
BUSY_SECONDS = 1.0  # between two looks whether another process has trained what is wanted


def cells_to_train_again(plan: Plan, store: Store) -> list[Cell]:
    """The finished cells of a plan whose final weights are missing or not what they were; no diverged ones."""
    found = []
    for cell in plan.cells:
        with contextlib.suppress(StudyError):  # a damaged record is for `study run`
            record = store.record(cell.id)
            finished = record is not None and record.status in ("finished", "diverged")
            if finished and not record.branches[-1].diverged and why_not_kept(cell.id, store):  # type: ignore[union-attr]
                found.append(cell)
    return found


def train_for_weights(
    plan: Plan,
    store: Store,
    engine: EngineSpec,
    *,
    on_start: Callable[[Plan, Store], None] = lambda plan, store: None,
    on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> dict[str, str]:
    """Trains the cells of `cells_to_train_again` and takes over the weights that come out as before.

    Args:
        plan: of the study. What its cells begin from is trained again first, where it is gone too.
        store: where records and weights lie.
        engine: workers and device; lanes are those that the cell was trained with.
        on_start: called with the plan that is trained and the store it is trained in.
        on_poll: called a few times per second with the ids, in that store, of the running cells.
        on_message: called when another process that trains cells of the plan again is waited for.

    Returns:
        Cell id -> why it has no weights still.

    Raises:
        StoreError: the results folder cannot be written.
    """
    cells, reasons = cells_to_train_again(plan, store), dict[str, str]()
    origins = {cell.start.origin for cell in cells if cell.start is not None}
    for stage in plan.pretraining:
        gone = replace(stage, cells=tuple(cell for cell in stage.cells if cell.id in origins))
        if gone.cells:
            reasons |= train_for_weights(gone, store, engine, on_start=on_start, on_poll=on_poll, on_message=on_message)
    scratch = Store(store.root / FOLDER)
    if cells:
        with _in_use(scratch), _only_one(scratch, plan.study_id, on_message):
            cells = cells_to_train_again(plan, store)  # without those that another process has made meanwhile
            reasons |= _train(plan, cells, store, _scratch(store, origins), engine, on_start, on_poll)
    _remove_if_done(scratch)
    return reasons


def _train(
    plan: Plan,
    cells: Sequence[Cell],
    store: Store,
    scratch: Store,
    engine: EngineSpec,
    on_start: Callable[[Plan, Store], None],
    on_poll: Callable[[Sequence[str]], None],
) -> dict[str, str]:
    """Trains cells in the store in the store and takes their weights over; why not, by cell."""
    reasons = dict[str, str]()
    for settings, group in _by_loop(cells, store, engine):
        again = {cell.model_copy(update={"reads_test": False}).id: cell for cell in group}
        stage = replace(
            plan, cells=tuple(cell.model_copy(update={"reads_test": False}) for cell in group), pretraining=()
        )
        scratch.lock_plan(stage)
        on_start(stage, scratch)
        for one in again:
            scratch.discard_cell(one, ("failed", "damaged"))
        waiting = [one for one in again if scratch.state(one) not in ("finished", "diverged", "invalid")]
        outcome = LocalEngine(scratch, stage, settings, TrackingSpec(kind="off"), on_poll).run(waiting)
        for again_id, cell in again.items():
            why = outcome.incomplete.get(again_id) or _take_over(cell, again_id, scratch, store)
            if why:
                reasons[cell.id] = why
        scratch.discard_study(stage.study_id)
    return reasons


def _in_use(scratch: Store) -> IO[bytes]:
    """A file: for as long as it is open no process removes the store that is trained in; several may have it open."""
    path = scratch.root / IN_USE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+b")
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # on a file system without locks training is refused in words
            fcntl.flock(file, fcntl.LOCK_SH)
        if is_still_there(file, path):
            return file
        file.close()  # it was removed meanwhile, and locks nothing


@contextlib.contextmanager
def _only_one(scratch: Store, study_id: str, on_message: Callable[[str], None]) -> Iterator[None]:
    """Held while cells of a study are trained again: two processes would take plan and cells from each other."""
    told = False
    with (scratch.root / f"{study_id}.lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    on_message(f"another process trains cells of {study_id} again, which is waited for")
                told = True
                time.sleep(BUSY_SECONDS)
                continue
            except OSError:  # as of `_in_use`
                pass
            yield
            return


def _remove_if_done(scratch: Store) -> None:
    """Removes the store that was trained in, unless a cell in it is to be continued, or a process is at work there."""
    with contextlib.suppress(OSError), (scratch.root / IN_USE).open("a+b") as file:  # not there, or somebody's
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = [one for one in scratch.cell_ids() if not (scratch.root / "cells" / one).is_symlink()]
        if not waiting and not scratch.study_ids():
            shutil.rmtree(scratch.root, ignore_errors=True)  # of links the links alone


def _scratch(store: Store, origins: Iterable[str]) -> Store:
    """The store that is trained in; what cells begin from lies in it by a link."""
    scratch = Store(store.root / FOLDER)
    links = {Path("starts"): Path("../starts")}
    links |= {Path("cells") / origin: Path("../../cells") / origin for origin in origins}
    for link, target in links.items():
        path = scratch.root / link
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.symlink_to(target, target_is_directory=True)
    return scratch


def _by_loop(cells: Sequence[Cell], store: Store, engine: EngineSpec) -> Iterator[tuple[EngineSpec, list[Cell]]]:
    """Cells with the settings that give each the loop it was trained by: alone or in lanes, on a CPU or not."""
    groups: dict[tuple[int | Literal["auto"], Literal["auto", "cpu", "cuda"]], list[Cell]] = {}
    for cell in cells:
        record = store.record(cell.id)
        assert record is not None
        where = record.environment
        lanes: int | Literal["auto"] = "auto"
        device = engine.device
        if where is not None and where.device.startswith("cpu"):
            device = "cpu"
            if where.lanes is not None:
                lanes = 1 if where.lanes == 0 else max(2, where.lanes)  # on a CPU their number changes no bit
        groups.setdefault((lanes, device), []).append(cell)
    for (lanes, device), group in groups.items():
        yield engine.model_copy(update={"lanes": lanes, "device": device, "keep_checkpoints": True}), group


def _take_over(cell: Cell, again_id: str, scratch: Store, store: Store) -> str | None:
    """Moves the weights of a cell that was trained again to its record; why not, if they are other ones."""
    with store.lock(cell.id) as mine:
        if not mine:
            return "another process trains it; run the same command once that has ended"
        # Read under the lock: what another process wrote before is not written over.
        found, record = scratch.record(again_id), store.record(cell.id)
        if found is None or record is None:
            return f"it was trained again, but its record is gone ({scratch.state(again_id)}, {store.state(cell.id)})"
        if why := _why_other(found, record):
            scratch.discard_cell(again_id)
            return why
        for path in sorted(scratch.cell_folder(again_id).glob("weights-*")):
            path.replace(store.cell_folder(cell.id) / path.name)
        store.write_record(record.model_copy(update={"kept_sha256": found.kept_sha256}))
    scratch.discard_cell(again_id)
    return None


def _why_other(found: Record, record: Record) -> str | None:
    """Why the weights of a training are not those of a record, in words; None if they are, bit for bit."""
    if found.status == "failed":
        return f"it failed when it was trained again: {found.reason}"
    before, after = _sums(record), _sums(found)
    if before == after:
        return None
    differing = ", ".join(f"{branch:g} C" for branch in before if before[branch] != after.get(branch))
    return (
        f"trained again it has other weights than its record states (at {differing}), so they are not its own and were "
        f"not kept; it was trained {_where(record)}, now {_where(found)}. Its record is as it was. To probe such a "
        "study, train it anew into another folder: study run NAME engine.keep_checkpoints=true --store FOLDER"
    )


def _sums(record: Record) -> Mapping[float, str]:
    return {branch.fraction: branch.weights_sha256 for branch in record.branches}


def _where(record: Record) -> str:
    one = record.environment
    return "somewhere" if one is None else f"on {one.device} by torch {one.torch} and {one.code_version}"
