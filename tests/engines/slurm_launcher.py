"""A launcher of the engine `slurm` whose jobs are held back in the queue, so that nothing depends on their pace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from planned import planned

from studies.engines import Outcome
from studies.slurm_spec import SlurmSpec
from studies.store import Store
from studies.tracking import TrackingSpec

PLAN = planned()


def engine(store: Store, on_poll: Callable[[Sequence[str]], None] = lambda running: None, **settings: Any) -> Any:
    """An engine for `PLAN`; what it says is in its `told`."""
    from studies.engines.slurm import SlurmEngine

    content = {"kind": "slurm", "tasks": 2, "poll_seconds": 1, "additional_parameters": {"hold": True}} | settings
    store.lock_plan(PLAN)
    told: list[str] = []
    made = SlurmEngine(store, PLAN, SlurmSpec.model_validate(content), TrackingSpec(kind="off"), on_poll, told.append)
    made.told = told  # type: ignore[attr-defined]
    return made


def run_all(made: Any) -> Outcome:
    """What becomes of all cells."""
    outcome = made.run([cell.id for cell in PLAN.cells])
    assert isinstance(outcome, Outcome)
    return outcome


def array_id(store: Store) -> str:
    """The array that the store has noted."""
    return str(json.loads(next(store.root.glob("studies/*/slurm/array.json")).read_text())["array_id"])


def states(store: Store) -> dict[str, str]:
    """What the queue says of its jobs."""
    from studies.engines.slurm_queue import job_states

    return {job_id: state.name for job_id, state in job_states(array_id(store)).items()}


def cancel(store: Store) -> None:
    """Cancels the array."""
    subprocess.run(["scancel", array_id(store)], check=True)
