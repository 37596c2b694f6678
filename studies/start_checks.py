"""Whether what arms begin from can be begun from: asked while planning, before each stage, and never found out late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datamodules import DataInfo

from .cell import Cell
from .errors import ConfigError, StoreError
from .few_shot_results import waiting_networks
from .files import sha256_of
from .grid import Arm, Plan
from .kept_weights import why_not_kept
from .starts import FileStart, StartSource
from .store import CellState, Store

FINISHED: frozenset[CellState] = frozenset({"finished"})
SETTLED: frozenset[CellState] = frozenset({"finished", "diverged"})
LOST: frozenset[CellState] = frozenset({"diverged", "failed", "invalid"})
"""States that a cell does not leave by itself, in which it may have left nothing to begin from."""


def check_starts_fit(planned: Plan, starts: Mapping[str, StartSource]) -> None:
    """Holds every start against the networks that begin from it, without training any.

    Raises:
        ConfigError: a file is damaged, holds code or the weights of another network, or weights cannot be resized to
            the images that are fine-tuned on; says which and why.
    """
    for index, arm in enumerate(planned.arms):
        source = starts[arm.start] if arm.start is not None else None
        try:
            if isinstance(source, FileStart):
                _check_file(source, arm, planned)
            elif source is not None and arm.designed_for is not None:
                _check_resizable(arm, planned.data)
        except ValueError as error:
            raise ConfigError(f"families[{index}]: {arm.name}: {error}") from None


def _check_file(source: FileStart, arm: Arm, planned: Plan) -> None:
    from models import build_network
    from models.checkpoints import Origin, read_weights
    from models.counter import on_meta_device
    from models.start import fit_weights, largest_bytes

    data, designed_for = planned.data, arm.designed_for or planned.data.image_size
    with on_meta_device():
        network = build_network(
            arm.family,
            arm.variant,
            image_size=data.image_size,
            in_channels=data.in_channels,
            num_classes=data.num_classes,
            designed_for=designed_for,
        )
    target = Origin(arm.family, arm.variant, data.image_size, data.in_channels, designed_for)
    weights = read_weights(source.path, sha256=source.sha256, largest_bytes=largest_bytes(network))
    fit_weights(weights, network, target)


def _check_resizable(arm: Arm, data: DataInfo) -> None:
    """Resizes untrained weights as trained ones will be."""
    import torch

    from models import build_network
    from models.resolution import resize_state

    assert arm.designed_for is not None
    images: dict[str, Any] = {"in_channels": data.in_channels, "num_classes": data.num_classes}
    with torch.random.fork_rng(devices=[]):
        network = build_network(arm.family, arm.variant, image_size=arm.designed_for, **images)
    resize_state(
        arm.family,
        arm.variant,
        network.state_dict(),
        designed_for=arm.designed_for,
        old_size=arm.designed_for,
        new_size=data.image_size,
        in_channels=data.in_channels,
    )


def note_files(planned: Plan, store: Store) -> None:
    """Tells workers where the files lie that cells begin from.

    Raises:
        StoreError: a file is not what it was when the study was planned, or the results folder cannot be written.
    """
    declared = planned.spec.pretraining
    files = {(cell.start.origin, cell.start.name) for cell in planned.cells if cell.start and cell.start.from_file}
    for sha256, name in sorted(files):
        path = declared[name].checkpoint
        assert path is not None
        path = path.expanduser().resolve()
        try:
            found = sha256_of(path)
        except OSError as error:
            raise StoreError(f"pretraining.{name}.checkpoint: {path} cannot be read: {error.strerror}") from None
        if found != sha256:
            raise StoreError(
                f"pretraining.{name}.checkpoint: {path} has changed since the study was planned; plan it anew"
            )
        store.note_start(sha256, path)


def repair_kept(planned: Plan, store: Store, on_message: Callable[[str], None]) -> None:
    """Has every cell of the earlier stages trained again whose weights are still needed and not what they were."""
    starts = {cell.start for cell in _unsettled(planned, store)}
    starts |= {network.start for network in waiting_networks(planned, store)}
    for origin in sorted({start.origin for start in starts if start is not None and not start.from_file}):
        if store.state(origin) != "finished" or (reason := why_not_kept(origin, store)) is None:
            continue
        if store.set_aside_record(origin, FINISHED, "without-weights"):
            on_message(f"{reason}: the cell is trained again")


def without_start(planned: Plan, store: Store) -> dict[str, str]:
    """Cell id -> why it cannot begin, for cells that are still to train and whose start is not there."""
    reasons: dict[str, str | None] = {}
    for cell in _unsettled(planned, store):
        assert cell.start is not None
        origin = cell.start.origin
        if origin not in reasons and not cell.start.from_file:  # a file was read when the study was planned
            try:
                reasons[origin] = why_not_kept(origin, store)
            except StoreError as error:
                reasons[origin] = str(error)
    blocked = {}
    for cell in _unsettled(planned, store):
        assert cell.start is not None
        if reason := reasons.get(cell.start.origin):
            blocked[cell.id] = f"there is nothing to begin from: {reason}"
    return blocked


def lost_starts(planned: Plan, store: Store) -> dict[str, str]:
    """Cell id -> why it will not begin, for cells without a result whose start has one and left no weights."""
    reasons: dict[str, str | None] = {}
    lost = {}
    for cell in _unsettled(planned, store):
        assert cell.start is not None
        origin = cell.start.origin
        if origin not in reasons:
            of_cell = not cell.start.from_file and store.state(origin) in LOST
            reasons[origin] = why_not_kept(origin, store) if of_cell else None
        if reason := reasons[origin]:
            lost[cell.id] = f"there is nothing to begin from: {reason}"
    return lost


def _unsettled(planned: Plan, store: Store) -> list[Cell]:
    """Cells with a start that have no result yet."""
    return [cell for cell in planned.cells if cell.start is not None and store.state(cell.id) not in SETTLED]
