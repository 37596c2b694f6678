"""The weights that a finished cell leaves behind, and taking them up again as the start of another.

What is kept is a checkpoint that names its network, with a SHA-256 beside it and in the cell's record: so a missing,
altered or damaged one is found by reading bytes alone, before anything begins from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .cell import Cell
from .errors import StoreError, StudyError
from .files import sha256_of
from .starts import Start
from .store import Store

if TYPE_CHECKING:
    from torch import Tensor, nn

START_BRANCH = 1.0
"""The branch whose weights others begin from: that of the full budget."""


def keep_weights(cell: Cell, branch: float, weights: Mapping[str, Tensor], store: Store) -> str:
    """Writes the weights of a branch beside the cell's record, without what only its objective needs.

    Returns:
        SHA-256 of the file.
    """
    from models.checkpoints import classifier_checkpoint

    from .checkpoint import save_checkpoint

    state = weights
    if cell.objective == "masked_patches":
        from models import backbone_state

        state = backbone_state(weights)
    content = classifier_checkpoint(state, **cell.network_arguments)
    path = store.weights_path(cell.id, branch)
    path.unlink(missing_ok=True)  # else it would be kept as the previous one
    save_checkpoint(content, path)
    return sha256_of(path)


def why_not_kept(cell_id: str, store: Store) -> str | None:
    """Why nothing can begin from the weights of a finished cell; None if they are whole.

    Raises:
        StoreError: its record is damaged.
    """
    record, path = store.record(cell_id), store.weights_path(cell_id, START_BRANCH)
    if record is None or record.status not in ("finished", "diverged"):
        return f"cell {cell_id} is {store.state(cell_id)}"
    if record.branches[-1].diverged:
        return f"cell {cell_id} diverged: {record.reason}"
    if not record.kept_sha256:
        return f"cell {cell_id} was trained without keeping its weights"
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if found != record.kept_sha256:
        return (
            f"{path} is damaged or was altered: its SHA-256 is {found[:12]}..., its cell's record says "
            f"{record.kept_sha256[:12]}..."
        )
    return None


def start_file(start: Start, store: Store) -> tuple[Path, str]:
    """Where the weights of a start lie, and the SHA-256 they must have.

    Raises:
        StoreError: they cannot be found.
    """
    if start.from_file:
        return store.start_path(start.origin), start.origin
    if reason := why_not_kept(start.origin, store):
        raise StoreError(
            f"the start {start.name!r} cannot be taken: {reason}; run the study again, which trains it anew"
        )
    record = store.record(start.origin)
    assert record is not None
    return store.weights_path(start.origin, START_BRANCH), record.kept_sha256


def give_start(network: nn.Module, cell: Cell, store: Store) -> str:
    """Gives a cell's network, in place, the weights it begins from; its head is new and zero.

    Args:
        network: of the cell.

    Returns:
        SHA-256 of the file they came from.

    Raises:
        StudyError: the weights are not there, are not what they were, or do not fit.
    """
    from models.start import load_start
    from models.weights_error import WeightsError

    assert cell.start is not None
    path, expected = start_file(cell.start, store)
    try:
        load_start(
            path,
            network,
            family=cell.family,
            variant=cell.variant,
            image_size=cell.image_size,
            in_channels=cell.in_channels,
            designed_for=cell.designed_for,
            sha256=expected,
        )
    except (WeightsError, ValueError) as error:
        raise StudyError(f"the start {cell.start.name!r} cannot be taken: {error}") from None
    return expected
