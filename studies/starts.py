"""What weights begin from: a cell of an earlier stage, or a file; and which one a cell of a study takes.

An arm written `family+name` begins from the start that its study declares under this name (`StudySpec.pretraining`).
Replicate r begins from replicate r of the earlier stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .budget import train_flops
from .protocol import ObjectiveName
from .strict import Strict

if TYPE_CHECKING:
    from datamodules import DataInfo

    from .cell import Cell
    from .grid import Plan

STAGES_ALIKE = 0.02
"""Largest relative difference of training FLOPs between the stages of a study that needs no remark."""
START_LABELS = frozenset({"name", "objective", "num_pretrain", "train_flops"})
"""What is told of a start besides its origin, which determines the weights."""


class Start(Strict):
    """What the weights of a cell begin from.

    Attributes:
        name: as the study calls it.
        origin: id of the cell whose weights at the full budget they are, or SHA-256 of a file.
        objective: what the origin was trained for.
        num_pretrain: images it was trained on; None where a file does not say.
        train_flops: training FLOPs of these weights, no part of the budget of the cell that begins from them; None
            where a file does not say.
    """

    name: str
    origin: str
    objective: ObjectiveName
    num_pretrain: int | None
    train_flops: float | None

    @property
    def from_file(self) -> bool:
        """Whether the origin is a file: a SHA-256 has 64 digits, the id of a cell 16."""
        return len(self.origin) == 64


class StartSource(Protocol):
    """Where the arms of one start find theirs."""

    @property
    def name(self) -> str:
        """As the study calls it."""

    @property
    def image_size(self) -> int:
        """Pixels of the images that its networks are designed for."""

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The numbers of images it was trained on, each a start of its own."""

    def of(self, family: str, variant: str, num_pretrain: int | None, replicate: int) -> Start:
        """The start of a cell."""


@dataclass(frozen=True)
class StageStart:
    """An earlier stage, planned: its cells are the starts."""

    name: str
    plan: Plan

    @property
    def image_size(self) -> int:
        """Pixels of the images of the stage."""
        return self.plan.data.image_size

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Its training-set sizes."""
        return self.plan.spec.num_train

    def of(self, family: str, variant: str, num_pretrain: int | None, replicate: int) -> Start:
        """The cell of the same network and replicate that was trained on so many images."""
        wanted = (family, variant, num_pretrain, replicate)
        cell = next(
            cell for cell in self.plan.cells if (cell.family, cell.variant, cell.num_train, cell.replicate) == wanted
        )
        return Start(
            name=self.name,
            origin=cell.id,
            objective=cell.objective,
            num_pretrain=cell.num_train,
            train_flops=train_flops(cell.forward_flops, cell.batch_size * cell.steps),
        )


@dataclass(frozen=True)
class FileStart:
    """Weights on disk, the same for every replicate.

    Attributes:
        path: where the file lies now; its content alone counts.
        sha256: of its content.
        image_size: pixels of the images that the network in it is for.
    """

    name: str
    path: Path
    sha256: str
    image_size: int
    objective: ObjectiveName
    num_pretrain: int | None
    train_flops: float | None

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The one size that the study file gives, or None."""
        return (self.num_pretrain,)

    def of(self, family: str, variant: str, num_pretrain: int | None, replicate: int) -> Start:
        """The file, whoever asks."""
        del family, variant, num_pretrain, replicate
        return Start(
            name=self.name,
            origin=self.sha256,
            objective=self.objective,
            num_pretrain=self.num_pretrain,
            train_flops=self.train_flops,
        )


def start_notes(
    sources: Mapping[str, StartSource], data: DataInfo, cells: Sequence[tuple[str, Cell]]
) -> tuple[str, ...]:
    """What a reader must know of the weights that arms begin from, a sentence or two for each start.

    Args:
        sources: of the study's starts.
        data: what is fine-tuned on.
        cells: with the names of their arms.
    """
    notes = tuple(_note(source, data, cells) for source in sources.values())
    return (*notes, *_unequal_stages([source for source in sources.values() if isinstance(source, StageStart)]))


def _unequal_stages(stages: Sequence[StageStart]) -> tuple[str, ...]:
    """Where runs of two stages cost one network more than 2% apart: equal steps are not equal FLOPs."""
    costs: dict[tuple[str, str], dict[str, int]] = {}
    for source in stages:
        for cell in source.plan.cells:
            of = costs.setdefault((cell.family, cell.variant), {})
            cost = train_flops(cell.forward_flops, cell.batch_size * cell.steps)
            of[source.name] = max(cost, of.get(source.name, 0))
    apart = {network: max(of.values()) / min(of.values()) - 1 for network, of in costs.items()}
    if not apart or max(apart.values()) <= STAGES_ALIKE:
        return ()
    widest = max(apart, key=apart.__getitem__)
    listed = ", ".join(f"{name} {cost:.4g}" for name, cost in costs[widest].items())
    return (
        f"Training FLOPs of a run differ by {apart[widest]:.1%} between earlier stages: {widest[0]} {widest[1]} from "
        f"{listed}. A difference between these starts may be one of compute.",
    )


def _note(source: StartSource, data: DataInfo, cells: Sequence[tuple[str, Cell]]) -> str:
    begun = [(arm, cell.start) for arm, cell in cells if cell.start is not None and cell.start.name == source.name]
    arms = dict.fromkeys(arm for arm, _ in begun)
    begins = f"{', '.join(arms)} {'start' if len(arms) > 1 else 'starts'}"
    applied = data.image_size != source.image_size
    resized = f" The networks are then applied to images of {data.image_size} px." if applied else ""
    if isinstance(source, FileStart):
        outside = "which no budget here includes"
        cost = (
            "is not known" if source.train_flops is None else f"was {source.train_flops:.3g} training FLOPs, {outside}"
        )
        size = "an unknown number of" if source.num_pretrain is None else f"{source.num_pretrain:,}"
        return (
            f"{begins} from weights trained elsewhere (sha256 {source.sha256[:12]}; {source.objective}, {size} "
            f"images of {source.image_size} px), the same for every replicate.{resized} What they cost {cost}."
        )
    assert isinstance(source, StageStart)
    stage = source.plan
    sizes = ", ".join(f"{size:,}" for size in stage.spec.num_train)
    costs = sorted({start.train_flops for _, start in begun if start.train_flops is not None})
    span = " to ".join(dict.fromkeys(f"{cost:.3g}" for cost in (costs[0], costs[-1])))
    note = (
        f"{begins} from the weights of {source.name}, trained on {sizes} images of {stage.data.name} "
        f"({stage.data.image_size} px; objective: {stage.spec.objective}); each replicate starts from the same "
        f"replicate of {source.name}.{resized} One such training cost {span} training FLOPs, which no budget here "
        "includes."
    )
    if stage.data.name == data.name and not stage.spec.data.fresh_per_replicate:
        note += (
            f" Both stages draw from {data.name}: images that are fine-tuned or validated on may have been seen in "
            "pretraining; test images never."
        )
    return note
