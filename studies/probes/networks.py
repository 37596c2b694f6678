"""The networks of a study that probes are applied to: built anew, and given the weights that their cells have kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.checkpoints import read_weights
from studies.cell import Cell
from studies.errors import StudyError
from studies.kept_weights import START_BRANCH, why_not_kept
from studies.program import initial_network
from studies.store import Store

from .probe import ProbeError
from .subjects import Subject


@dataclass(frozen=True)
class Networks:
    """The networks that several probes share.

    Attributes:
        modules: by id of their cell; those whose training diverged are not among them.
        weights_sha256: of the files they came from, in the same order; empty for drawn weights.
        left_out: which are not among them and why; empty where all are.
    """

    modules: dict[str, nn.Module]
    weights_sha256: tuple[str, ...]
    left_out: str


def networks_of(subject: Subject, store: Store, device: str) -> Networks:
    """The networks of a subject on a device, in evaluation mode.

    Raises:
        ProbeError: the training diverged, so that there are none; of several, of all but one at most.
        StudyError: they are not there, or not what the record of their cell says.
    """
    trained = subject.weights == "trained"
    modules, sums, diverged = {}, [], []
    for cell, size in zip(subject.cells, subject.sizes, strict=True):
        if trained and _diverged(cell, store):
            diverged.append(f"{cell.title} (size {size})")
            continue
        module = initial_network(cell)
        if trained:
            sums.append(_give_trained(module, cell, store))
        modules[cell.id] = module.to(device).eval()
    told = f"the training of {', '.join(diverged)} diverged: there are no weights to probe" if diverged else ""
    if len(modules) < min(2, len(subject.cells)):
        raise ProbeError(told)
    return Networks(modules, tuple(sums), f"left out: {told}" if told else "")


def without_weights(subject: Subject, store: Store) -> dict[str, str]:
    """Cell id -> why its trained network is not there."""
    if subject.weights == "initial":
        return {}
    reasons = {}
    for cell in subject.cells:
        try:
            reason = None if _diverged(cell, store) else why_not_kept(cell.id, store)
        except StudyError as error:
            reason = str(error)
        if reason is not None:
            reasons[cell.id] = reason
    return reasons


def _diverged(cell: Cell, store: Store) -> bool:
    """Whether there are no final weights and never will be."""
    record = store.record(cell.id)
    return record is not None and bool(record.branches) and record.branches[-1].diverged


def _give_trained(module: nn.Module, cell: Cell, store: Store) -> str:
    """Gives a network the final weights of its cell's full budget; returns the SHA-256 of their file.

    Raises:
        StudyError: they are not there, or not what the record of the cell says.
    """
    if reason := why_not_kept(cell.id, store):
        raise StudyError(reason)
    record = store.record(cell.id)
    assert record is not None
    weights = read_weights(store.weights_path(cell.id, START_BRANCH), sha256=record.kept_sha256)
    module.load_state_dict(weights.state)
    return record.kept_sha256
