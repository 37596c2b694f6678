"""What a probe of a study leaves behind, the table over all of a study, and how many of its results are there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import model_validator

from studies.cell import Cell
from studies.errors import StoreError
from studies.grid import Plan
from studies.kept_results import Results
from studies.records import Environment
from studies.store import Store
from studies.strict import Strict

from .catalogue import KINDS, ProbeKind
from .subjects import Subject, once, subjects, why_not_probed

PROBE_COLUMNS: dict[str, str] = {
    "result_id": "hash of all that determines the result; the key of the store",
    "cell_id": "the cell whose network was probed; of an untrained network every cell that begins as it",
    "arm": "family, with the tier where it is not the study's and the form where it is not the plain one",
    "family": "family of architectures",
    "variant": "size tier, with its form after a dash",
    "data": "name of the data set",
    "image_size": "side of the square images in pixels",
    "permutation": "pixel permutation control: none | within_patch | patches | pixels",
    "num_train": "training images, validation images not counted",
    "start": "name of what the weights begin from; empty where they are drawn",
    "num_pretrain": "images the start was trained on; 0 without a start, empty where its file does not say",
    "replicate": "index of the setting of seeds",
    "weights": "trained: the final weights of the full budget | initial: the weights drawn for the replicate",
    "probe": "name of the probe",
    "quantity": "what was measured",
    "layer": "name of the module it was read at; features: what the classifier reads; logits: what the network gives; "
    "empty where no layer is meant",
    "depth": "place of the layer among those that the probe read, from 0; empty for logits and without a layer",
    "head": "attention head, from 0",
    "setting": "what was varied: shift in pixels, patches along a side, images per class; of representation_similarity "
    "the size that the other network was trained on",
    "value": "the number; empty where it is not defined",
    "unit": "its unit",
    "num_images": "images it was read from, validation images, of few_shot test images; 0: the weights alone",
}

_NUMBERS = dict.fromkeys(("depth", "head", "setting", "value", "num_pretrain"), float)

Outcome = Literal["measured", "inapplicable", "failed"]


class StoredReading(Strict):
    """One number, as `studies.probes.Reading` has it.

    Attributes:
        value: None where it is not defined.
        cell_id: of which of several networks; empty where there is one.
    """

    quantity: str
    value: float | None
    unit: str
    layer: str = ""
    depth: int | None = None
    head: int | None = None
    setting: float | None = None
    num_images: int = 0
    cell_id: str = ""


class ProbeResult(Strict):
    """One probe of one network, or of the networks of an arm.

    Attributes:
        result_id: hash of `identity`, which is all that determines the result.
        study: id of the study that computed it.
        outcome: `inapplicable` where the probe has nothing to measure on such a network.
        reason: why nothing was measured; of a measured one what was left out.
        weights_sha256: of the files of weights, as the records of their cells state it, those of diverged cells not
            among them; empty for drawn weights.
        evaluation_flops: forward FLOPs of all images that passed through a network; outside every budget.
    """

    result_id: str
    identity: dict[str, Any]
    study: str
    plan_hash: str
    outcome: Outcome
    reason: str = ""
    weights_sha256: tuple[str, ...] = ()
    train_checksum: str
    evaluation_flops: int
    seconds: float
    finished_at: str
    environment: Environment
    readings: tuple[StoredReading, ...] = ()
    arrays_sha256: str = ""

    @model_validator(mode="after")
    def _of_its_cells(self) -> ProbeResult:
        networks = self.identity.get("networks", ())
        known = {"", *(one["cell"] for one in networks if isinstance(one, dict) and isinstance(one.get("cell"), str))}
        for reading in self.readings:
            if reading.cell_id not in known:
                raise ValueError(f"a reading is of cell {reading.cell_id}, of which the result is not")
        return self


PROBED = Results(
    "probes", ProbeResult, "result_id", "probe result", "run `study probe` for the study again", has_arrays=True
)
"""Where the results lie in a store."""


class StatedWeights:
    """What the records of a store say of the weights there are now; every record is read once.

    Args:
        store: where the records lie.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, str] = {}

    def sha256(self, subject: Subject) -> tuple[str, ...]:
        """SHA-256 of the files of weights of a subject's networks, as `ProbeResult.weights_sha256`.

        Raises:
            StoreError: the record of a cell is damaged.
        """
        cells = subject.cells if subject.weights == "trained" else ()
        return tuple(stated for cell in cells if (stated := self._of(cell)))

    def why_outdated(self, subject: Subject, result: ProbeResult) -> str:
        """Why a result is not of the weights there are now, as a verb phrase; empty if it is.

        Raises:
            StoreError: the record of a cell is damaged, so that nobody can say.
        """
        if result.weights_sha256 == self.sha256(subject):
            return ""
        return "is of other weights than the records of its cells state now"

    def current(self, subject: Subject) -> ProbeResult | None:
        """The result of a subject; None where there is none that is whole and of the weights there are now."""
        try:
            result = PROBED.read(self._store, subject.id)
            return None if result is None or self.why_outdated(subject, result) else result
        except StoreError:
            return None

    def _of(self, cell: Cell) -> str:
        if cell.id not in self._known:
            record = self._store.record(cell.id)
            final = record.branches[-1] if record is not None and record.branches else None
            without = record is None or (final is not None and final.diverged)
            self._known[cell.id] = "" if without else record.kept_sha256  # type: ignore[union-attr]
        return self._known[cell.id]


@dataclass(frozen=True)
class Coverage:
    """How far the probes of a study are.

    Attributes:
        done: results by probe.
        asked: results there would be by probe.
    """

    done: Mapping[str, int]
    asked: Mapping[str, int]

    @property
    def told(self) -> str:
        """In words."""
        parts = [f"{name} {self.done.get(name, 0)} of {count}" for name, count in self.asked.items()]
        return f"{sum(self.done.values())} of {sum(self.asked.values())} results: {', '.join(parts)}"


def probed_subjects(plan: Plan) -> tuple[Subject, ...]:
    """Everything that the probes of a study can be applied to, once; nothing where its networks are not probed."""
    return () if why_not_probed(plan) else once(subjects(plan, tuple(KINDS.values())))


def result_ids(plan: Plan) -> set[str]:
    """Ids of all results that the probes of a study can have."""
    return {subject.id for subject in probed_subjects(plan)}


def coverage(plan: Plan, store: Store, kinds: Sequence[ProbeKind] = ()) -> Coverage:
    """How many results of a study are there; those of weights that have changed since are not.

    Args:
        plan: of the study.
        store: where its results lie.
        kinds: of which probes; where none is given, of all, but of those that are applied only if named once they are,
            and of none as long as the store has no result of any.
    """
    if why_not_probed(plan) or not (kinds or store.result_ids(PROBED.folder)):
        return Coverage({}, {})
    asked = once(subjects(plan, tuple(kinds or KINDS.values())))
    stated = StatedWeights(store)
    there = (subject for subject in asked if PROBED.path(store, subject.id).exists())
    done = Counter(one.kind.name for one in there if stated.current(one) is not None)
    told = [one.kind.name for one in asked if kinds or done[one.kind.name] or not one.kind.reads_test]
    return Coverage(done, Counter(told))


def probe_frame(plan: Plan, store: Store, kinds: Sequence[ProbeKind] = tuple(KINDS.values())) -> pd.DataFrame:
    """The readings of a study so far, columns as in `PROBE_COLUMNS`.

    The readings of an untrained network stand at every size that begins as it, with one `result_id`.

    Args:
        plan: of the study.
        store: where its results lie; damaged ones, and those of weights that have changed since, are left out.
        kinds: of which probes.
    """
    stated = StatedWeights(store)
    known: dict[str, ProbeResult | None] = {}
    rows: list[dict[str, Any]] = []
    none = why_not_probed(plan) or not store.result_ids(PROBED.folder)
    for subject in () if none else subjects(plan, kinds):
        if subject.id not in known:
            known[subject.id] = stated.current(subject)
        if (result := known[subject.id]) is not None:
            rows += _rows(subject, result)
    order = ["probe", "arm", "num_train", "num_pretrain", "replicate", "weights", "quantity"]
    frame = pd.DataFrame(rows, columns=list(PROBE_COLUMNS)).astype(_NUMBERS)
    return frame.sort_values(order, kind="stable", ignore_index=True)


def probe_arrays(plan: Plan, store: Store, probe: str) -> list[tuple[Subject, dict[str, npt.NDArray[np.float32]]]]:
    """What one probe found of a study that a figure draws: what it is of, and its arrays by name.

    Args:
        plan: of the study.
        store: where its results lie; damaged ones, and those of weights that have changed since, are left out.
        probe: name of the probe.
    """
    found, stated = [], StatedWeights(store)
    for subject in subjects(plan, (KINDS[probe],)):
        if stated.current(subject) is None:
            continue
        try:
            arrays = PROBED.arrays(store, subject.id)
        except StoreError:
            continue
        if arrays:
            found.append((subject, arrays))
    return found


def _rows(subject: Subject, result: ProbeResult) -> Iterable[dict[str, Any]]:
    cells = {cell.id: cell for cell in subject.cells}
    for reading in result.readings:
        told = reading.model_dump()
        cell = cells[told.pop("cell_id") or subject.cell.id]
        if subject.kind.by_layer:
            told["layer"] = told["layer"] or "logits"  # as results of earlier versions have it
        yield told | {
            "result_id": result.result_id,
            "cell_id": cell.id,
            "arm": subject.arm,
            "family": cell.family,
            "variant": cell.variant,
            "data": cell.data,
            "image_size": cell.image_size,
            "permutation": cell.permutation,
            "num_train": cell.num_train,
            "start": cell.start.name if cell.start else "",
            "num_pretrain": cell.start.num_pretrain if cell.start else 0,
            "replicate": cell.replicate,
            "weights": subject.weights,
            "probe": subject.kind.name,
        }


def defined(value: float) -> float | None:
    """A number as it is kept: None where it is not one."""
    return float(value) if math.isfinite(value) else None
