"""The results folder: a folder per cell id, a folder per study. The store is the truth: no daemon, no database.

    STORE/cells/<cell id>/      record.json, predictions.npz; while it runs: lock, checkpoint.*, progress.json, log.txt
    STORE/studies/<study id>/   plan.json, report/
    STORE/starts/<sha256>.json  where a file of weights lies that cells begin from
    STORE/few_shot/<id>/        result.json: what the frozen features of a network are worth on a data set
    STORE/probes/<id>/          result.json, arrays.npz: what one probe says of a network

A record is written once, whole. A cell is trained by whoever holds its lock; `flock` is free the moment its holder
dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from .cell import Cell
from .errors import ConfigError, NotInStoreError, PlanError, StoreError
from .files import is_still_there, leftovers, read_bytes, remove_leftovers, sha256_of, write_atomically, write_text
from .grid import Plan
from .record_file import read_record, record_text
from .records import Record

CellState = Literal["finished", "diverged", "invalid", "failed", "running", "interrupted", "waiting", "damaged"]
BYTES_OF_CELL = 1_000  # in a plan, about
LOOKS, LOOK_SECONDS = 3, 0.02  # for how long a lock is asked for again, which a look at a cell takes for a moment
Labelled = tuple[str, Mapping[str, Any]]
"""Id of a cell, and the labels that its plan gives it: they may differ from those of the plan it was trained for."""
DAMAGED: frozenset[CellState] = frozenset({"damaged"})


@dataclass(frozen=True)
class Progress:
    """How far a running cell is, in optimiser steps of trunk and cooldowns.

    Attributes:
        updated: seconds since the epoch.
        starting: a worker has taken the cell up and not trained on it yet; `step` is what an earlier one had reached.
    """

    step: int
    total_steps: int
    updated: float
    starting: bool = False


class Store:
    """Records, plans, locks and leftovers under one folder.

    Raises:
        StoreError: no folder can be there.
    """

    def __init__(self, root: Path | str = "results") -> None:
        self.root = Path(root)
        try:
            self.root.stat()
        except FileNotFoundError:
            pass  # it is made when something is written
        except (OSError, ValueError) as error:  # a name too long, a circle of links, a byte no name may have
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(f"{str(root)[:100]!r} cannot be a folder ({why}): choose another with --store") from None

    # --- cells ---------------------------------------------------------------------------------------------------

    def cell_folder(self, cell_id: str) -> Path:
        """Folder of one cell."""
        return self.root / "cells" / cell_id

    def record(self, cell_id: str) -> Record | None:
        """The record of a cell, or None where there is none yet.

        Raises:
            StoreError: the record is there but damaged.
        """
        path = self.cell_folder(cell_id) / "record.json"
        try:
            record = read_record(read_bytes(path))
            if record.cell_id != cell_id:
                raise ValueError(f"it belongs to cell {record.cell_id}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise StoreError(
                f"{path} is damaged ({_first_line(error)}): run the study again to set it aside and train the cell anew"
            ) from None
        return record

    def set_aside_record(
        self, cell_id: str, states: Collection[CellState] = DAMAGED, why: str = "damaged"
    ) -> Path | None:
        """Renames a record that cannot be used, so that the cell is trained again; nothing is deleted.

        Args:
            states: of which the cell must be one by now.
            why: a word for the new name.

        Returns:
            The new name, or None where another process has the cell or has seen to it already.
        """
        path = self.cell_folder(cell_id) / "record.json"
        with self.lock(cell_id) as mine:
            if not mine or self.state(cell_id) not in states:
                return None
            return path.rename(path.with_name(f"record.{why}-{time.time_ns()}.json"))

    def was_set_aside(self, cell_id: str, why: str) -> bool:
        """Whether a record of the cell was renamed by `set_aside_record` with this word."""
        return any(self.cell_folder(cell_id).glob(f"record.{why}-*.json"))

    def write_record(self, record: Record, predictions: dict[str, npt.NDArray[Any]] | None = None) -> Record:
        """Writes predictions, then the record that names their hash, each whole or not at all."""
        folder = self.cell_folder(record.cell_id)
        if predictions is not None:
            path = folder / "predictions.npz"
            write_atomically(path, lambda file: np.savez_compressed(file, **predictions))  # type: ignore[arg-type]
            record = record.model_copy(update={"predictions_sha256": sha256_of(path)})
        text = record_text(record)
        write_atomically(folder / "record.json", lambda file: file.write(text))
        return record

    def predictions_path(self, cell_id: str) -> Path:
        """Where the predictions of a cell lie."""
        return self.cell_folder(cell_id) / "predictions.npz"

    def weights_path(self, cell_id: str, branch: float) -> Path:
        """Where the final weights of a branch lie if they were asked for."""
        return self.cell_folder(cell_id) / f"weights-{branch:g}.pt"

    def note_start(self, sha256: str, path: Path) -> None:
        """Notes where a file of weights lies that cells begin from; it may have moved since their plan was locked."""
        write_text(self.root / "starts" / f"{sha256}.json", json.dumps({"path": str(path)}))

    def start_path(self, sha256: str) -> Path:
        """Where the file of weights with this content lay last.

        Raises:
            StoreError: nobody has noted it.
        """
        note = self.root / "starts" / f"{sha256}.json"
        try:
            return Path(json.loads(note.read_bytes())["path"])
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                f"{note} does not say where the weights with SHA-256 {sha256[:12]}... lie; run the study again"
            ) from None

    @contextlib.contextmanager
    def lock(self, cell_id: str) -> Iterator[bool]:
        """Takes the cell's lock for as long as the context lasts; yields False where somebody else holds it.

        The holder must not fork: a child would keep the lock after its parent's death.
        """
        with self._locked(self.cell_folder(cell_id)) as mine:
            yield mine

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[bool]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "lock").open("a+b")
        except OSError as error:
            raise StoreError(f"{folder}: cannot be written: {error.strerror}") from error
        with file:
            mine = _try_lock(file, folder)
            for _ in range(LOOKS):
                if not mine:  # somebody may only be looking whether it is free
                    time.sleep(LOOK_SECONDS)
                    mine = _try_lock(file, folder)
            # A lock file that was removed meanwhile locks nothing: whoever comes next makes another.
            yield mine and is_still_there(file, folder / "lock")

    def is_locked(self, cell_id: str) -> bool:
        """Whether some process is training the cell at this moment."""
        return _is_locked(self.cell_folder(cell_id))

    def state(self, cell_id: str) -> CellState:
        """What is true of a cell right now."""
        try:
            record = self.record(cell_id)
        except StoreError:
            return "damaged"
        if record is not None:
            return record.status
        if self.is_locked(cell_id):
            return "running"
        has_checkpoint = any(self.cell_folder(cell_id).glob("checkpoint*.pt"))
        return "interrupted" if has_checkpoint else "waiting"

    def write_progress(self, cell_id: str, step: int, total_steps: int, *, starting: bool = False) -> None:
        """Tells other processes how far a running cell is; best effort."""
        with contextlib.suppress(StoreError):
            text = json.dumps(asdict(Progress(step, total_steps, time.time(), starting)))
            write_text(self.cell_folder(cell_id) / "progress.json", text, durable=False)

    def progress(self, cell_id: str) -> Progress | None:
        """How far a running cell is."""
        try:
            return Progress(**json.loads(read_bytes(self.cell_folder(cell_id) / "progress.json")))
        except (OSError, ValueError, TypeError):
            return None

    def write_place(self, cell_id: str, place: tuple[int, int]) -> None:
        """Notes which segment and step the checkpoint just written stands at; best effort."""
        with contextlib.suppress(StoreError):
            path = self.cell_folder(cell_id) / "checkpoint.place.json"
            write_text(path, json.dumps(place), durable=False)

    def place(self, cell_id: str) -> tuple[int, int]:
        """Segment and step of a cell's checkpoint, (0, 0) without one; who loads the checkpoint knows better."""
        try:
            segment, step = json.loads(read_bytes(self.cell_folder(cell_id) / "checkpoint.place.json"))
            return int(segment), int(step)
        except (OSError, ValueError, TypeError):
            return 0, 0

    # --- results besides records (`studies.kept_results`) ----------------------------------------------------------

    def result_folder(self, kind: str, result_id: str) -> Path:
        """Folder of one result; `kind` is the folder of all that are like it."""
        return self.root / kind / result_id

    def result_ids(self, kind: str) -> list[str]:
        """Ids of all results of a kind that have a folder."""
        folder = self.root / kind
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def result_lock(self, kind: str, result_id: str) -> contextlib.AbstractContextManager[bool]:
        """As `lock`, for a result."""
        return self._locked(self.result_folder(kind, result_id))

    def is_result_locked(self, kind: str, result_id: str) -> bool:
        """As `is_locked`, for a result."""
        return _is_locked(self.result_folder(kind, result_id))

    def discard_result(self, kind: str, result_id: str) -> bool:
        """Removes a result; False where somebody computes it."""
        with self.result_lock(kind, result_id) as mine:
            if mine:
                shutil.rmtree(self.result_folder(kind, result_id))
            return mine

    # --- studies -------------------------------------------------------------------------------------------------

    def study_folder(self, study_id: str) -> Path:
        """Folder of one study."""
        return self.root / "studies" / study_id

    def lock_plan(self, plan: Plan) -> Path:
        """Writes the plan before the first cell runs; a second time it only marks it as the latest of its name.

        One that is damaged is written anew: its id states what it was.
        """
        path = self.study_folder(plan.study_id) / "plan.json"
        if not path.exists() or not self._is_readable(plan.study_id):
            write_text(path, json.dumps(plan.to_json(), indent=1))
        # After every other, also where the clock went back since: the latest of a name is what the name means.
        others = [self._locked_at(one) + 1 for one in self.study_ids() if one != plan.study_id]
        moment = max([time.time_ns(), *others])
        try:
            os.utime(path, ns=(moment, moment))
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
        return path

    def _is_readable(self, study_id: str) -> bool:
        try:
            self.plan(study_id)
        except StoreError:
            return False
        return True

    def _locked_at(self, study_id: str) -> int:
        """When a plan was last locked, nanoseconds since the epoch; 0 where it is gone meanwhile."""
        try:
            return (self.study_folder(study_id) / "plan.json").stat().st_mtime_ns
        except OSError:
            return 0

    def plan(self, study: str) -> Plan:
        """The locked plan of a study, by its id or by its name (then the one planned last).

        Raises:
            NotInStoreError: there is none.
            StoreError: it was altered.
        """
        path = self._plan_path(study)
        try:
            return Plan.from_json(json.loads(read_bytes(path)))
        except (ValueError, KeyError, TypeError, PlanError, ConfigError) as error:
            raise StoreError(f"{path} cannot be read: {_first_line(error)}") from None

    def num_cells_about(self, study: str) -> int:
        """How many cells a study has, as the size of its plan tells before it is read.

        Raises:
            NotInStoreError: there is none.
        """
        try:
            return self._plan_path(study).stat().st_size // BYTES_OF_CELL
        except OSError:
            return 0

    def study_ids(self) -> list[str]:
        """Ids of all locked plans, the latest last."""
        ids = [path.parent.name for path in (self.root / "studies").glob("*/plan.json")]
        return sorted(ids, key=lambda study_id: (self._locked_at(study_id), study_id))

    def records(self, plan: Plan) -> list[Record]:
        """The readable records of a plan's cells, in the order of the plan; `states` tells what the others are.

        A cell may have been trained by another study, which gave its replicate another number and its data or its start
        another name: such labels are the plan's here.
        """
        return list(self.each_record(plan))

    def each_record(self, plan: Plan, unreadable: list[str] | None = None) -> Iterator[Record]:
        """The same one by one, each read when it is asked for: of thousands of records few are in memory at once.

        Args:
            unreadable: is given the ids of cells whose records are there but damaged.
        """
        return self.each_labelled(map(labelled, plan.cells), unreadable)

    def each_labelled(self, cells: Iterable[Labelled], unreadable: list[str] | None = None) -> Iterator[Record]:
        """The same of cells of which only the labels are known."""
        for cell_id, labels in cells:
            try:
                record = self.record(cell_id)
            except StoreError:
                if unreadable is not None:
                    unreadable.append(cell_id)
                continue
            if record is not None:
                differ = any(record.cell.get(name) != label for name, label in labels.items())
                yield record.model_copy(update={"cell": record.cell | dict(labels)}) if differ else record

    def all_records(self) -> list[Record]:
        """Every readable record of the store, whatever its study."""
        records = []
        for cell_id in self.cell_ids():
            with contextlib.suppress(StoreError):
                record = self.record(cell_id)
                if record is not None:
                    records.append(record)
        return records

    def states(self, plan: Plan) -> dict[str, CellState]:
        """Cell id -> state, for all cells of a plan."""
        return {cell.id: self.state(cell.id) for cell in plan.cells}

    def check_writable(self) -> None:
        """Refuses a results folder that takes no file, before hours go into results for it.

        Raises:
            StoreError: the folder cannot be written, or its disk is full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, buffering=0) as file:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                told = "no space left on the disk; free some and run the same command again"
                raise StoreError(f"{self.root}: {told}") from error
            raise StoreError(f"{self.root}: cannot be written: {error.strerror}") from error

    # --- leftovers -----------------------------------------------------------------------------------------------

    def find_cell(self, prefix: str) -> str:
        """The id of the one cell that begins with `prefix`.

        Raises:
            NotInStoreError: none or several do.
        """
        cells = self.root / "cells"
        ids = sorted(p.name for p in cells.iterdir() if p.name.startswith(prefix)) if prefix and cells.is_dir() else []
        if len(ids) != 1:
            several = f"{len(ids)} cells ({', '.join(ids[:3])}, ...) in {self.root} begin"
            what = several if ids else f"no cell in {self.root} begins"
            raise NotInStoreError(f"{what} with {prefix!r}; `study status` lists the ids")
        return ids[0]

    def finish_cell(self, cell_id: str) -> None:
        """Removes what only a running cell needs: checkpoints, progress, temporary files. Its lock must be held."""
        for path in self._unfinished_files(cell_id):
            path.unlink(missing_ok=True)

    def tidy(self, plan: Plan) -> None:
        """Removes what killed processes left in recorded cells and in the study's folder; best effort."""
        for cell in plan.cells:
            if (self.cell_folder(cell.id) / "record.json").exists() and self._unfinished_files(cell.id):
                with contextlib.suppress(OSError, StoreError), self.lock(cell.id) as mine:
                    if mine and self.state(cell.id) not in ("waiting", "interrupted", "running", "damaged"):
                        self.finish_cell(cell.id)
        study = self.study_folder(plan.study_id)
        for folder in (study, *(path for path in study.rglob("*") if path.is_dir())):
            remove_leftovers(folder)

    def _unfinished_files(self, cell_id: str) -> list[Path]:
        folder = self.cell_folder(cell_id)
        progress = folder / "progress.json"
        return [*folder.glob("checkpoint*"), *leftovers(folder), *([progress] if progress.exists() else [])]

    def discard_cell(self, cell_id: str, states: Collection[CellState] | None = None) -> bool:
        """Removes a cell; False where somebody trains it, or where it is in none of `states` by now."""
        with self.lock(cell_id) as mine:
            if not mine or (states is not None and self.state(cell_id) not in states):
                return False
            if self.cell_folder(cell_id).is_symlink():
                raise StoreError(f"{self.cell_folder(cell_id)} is a link, which a store never makes: not removed")
            shutil.rmtree(self.cell_folder(cell_id))
            return True

    def discard_study(self, study_id: str) -> None:
        """Removes a study's plan and report; its cells stay, since other studies may share them."""
        shutil.rmtree(self.study_folder(study_id))

    def cell_ids(self) -> list[str]:
        """Ids of all cells that have a folder."""
        cells = self.root / "cells"
        return sorted(path.name for path in cells.iterdir()) if cells.is_dir() else []

    def _plan_path(self, study: str) -> Path:
        ids = self.study_ids()
        matching = [study] if study in ids else [one for one in ids if one.rpartition(".")[0] == study]
        if not matching:
            known = ", ".join(ids) or "none"
            raise NotInStoreError(
                f"no study {study!r} in {self.root}; there are: {known}. study run trains one and puts it there, "
                "--store names another folder"
            )
        return self.study_folder(matching[-1]) / "plan.json"


def labelled(cell: Cell) -> Labelled:
    """A cell's id, and what its plan calls it."""
    labels: dict[str, Any] = {"replicate": cell.replicate, "data": cell.data}
    if cell.start is not None:
        labels["start"] = cell.start.model_dump(mode="json")
    return cell.id, labels


def bytes_held(paths: Iterable[Path]) -> int:
    """Bytes of all files under the given folders."""
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as file:
            return not _try_lock(file, folder, shared=True)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[bytes], folder: Path, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
            raise StoreError(
                f"{folder} is on a file system without locks: choose another folder with --store"
            ) from error
        raise
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
