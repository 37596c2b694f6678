"""The grid: the arms of a study, all its cells, and the hash that locks them before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules import DataInfo

from .cell import ArmKey, Cell
from .digest import digest
from .errors import PlanError
from .spec import StudySpec
from .tuned import Citation

YOUNGER_SPEC_FIELDS = ("x", "objective", "head", "designed_for", "few_shot", "ladder")
"""Fields of a study that are younger than the plans of protocol 1: at their default they must not move a hash."""


@dataclass(frozen=True)
class Arm:
    """What is compared: a network and its cost per image.

    Attributes:
        name: as the study file names it.
        forward_flops: forward FLOPs per image, multiply-add = 2.
        first_layer_flops: the part of the first layer, which needs no input gradient.
        start: name of what it begins from; None where it is trained from scratch.
        designed_for: pixels of the images it is sized for, where these are not the study's.
    """

    name: str
    family: str
    variant: str
    forward_flops: int
    first_layer_flops: int
    num_parameters: int
    start: str | None = None
    designed_for: int | None = None

    @property
    def key(self) -> ArmKey:
        """What tells the cells of one arm from those of another."""
        return self.family, self.variant, self.start


@dataclass(frozen=True)
class Plan:
    """A study with every cell resolved.

    Attributes:
        notes: what a reader must know about the fairness of the comparison; repeated in the report.
        tuning: the finished tuning that learning rates and weight decays were taken from.
        pretraining: the earlier stages whose weights its cells begin from; each an ordinary study, run before.
    """

    spec: StudySpec
    data: DataInfo
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    tuning: Citation | None = None
    pretraining: tuple[Plan, ...] = ()

    @property
    def stages(self) -> tuple[Plan, ...]:
        """Everything that is run, in order; the plan itself is the last."""
        return (*self.pretraining, self)

    @property
    def protocol_version(self) -> str:
        """Version of the protocol the plan was made under."""
        return self.cells[0].protocol_version

    @cached_property
    def hash(self) -> str:
        """Hash of all that was declared, so that none of it can change after the fact.

        Where the data and the file of a tuning lie, what the study is said to cost and what others published are left
        out: none changes the study. A tuning counts by the hash of its content, an earlier stage by that of its plan, a
        file of weights by that of its content.
        """
        left_out: dict[str, Any] = {"data": True, "cost": True, "published": True, "recipe": {"tuning"}}
        left_out["pretraining"] = True
        for name in YOUNGER_SPEC_FIELDS:
            if getattr(self.spec, name) == StudySpec.model_fields[name].default:
                left_out[name] = True
        return digest(
            {
                "spec": self.spec.model_dump(mode="json", exclude=left_out),
                "data": _data_json(self.data),
                "arms": [_arm_json(arm) for arm in self.arms],
                "cells": [cell.id for cell in self.cells],
                "notes": self.notes,
                "protocol_version": self.protocol_version,
                **self._tuning_json,
                **({"pretraining": [stage.hash for stage in self.pretraining]} if self.pretraining else {}),
            }
        )

    @property
    def is_tuning(self) -> bool:
        """Whether its cells are trials of a tuning, which never read the test split."""
        return not any(cell.reads_test for cell in self.cells)

    @property
    def _tuning_json(self) -> dict[str, Any]:
        return {} if self.tuning is None else {"tuning": self.tuning.model_dump(mode="json")}

    @property
    def study_id(self) -> str:
        """Folder of the study in the store, and its group in W&B."""
        return f"{self.spec.name}.{self.hash[:8]}"

    @property
    def executed_flops(self) -> int:
        """Training FLOPs of all cells, trunks and cooldowns."""
        return sum(cell.executed_flops for cell in self.cells)

    def arm(self, cell: Cell) -> Arm:
        """The arm a cell belongs to."""
        return self._arms[cell.arm_key]

    @cached_property
    def _arms(self) -> dict[ArmKey, Arm]:
        return {arm.key: arm for arm in self.arms}

    def to_json(self) -> dict[str, Any]:
        """The plan as it is locked in the store."""
        return {
            "study_id": self.study_id,
            "plan_hash": self.hash,
            "protocol_version": self.protocol_version,
            "spec": self.spec.model_dump(mode="json"),
            "data": _data_json(self.data),
            "arms": [_arm_json(arm) for arm in self.arms],
            "cells": [{"id": cell.id} | cell.model_dump(mode="json") for cell in self.cells],
            "notes": list(self.notes),
            **self._tuning_json,
            "pretraining": [stage.to_json() for stage in self.pretraining],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Reads a locked plan back.

        Raises:
            PlanError: the file was altered: a cell or the whole no longer has the hash it was locked with.
        """
        cells = tuple(Cell.model_validate({k: v for k, v in cell.items() if k != "id"}) for cell in content["cells"])
        plan = cls(
            spec=StudySpec.model_validate(content["spec"]),
            data=DataInfo(**(content["data"] | {"class_names": tuple(content["data"]["class_names"])})),
            arms=tuple(Arm(**arm) for arm in content["arms"]),
            cells=cells,
            notes=tuple(content["notes"]),
            tuning=Citation.model_validate(content["tuning"]) if "tuning" in content else None,
            pretraining=tuple(cls.from_json(stage) for stage in content.get("pretraining", ())),
        )
        if [cell.id for cell in cells] != [cell["id"] for cell in content["cells"]] or plan.hash != content[
            "plan_hash"
        ]:
            raise PlanError(
                f"plan.json of {content['study_id']} was altered: its content no longer has the hash it was locked with"
            )
        return plan


def _data_json(data: DataInfo) -> dict[str, Any]:
    return vars(data) | {"class_names": list(data.class_names)}


def _arm_json(arm: Arm) -> dict[str, Any]:
    """An arm as it is hashed: fields younger than protocol 1 only where they say something."""
    return {name: value for name, value in vars(arm).items() if value is not None}
