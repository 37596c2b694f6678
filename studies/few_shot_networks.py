"""The networks whose frozen features a study evaluates: what its arms begin from, and the same networks untrained.

Which evaluation it is follows from the plan alone, before anything is trained: its id is a hash of the weights' origin,
of the images and of what is drawn from them. So a result is found again by whoever asks for the same, and is never
computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .arms import arm_name
from .cell import Cell
from .digest import digest
from .few_shot_spec import MOST_DRAWS, FewShotSpec
from .grid import Plan
from .starts import Start

EVALUATION_VERSION = 1
"""Changes whenever the same network and images would be evaluated otherwise."""


@dataclass(frozen=True)
class FrozenNetwork:
    """A network whose features are evaluated on the images that a cell is fine-tuned on.

    Attributes:
        arm: the arm that begins from it; of an untrained network the same without a start.
        cell: one that begins from it: its architecture, images and seeds.
        start: where its weights come from; None for the weights drawn for the replicate.
        spec: what is evaluated.
    """

    arm: str
    cell: Cell
    start: Start | None
    spec: FewShotSpec

    @property
    def num_pretrain(self) -> int | None:
        """Images it was trained on: 0 untrained, None where a file does not say."""
        return 0 if self.start is None else self.start.num_pretrain

    @property
    def first_seed(self) -> int:
        """Seed of the first draw; the others follow. A replicate has the same draws for every network."""
        return self.cell.seeds.subset * MOST_DRAWS

    @property
    def title(self) -> str:
        """A name for people; never parsed."""
        if self.start is None:
            origin = "untrained"
        else:
            origin = f"{self.start.name}{f' of {self.start.num_pretrain}' if self.start.num_pretrain else ''}"
        return f"{self.cell.family} {self.cell.variant} {self.cell.data}, {origin}, r={self.cell.replicate}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the result. How many images are fine-tuned on does not: draws are from all there are."""
        cell = self.cell
        drawn = {"initialization": cell.seeds.initialization}
        return {
            "version": EVALUATION_VERSION,
            "protocol_version": cell.protocol_version,
            "family": cell.family,
            "variant": cell.variant,
            "designed_for": cell.designed_for,
            "weights": drawn if self.start is None else {"origin": self.start.origin},
            "data_fingerprint": cell.data_fingerprint,
            "image_size": cell.image_size,
            "in_channels": cell.in_channels,
            "num_classes": cell.num_classes,
            "num_test": cell.num_test,
            "permutation": cell.permutation,
            "subset_seed": cell.seeds.subset,
            "num_validation": cell.num_validation,
            **self.spec.model_dump(mode="json"),
        }

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        return digest(self.identity)[:16]


def frozen_networks(plan: Plan) -> tuple[FrozenNetwork, ...]:
    """The networks that a study evaluates, each once, replicate by replicate; none where it declares no `few_shot`."""
    if plan.spec.few_shot is None or plan.is_tuning:
        return ()
    found: dict[tuple[str, str], FrozenNetwork] = {}
    for cell in sorted(plan.cells, key=lambda cell: cell.replicate):
        if cell.start is None:
            continue
        without = arm_name(cell.family, cell.variant, default_tier=plan.spec.tier)
        for arm, start in ((without, None), (plan.arm(cell).name, cell.start)):
            network = FrozenNetwork(arm, cell, start, plan.spec.few_shot)
            found.setdefault((network.id, arm), network)
    return tuple(found.values())
