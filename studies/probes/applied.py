"""Every probe as a study applies it: which images it is given, how it is set, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from studies.few_shot import evaluate_few_shot

from .attention import attention_distance
from .filters import first_layer
from .held_out import HeldOut
from .lie_derivative import equivariance
from .position_embeddings import position_similarity
from .probe import Probed, ProbeError, Reading
from .receptive_fields import receptive_field
from .shifts import shift_consistency
from .shuffled_patches import patch_shuffle
from .similarity import feature_similarity
from .subjects import MOST_SEEDS, Subject

Apply = Callable[[nn.Module, HeldOut, Mapping[str, Any]], Probed]


def apply(subject: Subject, networks: Mapping[str, nn.Module], held: HeldOut) -> tuple[Probed, tuple[str, ...]]:
    """What a probe says of its networks.

    Args:
        subject: which probe, and of which cells the networks are.
        networks: by id of their cell, on the device of the images; of a probe across sizes, sizes may be missing.
        held: the images.

    Returns:
        What it found, and for every reading the id of the cell that it is of; empty where there is one.

    Raises:
        ProbeError: it has nothing to measure on such networks.
    """
    kind = subject.kind
    if kind.across_sizes:
        return _similarity(subject, networks, held)
    probed = _APPLIED[kind.name](networks[subject.cell.id], held, kind.settings)
    return probed, ("",) * len(probed.readings)


def _of_images(measure: Callable[..., Probed]) -> Apply:
    """A measure whose keywords are the settings, `num_images` among them."""

    def applied(network: nn.Module, held: HeldOut, settings: Mapping[str, Any]) -> Probed:
        return measure(network, held.first(settings["num_images"]), **settings)

    return applied


def _position_similarity(network: nn.Module, held: HeldOut, settings: Mapping[str, Any]) -> Probed:
    del held
    return position_similarity(network, **settings)


def _first_layer(network: nn.Module, held: HeldOut, settings: Mapping[str, Any]) -> Probed:
    return first_layer(network, held.first(1), **settings)


def _few_shot(network: nn.Module, held: HeldOut, settings: Mapping[str, Any]) -> Probed:
    """Mean test error over draws; the numbers of images per class that the rarest class has."""
    cell, data = held.cell, held.data
    pool, (_, validation) = data.pool(cell), data.rows(cell)
    labels = held.batches.split.labels[pool]
    rarest = min(int((labels == label).sum()) for label in range(cell.num_classes))
    shots = [count for count in settings["shots"] if count <= rarest]
    if not shots:
        raise ProbeError(
            f"{cell.data} has a class of {rarest} training images, too few for {min(settings['shots'])} per class"
        )
    test = data.test_split(cell.seeds.subset)
    found = evaluate_few_shot(
        network,
        held.batches,
        pool=pool,
        validation=validation,
        test=test,
        num_classes=cell.num_classes,
        shots=shots,
        draws=settings["draws"],
        seed=cell.seeds.subset * MOST_SEEDS,
    )
    return Probed(
        tuple(
            Reading("few_shot_error", 1 - one.mean, "fraction", setting=one.shots, num_images=len(test))
            for one in found
        )
    )


def _similarity(subject: Subject, networks: Mapping[str, nn.Module], held: HeldOut) -> tuple[Probed, tuple[str, ...]]:
    """CKA of the features of every two networks: of each, by the size that the other was trained on, and as a matrix.

    What does not tell images apart has no similarity to anything: its readings have no value, the matrix NaN. A size
    without network has no readings, and NaN in the matrix.
    """
    cells, settings = subject.cells, subject.kind.settings
    batches = held.first(settings["num_images"], batch_size=settings["batch_size"])
    found = feature_similarity(networks, batches, num_images=settings["num_images"])
    known = pd.DataFrame(found.values, index=list(found.first), columns=list(found.second))
    ids = [cell.id for cell in cells]
    matrix = known.reindex(index=ids, columns=ids).to_numpy(float)
    readings, of_cells = [], []
    for row, cell in enumerate(cells):
        for column, size in enumerate(subject.sizes):
            if row != column and {cell.id, ids[column]} <= set(networks):
                value = float(matrix[row, column])
                readings.append(
                    Reading("representation_similarity", value, "relative", setting=size, num_images=found.num_images)
                )
                of_cells.append(cell.id)
    arrays = {"representation_similarity": matrix.astype(np.float32), "sizes": np.array(subject.sizes, np.float32)}
    return Probed(tuple(readings), arrays), tuple(of_cells)


_APPLIED: Mapping[str, Apply] = {
    "shift_consistency": _of_images(shift_consistency),
    "equivariance": _of_images(equivariance),
    "patch_shuffle": _of_images(patch_shuffle),
    "receptive_field": _of_images(receptive_field),
    "attention_distance": _of_images(attention_distance),
    "position_similarity": _position_similarity,
    "first_layer": _first_layer,
    "few_shot": _few_shot,
}
