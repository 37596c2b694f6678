"""What a store must look like after a study has ended, and how it compares with one that nothing disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studies.files import sha256_of
from studies.grid import Plan
from studies.records import DETERMINISTIC_COLUMNS, records_frame
from studies.store import Store

DONE = ("finished", "diverged")


def planned(store: Store) -> tuple[Plan, ...]:
    """The plans of the one study of a store, earlier stages first."""
    return store.plan(store.study_ids()[-1]).stages


def is_done(store: Store) -> bool:
    """Whether every cell of the study has its result."""
    return bool(store.study_ids()) and all(
        state in DONE for plan in planned(store) for state in store.states(plan).values()
    )


def results(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Cell id -> a row per branch of all that is a function of the cell, hashes of weights and predictions included."""
    found: dict[str, list[dict[str, Any]]] = {}
    for plan in planned(store):
        records = store.records(plan)
        predictions = {record.cell_id: record.predictions_sha256 for record in records}
        frame = records_frame(records, plan.spec.tier)[list(DETERMINISTIC_COLUMNS)]
        for row in json.loads(frame.to_json(orient="records", double_precision=15)):
            found.setdefault(row["cell_id"], []).append(row | {"predictions_sha256": predictions[row["cell_id"]]})
    return found


def differences(expected: dict[str, list[dict[str, Any]]], store: Store) -> Iterator[str]:
    """Results lost, changed or too many, a sentence each."""
    found = results(store)
    for cell_id in expected.keys() - found.keys():
        yield f"the result of cell {cell_id} is lost"
    for cell_id in found.keys() - expected.keys():
        yield f"cell {cell_id} is none of the study's"
    for cell_id in sorted(expected.keys() & found.keys()):
        if len(expected[cell_id]) != len(found[cell_id]):
            yield f"cell {cell_id} has {len(found[cell_id])} branches of {len(expected[cell_id])}"
        columns = {
            column
            for one, other in zip(expected[cell_id], found[cell_id], strict=False)
            for column in one
            if one[column] != other[column]
        }
        if columns:
            yield f"the result of cell {cell_id} changed: {', '.join(sorted(columns))}"
    for plan in planned(store):
        for record in store.records(plan):
            path = store.predictions_path(record.cell_id)
            if record.predictions_sha256 and (not path.exists() or sha256_of(path) != record.predictions_sha256):
                yield f"{path} is not what its record states"
    for path in sorted(store.root.glob("cells/*/record*.json")):
        if path.name != "record.json" or path.parent.name not in expected:
            yield f"{path} is a record too many"


def leftovers(root: Path) -> Iterator[str]:
    """What only a running study may have, a sentence each: temporary files, checkpoints, locks held."""
    store = Store(root)
    for path in sorted(root.rglob("*")):
        if path.name.endswith(".tmp") or path.name == "progress.json" or path.name.startswith("checkpoint"):
            yield f"{path} was left behind"
    for cell_id in store.cell_ids():
        if store.is_locked(cell_id):
            yield f"the lock of cell {cell_id} is held by nobody known"


def untruths(store: Store) -> Iterator[str]:
    """What `study status` says wrong while no process of the study runs."""
    for plan in planned(store) if store.study_ids() else ():
        for cell_id, state in store.states(plan).items():
            has_record = (store.cell_folder(cell_id) / "record.json").exists()
            if state == "running" or has_record != (state not in ("waiting", "interrupted")):
                yield f"cell {cell_id} is told to be {state} where nothing runs"
