"""Predictions that are what their records state; of all others none is read, and their cells are named."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from .counts import counted
from .files import sha256_of
from .records import Record
from .store import Store

MOST_NAMED = 8
"""Cells named in a sentence; `study doctor` has the paths."""


class KeptPredictions(Mapping[str, Path]):
    """Cell id -> `predictions.npz`, of the cells whose record states predictions.

    A file is hashed when it is asked for. One that is missing or has another SHA-256 raises `KeyError`, as does a cell
    without predictions: a damaged archive can be read as wrong numbers, or fail in a dozen ways.

    Args:
        store: where they are.
        stated: SHA-256 of the file by cell id, as records state it.

    Attributes:
        lost: ids of cells that were asked for and whose file is missing or damaged, in this order and once each.
    """

    def __init__(self, store: Store, stated: Mapping[str, str]) -> None:
        self._store, self._stated = store, stated
        self.lost: dict[str, None] = {}

    def __getitem__(self, cell_id: str) -> Path:
        stated, path = self._stated[cell_id], self._store.predictions_path(cell_id)
        with contextlib.suppress(OSError):
            if sha256_of(path) == stated:
                return path
        self.lost[cell_id] = None
        raise KeyError(cell_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stated)

    def __len__(self) -> int:
        return len(self._stated)


def stated_predictions(records: Iterable[Record]) -> dict[str, str]:
    """Cell id -> SHA-256 of its predictions, of the records that state one."""
    return {record.cell_id: record.predictions_sha256 for record in records if record.predictions_sha256}


def lost_statement(cell_ids: Collection[str]) -> str:
    """That the predictions of cells are lost, what this does to the answers, and what to do; empty without any."""
    if not cell_ids:
        return ""
    named = ", ".join(list(cell_ids)[:MOST_NAMED])
    if (rest := len(cell_ids) - MOST_NAMED) > 0:
        named += f" and {rest:,} more"
    return (
        f"The predictions of {counted(len(cell_ids), 'cell')} are missing or damaged ({named}): the records tell their "
        "errors, but intervals and tests of their arms leave out the variance of the test set. `study doctor` names "
        "the files; delete the record.json beside each and run the study again, which trains these cells anew."
    )
