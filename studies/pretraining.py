"""What arms begin from as a study file declares it: an earlier stage, or weights on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from datamodules import DataConfig
from models.families import Head

from .budget import Budget
from .protocol import ObjectiveName
from .recipe import Recipe
from .strict import Strict


class Pretraining(Strict):
    """What arms written `family+name` begin from: an earlier stage of the study, or weights on disk.

    A stage is trained like any study, once for every network, size and replicate that begins from it, up to its full
    budget; `budget.branches` is not used. A file gives `checkpoint` and, where they are known, what it cost.

    Attributes:
        data: the images of the stage; null: the study's own.
        num_train: sizes of its training set, each a start of its own; of a file the one number that is known.
        num_validation: validation images; null: as many as the study has.
        budget: how long the stage trains.
        recipe: how it is optimised.
        head: `hidden` has one hidden layer, which fine-tuning replaces like any head.
        objective: what the stage learns; `masked_patches` needs no labels.
        checkpoint: file of weights: of this package, or of timm.
        image_size: pixels of the images that the network in the file is for; null: those of the study.
        train_flops: training FLOPs that the file cost, where they are known.
    """

    data: DataConfig | None = None
    num_train: tuple[PositiveInt, ...] = ()
    num_validation: PositiveInt | None = None
    budget: Budget | None = None
    recipe: Recipe = Recipe()
    head: Head = "linear"
    objective: ObjectiveName = "classification"
    checkpoint: Path | None = None
    image_size: PositiveInt | None = None
    train_flops: Annotated[float, Field(gt=0)] | None = None

    @field_validator("num_train", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _stage_or_file(self) -> Pretraining:
        of_a_stage, of_a_file = ("data", "num_validation", "budget", "recipe", "head"), ("image_size", "train_flops")
        if self.checkpoint is None:
            if given := [name for name in of_a_file if getattr(self, name) is not None]:
                raise ValueError(
                    f"{given[0]} belongs to a checkpoint on disk; a stage has that of its own data and budget"
                )
            if missing := [name for name in ("num_train", "budget") if not getattr(self, name)]:
                raise ValueError(f"needs {' and '.join(missing)}, or checkpoint=FILE for weights on disk")
        elif given := [name for name in of_a_stage if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(
                f"begins from the file {self.checkpoint}: leave out {', '.join(given)}, which train a stage"
            )
        elif len(self.num_train) > 1:
            raise ValueError(f"the file {self.checkpoint} was trained on one number of images, not on {self.num_train}")
        if len(set(self.num_train)) < len(self.num_train):
            raise ValueError(f"num_train names a size twice: {list(self.num_train)}")
        return self
