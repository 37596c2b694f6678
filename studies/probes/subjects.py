"""What the probes of a study are applied to: every network trained and untrained, and the networks of an arm together.

Which results there will be follows from the plan alone. The id of one is a hash of its probe and settings, and of the
cell whose weights are probed, or of what an untrained network and its images are made of: so the untrained network of a
replicate is probed once for all sizes, in any study.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from studies.cell import YOUNGER_CELL_FIELDS, Cell
from studies.errors import ConfigError
from studies.grid import Plan
from studies.kept_results import id_of
from studies.kept_weights import START_BRANCH

from .catalogue import ProbeKind

Weights = Literal["trained", "initial"]
WEIGHTS: tuple[Weights, ...] = ("initial", "trained")
OF_TRAINING = frozenset(
    {"data", "num_train", "augmentation", "replicate", "seeds", "learning_rate", "weight_decay", "label_smoothing",
     "precision", "batch_size", "steps", "branches", "warmup_fraction", "cooldown_fraction", "reads_test", "start"}
)  # fmt: skip
"""Fields of a cell that change neither its untrained network nor the images it is probed on, or only name them."""
MOST_SEEDS = 1000
"""Draws of images of one replicate use seeds up to so many, so that no two replicates share one."""


@dataclass(frozen=True)
class Subject:
    """A probe and the networks it is applied to.

    Attributes:
        arm: name of the arm.
        cells: whose networks; one, or of a probe across sizes those of all sizes, ascending.
        sizes: of the cells, along the axis of the study.
        weights: `trained`: the final weights of the full budget; `initial`: those drawn for the replicate.
    """

    kind: ProbeKind
    arm: str
    cells: tuple[Cell, ...]
    sizes: tuple[int, ...]
    weights: Weights

    @property
    def cell(self) -> Cell:
        """The cell, or the smallest of several."""
        return self.cells[0]

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the result."""
        if self.weights == "trained":
            networks = [{"cell": cell.id, "branch": START_BRANCH} for cell in self.cells]
        else:
            networks = [_untrained(cell) for cell in self.cells]
        return {
            "probe": self.kind.name,
            "probe_version": self.kind.version,
            "settings": dict(self.kind.settings),
            "weights": self.weights,
            "networks": networks,
        }

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        return id_of(self.identity)

    @property
    def title(self) -> str:
        """A name for people; never parsed."""
        cell = self.cell
        permuted = "" if cell.permutation == "none" else f", permuted={cell.permutation}"
        network = f"{self.arm} r={cell.replicate}{permuted}"
        if self.kind.across_sizes:
            return f"{self.kind.name} of {network} across {', '.join(map(str, self.sizes))}"
        return f"{self.kind.name} of {network}, " + (
            f"trained, {self.sizes[0]} images" if self.weights == "trained" else "untrained"
        )


def _untrained(cell: Cell) -> dict[str, Any]:
    """What an untrained network and its validation images are made of: of a cell all that is not of its training."""
    of_training = set(OF_TRAINING)
    for name in YOUNGER_CELL_FIELDS:  # as of the cell itself: at their default they move no id
        if getattr(cell, name) == type(cell).model_fields[name].default:
            of_training.add(name)
    seeds = {"initialization": cell.seeds.initialization, "subset": cell.seeds.subset}
    return cell.model_dump(mode="json", exclude=of_training) | {"seeds": seeds}


def subjects(plan: Plan, kinds: Sequence[ProbeKind]) -> tuple[Subject, ...]:
    """Everything that probes are applied to in a study, network by network.

    The untrained network of a replicate stands here once for every size, each time with the same id.

    Raises:
        ConfigError: the plan is a tuning's, whose networks nobody reports, or its networks classify nothing.
    """
    if reason := why_not_probed(plan):
        raise ConfigError(reason)
    found = []
    for cell in sorted(plan.cells, key=lambda cell: cell.replicate):
        arm, size = plan.arm(cell).name, _size(cell, plan)
        for weights in WEIGHTS:
            for kind in kinds:
                if not kind.across_sizes:
                    found.append(Subject(kind, arm, (cell,), (size,), weights))
    for kind in kinds:
        if kind.across_sizes:
            found += [Subject(kind, *group, "trained") for group in _across_sizes(plan)]
    return tuple(found)


def why_not_probed(plan: Plan) -> str | None:
    """Why the networks of a study are not probed; None if they are."""
    if plan.is_tuning:
        return f"{plan.study_id} is a tuning: its trials are not probed; probe a study that cites it"
    if plan.spec.objective != "classification":
        return (
            f"{plan.study_id} learns {plan.spec.objective}: its networks tell no class of an image; probe the study "
            "that is fine-tuned from them"
        )
    return None


def once(found: Iterable[Subject]) -> tuple[Subject, ...]:
    """Every result once."""
    return tuple({subject.id: subject for subject in found}.values())


def _across_sizes(plan: Plan) -> Iterable[tuple[str, tuple[Cell, ...], tuple[int, ...]]]:
    """Arm, cells and sizes of every replicate and permutation that has several sizes."""
    other = "num_pretrain" if plan.spec.x == "num_train" else "num_train"
    groups: dict[tuple[str, str, int, int], list[Cell]] = {}
    for cell in plan.cells:
        key = (plan.arm(cell).name, cell.permutation, cell.replicate, _along(cell, other))
        groups.setdefault(key, []).append(cell)
    for (arm, _, _, _), cells in groups.items():
        ordered = sorted(cells, key=lambda cell: _size(cell, plan))
        sizes = tuple(_size(cell, plan) for cell in ordered)
        if len(set(sizes)) == len(sizes) > 1:
            yield arm, tuple(ordered), sizes


def _size(cell: Cell, plan: Plan) -> int:
    return _along(cell, plan.spec.x)


def _along(cell: Cell, axis: str) -> int:
    """The size of a cell along an axis; 0 where it is not known, or there is no start."""
    if axis == "num_train":
        return cell.num_train
    return 0 if cell.start is None else cell.start.num_pretrain or 0
