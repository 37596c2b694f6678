"""What an evaluation of frozen features leaves behind: one file, written once, and the table over all of a study.

A result is found by its id, a hash of all that determines it (`studies.few_shot_networks`). It is whole or absent, and
none of the weights that are there is computed again: the test split is read once for a network and a data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .errors import StoreError
from .few_shot_networks import FrozenNetwork, frozen_networks
from .grid import Plan
from .kept_results import Results
from .records import Environment
from .store import Store
from .strict import Strict

FEW_SHOT_COLUMNS: dict[str, str] = {
    "evaluation_id": "hash of all that determines the result; the key of the store",
    "arm": "arm that begins from the network; of an untrained network the same without its start",
    "family": "family of architectures",
    "variant": "size tier, with its form after a dash",
    "data": "name of the data set",
    "image_size": "side of the square images in pixels",
    "designed_for": "side of the images that the network is sized for",
    "start": "name of what the network was pretrained on; empty where it is untrained",
    "num_pretrain": "images it was pretrained on; 0 untrained, empty where its file does not say",
    "start_origin": "id of the cell that trained it, or SHA-256 of a file; empty where it is untrained",
    "weights_sha256": "hash of the file of weights; empty where they were drawn",
    "replicate": "index of the setting of seeds",
    "subset_seed": "chooses validation, and the fresh images of the dial",
    "initialization_seed": "the weights, where they are drawn",
    "shots": "labelled images per class (k)",
    "draw": "which draw of the k images",
    "draw_seed": "its seed",
    "regularization": "strength chosen on the validation images",
    "test_error": "fraction of test images misclassified",
    "num_test": "test images",
    "num_validation": "validation images",
}


class Draw(Strict):
    """One draw of k images of every class, and what they were enough for."""

    shots: int
    draw: int
    seed: int
    regularization: float
    test_error: float


class FewShotResult(Strict):
    """One network on one data set.

    Attributes:
        identity: all that determines the result; `evaluation_id` is its hash.
        study: id of the study that computed it.
        weights_sha256: of the file of weights; empty where they were drawn.
        evaluation_flops: forward FLOPs of all images that features were computed of; outside every budget.
        draws: for every number of shots, all draws.
    """

    evaluation_id: str
    identity: dict[str, Any]
    study: str
    plan_hash: str
    weights_sha256: str
    train_checksum: str
    test_checksum: str
    evaluation_flops: int
    evaluation_seconds: float
    finished_at: str
    environment: Environment
    draws: tuple[Draw, ...]


EVALUATIONS = Results("few_shot", FewShotResult, "evaluation_id", "few-shot result", "run the study again")
"""Where the results lie in a store."""


def count_results(plan: Plan, store: Store) -> tuple[int, int]:
    """Results of a plan that are done and can be read, of how many; (0, 0) where it declares no `few_shot`."""
    ids = {network.id for network in frozen_networks(plan)}
    return len(ids) - len({network.id for network in waiting_networks(plan, store)}), len(ids)


def why_outdated(network: FrozenNetwork, store: Store, result: FewShotResult) -> str:
    """Why a result is not of the weights that its network begins from now, as a verb phrase; empty if it is.

    What is drawn, and what is read from a file, is the same for ever. Of a start that is a cell the record says which
    file of weights was kept; where there is no record, or it has kept none, nothing speaks against the result.

    Raises:
        StoreError: that record is damaged.
    """
    if network.start is None or network.start.from_file:
        return ""
    record = store.record(network.start.origin)
    if record is None or record.kept_sha256 in ("", result.weights_sha256):
        return ""
    return f"is of other weights than the record of cell {network.start.origin} states now"


def current(network: FrozenNetwork, store: Store) -> FewShotResult | None:
    """The result of a network; None where there is none that is whole and of the weights there are now."""
    try:
        result = EVALUATIONS.read(store, network.id)
        return None if result is None or why_outdated(network, store, result) else result
    except StoreError:
        return None


def waiting_networks(plan: Plan, store: Store) -> list[FrozenNetwork]:
    """The networks of a plan without a result that is `current`."""
    return [network for network in frozen_networks(plan) if current(network, store) is None]


def few_shot_frame(plan: Plan, store: Store) -> pd.DataFrame:
    """The results of a plan so far: a row per network, number of shots and draw, columns as in `FEW_SHOT_COLUMNS`."""
    found = ((network, current(network, store)) for network in frozen_networks(plan))
    rows = [row for network, result in found if result is not None for row in _rows(network, result)]
    return pd.DataFrame(rows, columns=list(FEW_SHOT_COLUMNS)).sort_values(
        ["arm", "num_pretrain", "replicate", "shots", "draw"], kind="stable", ignore_index=True
    )


def _rows(network: FrozenNetwork, result: FewShotResult) -> Iterable[dict[str, Any]]:
    cell, start = network.cell, network.start
    shared = {
        "evaluation_id": network.id,
        "arm": network.arm,
        "family": cell.family,
        "variant": cell.variant,
        "data": cell.data,
        "image_size": cell.image_size,
        "designed_for": cell.designed_for or cell.image_size,
        "start": start.name if start else "",
        "num_pretrain": network.num_pretrain,
        "start_origin": start.origin if start else "",
        "weights_sha256": result.weights_sha256,
        "replicate": cell.replicate,
        "subset_seed": cell.seeds.subset,
        "initialization_seed": cell.seeds.initialization,
        "num_test": cell.num_test,
        "num_validation": cell.num_validation,
    }
    for draw in result.draws:
        told = draw.model_dump()
        yield shared | {"draw_seed": told.pop("seed")} | told
