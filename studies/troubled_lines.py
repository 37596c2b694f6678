"""Cells that failed, diverged or are damaged, a line each: which, why, and where its log is."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.text import Text

from .cell import Cell
from .counts import counted
from .errors import StoreError
from .grid import Plan
from .store import CellState, Store

TROUBLED: tuple[CellState, ...] = ("failed", "invalid", "damaged", "diverged")
"""States of which a person should know, those that cost a result first."""
MOST_LINES = 50


def troubled_lines(plan: Plan, states: Mapping[str, CellState], store: Store) -> Iterator[Text]:
    """A line for every cell in trouble, and what can be done about them."""
    ordered = [cell for state in TROUBLED for cell in plan.cells if states[cell.id] == state]
    for cell in ordered[:MOST_LINES]:
        yield troubled_line(cell, states[cell.id], reason_of(cell.id, store), store)
    if (rest := len(ordered) - MOST_LINES) > 0:
        yield Text(f"and {counted(rest, 'more cell')}: study status {plan.study_id}{option(store)} --json", style="red")
    found = {states[cell.id] for cell in ordered}
    if found & {"failed", "invalid"}:
        yield Text(
            "failed and invalid cells are in no curve; the command that trained them, overrides and all, with "
            f"--retry failed added trains just those again (study run ...{option(store)} --retry failed)"
        )
    if "diverged" in found:
        yield Text("diverged cells are results: they count at chance, and diverge again if trained again")


def troubled_line(cell: Cell, state: str, reason: str, store: Store) -> Text:
    """`vit nano dial N=64 r=0 (0a1b...) failed: out of memory; study logs 0a1b...`."""
    told = f"{cell.title} ({cell.id}) {state}: {' '.join(reason.split()) or 'no reason given'}"
    return Text(f"{told}; study logs {cell.id}{option(store)}", style="magenta" if state == "diverged" else "red")


def reason_of(cell_id: str, store: Store) -> str:
    """Why a cell is in trouble, as its record says, or what is wrong with that."""
    try:
        record = store.record(cell_id)
    except StoreError as error:
        return str(error)
    return "" if record is None else record.reason


def option(store: Store) -> str:
    """What names the store in a command; nothing where it is the one that commands use by themselves."""
    usual = Path(os.environ.get("INDUCTIVE_BIAS_STORE", "results"))
    return "" if store.root == usual else f" --store {shlex.quote(str(store.root))}"
