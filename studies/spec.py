"""The question: what a study file may say, validated before anything runs."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator, model_validator

from datamodules import DataConfig
from models.families import Head

from .arms import START_NAME, canonical_arm, parse_arm
from .budget import STEP_MULTIPLE
from .published import Published

PROTOCOL_VERSION = "1"
"""Changes whenever a golden result or a rule of the protocol does: records of different versions are never mixed."""

SeedKind = Literal["subset", "order", "initialization", "augmentation"]
Augmentation = Literal["crop", "flip", "label_preserving"]
LABEL_PRESERVING: Literal["label_preserving"] = "label_preserving"
Permutation = Literal["none", "within_patch", "patches", "pixels"]
ObjectiveName = Literal["classification", "masked_patches"]
"""What a network learns: the classes of images, or the colours of patches hidden from it (`models.masked_patches`)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(_Strict):
    """How long every run trains. Exactly one of `train_flops`, `steps` and `epochs` is given.

    Attributes:
        train_flops: training FLOPs C of one run; the steps follow from the costliest arm, so that nobody exceeds C.
        steps: optimiser steps at C, a multiple of 40.
        epochs: a declared alternative to matched compute: passes over each training set, so that C grows with it.
        batch_size: images per optimiser step, equal for all arms.
        branches: fractions of C at which a cooldown ends; 1 is always among them.
        warmup_fraction: part of C during which the learning rate rises, at most 3% (PROTOCOL 3).
        cooldown_fraction: part of each branch that is its cooldown.
    """

    train_flops: Annotated[float, Field(gt=0)] | None = None
    steps: PositiveInt | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=2)] = 96
    branches: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.125, 0.25, 0.5, 1.0)
    warmup_fraction: Annotated[float, Field(ge=0, le=0.03)] = 0.03
    cooldown_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @field_validator("steps")
    @classmethod
    def _whole_branches(cls, steps: int | None) -> int | None:
        if steps is not None and steps % STEP_MULTIPLE:
            below = steps - steps % STEP_MULTIPLE
            nearest = f"{below} or {below + STEP_MULTIPLE}" if below else f"at least {STEP_MULTIPLE}"
            raise ValueError(f"must be a multiple of {STEP_MULTIPLE} so that every branch is whole: {nearest}")
        return steps

    @field_validator("branches")
    @classmethod
    def _ends_at_full_budget(cls, branches: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in branches:
            raise ValueError("must contain 1.0, the full budget")
        if len(set(branches)) < len(branches):
            raise ValueError("names a fraction twice")
        return tuple(sorted(branches))

    @model_validator(mode="after")
    def _one_length(self) -> Budget:
        given = [name for name in ("train_flops", "steps", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of train_flops, steps and epochs; given: {', '.join(given) or 'none'}")
        return self


class Recipe(_Strict):
    """How every run is optimised. A mapping sets a value per arm, with `default` for the arms it does not name.

    Attributes:
        augmentation: what is done to training images; `label_preserving`: all that keeps this data set's labels true.
        tuning: a finished tuning, by the name of a shipped one or the path of its file. Each cell then takes learning
            rate and weight decay from it, and those given here are not used.
    """

    learning_rate: float | dict[str, float] = 1e-3
    weight_decay: float | dict[str, float] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: tuple[Augmentation, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    tuning: str | None = None

    @field_validator("augmentation", mode="before")
    @classmethod
    def _one_word(cls, augmentation: object) -> object:
        return (augmentation,) if augmentation == LABEL_PRESERVING else augmentation

    @field_validator("augmentation")
    @classmethod
    def _in_one_order(cls, augmentation: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if LABEL_PRESERVING in augmentation and len(augmentation) > 1:
            raise ValueError(f"{LABEL_PRESERVING} is all of them already: give it alone, or name some of crop and flip")
        return tuple(sorted(set(augmentation)))  # the order is not a choice: crop comes before flip

    @field_validator("learning_rate", "weight_decay")
    @classmethod
    def _sane(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        for name, number in _items(value):
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{name}: {number} is not a finite number of at least 0")
        if isinstance(value, dict) and "default" not in value:
            raise ValueError("needs the key `default`, used for every arm not named")
        return value

    def value(self, field: Literal["learning_rate", "weight_decay"], arm: str, family: str) -> float:
        """The hyper-parameter of an arm: its own entry, else its family's, else the default."""
        setting: float | dict[str, float] = getattr(self, field)
        if not isinstance(setting, Mapping):
            return setting
        return setting.get(arm, setting.get(family, setting["default"]))


class Pretraining(_Strict):
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


class StudySpec(_Strict):
    """A declared grid and its question.

    Attributes:
        families: the arms compared, each as `studies.arms` says: a family (`vit`), with a form (`resnet-circular`), in
            another tier (`vit@tiny`), a timm model (`timm:convnext_atto`) or a function (`package.module:build`).
        num_train: training-set sizes N, validation images not counted.
        num_validation: validation images V, carved first, the same for every N and arm.
        replicates: settings of the seeds; a number, or a mapping of arms with `default`. Fixed before running.
        vary: the seeds that change with the replicate; the others stay at their first value (a variance split).
        permutation: pixel permutation control applied to every image.
        primary_pair: the two arms whose crossover the study is about, the stronger prior first.
        allow_unequal_flops: admit arms whose forward FLOPs differ by more than 5%; each then takes its own number of
            steps at the same C, and the report says so.
        pretraining: what arms written `family+name` begin from, by name.
        x: what the study's curves run over: `num_train`, or `num_pretrain`, the images that the starts were trained on.
        objective: what is learnt and measured.
        head: the last layer or layers.
        designed_for: pixels of the images that networks are sized for, where these are applied to others; null: those
            of the data. An arm with a start has those of its start.
        published: numbers from a paper, shown beside ours; changes nothing that is run.
    """

    name: str
    question: str
    cost: str = ""
    data: DataConfig
    tier: Literal["nano", "micro", "tiny", "small", "base"] = "nano"
    families: Annotated[tuple[str, ...], Field(min_length=1)]
    num_train: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    num_validation: PositiveInt
    replicates: PositiveInt | dict[str, PositiveInt] = 3
    seed: Annotated[int, Field(ge=0)] = 0
    vary: tuple[SeedKind, ...] = ("subset", "order", "initialization", "augmentation")
    budget: Budget
    recipe: Recipe = Recipe()
    permutation: Permutation = "none"
    primary_pair: tuple[str, str] | None = None
    allow_unequal_flops: bool = False
    pretraining: dict[str, Pretraining] = Field(default_factory=dict)
    x: Literal["num_train", "num_pretrain"] = "num_train"
    objective: ObjectiveName = "classification"
    head: Head = "linear"
    designed_for: PositiveInt | None = None
    published: Published | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            raise ValueError("must be 1 to 64 letters, digits, _ or -, beginning with a letter or digit")
        return name

    @field_validator("families", "replicates", "recipe", "primary_pair")
    @classmethod
    def _one_name_for_an_arm(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401  # any of the four
        return _canonical(value, str(info.data.get("tier", "")))

    @field_validator("families", "num_train")
    @classmethod
    def _no_repeats(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} twice")
        return values

    @field_validator("families")
    @classmethod
    def _known_families(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        from models import family_names

        for name in families:
            family = parse_arm(name, "").family
            if ":" not in family and family not in family_names():
                close = difflib.get_close_matches(family, family_names(), n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                choices = f"{', '.join(family_names())}, timm:NAME, or package.module:build"
                raise ValueError(f"unknown family {name!r}{hint}; expected one of {choices}")
        return families

    @model_validator(mode="after")
    def _names_known_arms(self) -> StudySpec:
        arms = set(self.families)
        if self.primary_pair is not None and self.primary_pair[0] == self.primary_pair[1]:
            raise ValueError(f"primary_pair {list(self.primary_pair)} must name two different arms")
        if self.primary_pair is not None and not set(self.primary_pair) <= arms:
            raise ValueError(
                f"primary_pair {list(self.primary_pair)} must name two of families {list(self.families)}, or be null"
            )
        if isinstance(self.replicates, dict):
            if "default" not in self.replicates:
                raise ValueError("replicates needs the key `default`, used for every arm not named")
            unknown = set(self.replicates) - arms - {"default"}
            if unknown:
                raise ValueError(f"replicates names {sorted(unknown)}, expected some of families {list(self.families)}")
        if not self.vary and max(map(self.num_replicates, self.families)) > 1:
            raise ValueError("vary is empty, so that all replicates are the same run: name a seed or set replicates=1")
        return self

    @field_validator("pretraining")
    @classmethod
    def _plain_starts(cls, pretraining: dict[str, Pretraining]) -> dict[str, Pretraining]:
        for name in pretraining:
            if not re.fullmatch(START_NAME, name) or name == "tuning":
                raise ValueError(f"a start is called by letters, digits, _ or -, and not tuning; given: {name!r}")
        return pretraining

    @model_validator(mode="after")
    def _starts_are_declared(self) -> StudySpec:
        for name in self.starts:
            if name not in self.pretraining:
                close = difflib.get_close_matches(name, list(self.pretraining), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"families: an arm begins from {name!r}, which pretraining does not declare{hint} (declared: "
                    f"{', '.join(self.pretraining) or 'none'})"
                )
        several = [name for name in self.starts if len(self.pretraining[name].num_train) > 1]
        if self.x == "num_train" and several:
            raise ValueError(
                f"pretraining.{several[0]}.num_train: names several sizes while curves run over x=num_train: give one, "
                "or set x=num_pretrain"
            )
        if self.x == "num_pretrain" and not self.starts:
            raise ValueError("x: num_pretrain needs arms with a start, such as vit+NAME with NAME under pretraining")
        if self.x == "num_pretrain" and len(self.num_train) > 1:
            raise ValueError(f"num_train: give one size with x=num_pretrain, not {list(self.num_train)}")
        if self.starts and self.objective != "classification":
            raise ValueError(f"objective: {self.objective} is for studies and stages whose arms have no start")
        return self

    @property
    def starts(self) -> tuple[str, ...]:
        """The starts that arms begin from, in the order of the arms."""
        named = (parse_arm(arm, self.tier).start for arm in self.families)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def augmentation(self) -> tuple[str, ...]:
        """The augmentations by name, `label_preserving` resolved for this study's data."""
        if self.recipe.augmentation == (LABEL_PRESERVING,):
            return tuple(sorted(self.data.label_preserving))
        return self.recipe.augmentation

    def num_replicates(self, arm: str) -> int:
        """Replicates R of an arm."""
        if isinstance(self.replicates, dict):
            return self.replicates.get(arm, self.replicates["default"])
        return self.replicates


class EngineSpec(_Strict):
    """Where cells run. Nothing here changes a result, so none of it enters a cell's id or the plan's hash.

    Attributes:
        workers: processes at once; by default one per CPU core, or one per GPU.
        device: `auto` takes the GPUs if there are any.
        lanes: runs of one architecture trained at once as one program. `auto`: on a GPU as many as this machine is
            measured to gain from; on a CPU three of networks so small that calling kernels costs more than running
            them, else one. Rounding differs between a run in lanes and the same run without (lanes=1), on a CPU not
            with their number.
        compile: compile the network (`torch.compile`) of a program of lanes, on GPUs only; costs a minute or so for
            every architecture.
        devices_per_cell: GPUs, or processes on a CPU, that train one cell together: for cells too large for one. Then
            there are as many workers as there are whole sets of them, and no lanes.
        strategy: Lightning's strategy for them; `auto` is `ddp`, distributed data-parallel training.
        chunk_steps: optimiser steps per Lightning `training_step`.
        checkpoint_seconds: least time between two checkpoints of a running cell; more where writing them would take
            over 5% of it; 0 saves after every chunk.
        keep_checkpoints: keep each branch's final weights beside the record.
    """

    kind: Literal["local"] = "local"
    workers: PositiveInt | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    lanes: Literal["auto"] | PositiveInt = "auto"
    compile: bool = False
    devices_per_cell: PositiveInt = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"] = "auto"
    chunk_steps: PositiveInt = 50
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    keep_checkpoints: bool = False

    @field_validator("lanes", mode="before")
    @classmethod
    def _whole_number_or_auto(cls, value: object) -> object:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError("expected auto or a whole number of at least 1")
        return value

    @model_validator(mode="after")
    def _one_way_to_use_devices(self) -> EngineSpec:
        if self.strategy != "auto" and self.devices_per_cell == 1:
            raise ValueError(
                f"strategy {self.strategy} is for several devices per cell: set devices_per_cell to 2 or more, "
                "or strategy to auto"
            )
        if self.devices_per_cell > 1 and self.lanes not in ("auto", 1):
            raise ValueError(
                f"lanes {self.lanes} share one device and devices_per_cell {self.devices_per_cell} splits a cell over "
                "several: set one of them to 1"
            )
        if self.devices_per_cell > 1 and self.compile:
            raise ValueError(
                f"compile true is for programs on one device and devices_per_cell {self.devices_per_cell} splits a "
                "cell over several: set compile to false, or devices_per_cell to 1"
            )
        return self


def _items(value: float | Mapping[str, float]) -> list[tuple[str, float]]:
    return list(value.items()) if isinstance(value, Mapping) else [("value", value)]


def _canonical(value: Any, tier: str) -> Any:  # noqa: ANN401  # names in a tuple, in a mapping's keys or in a recipe
    """The same with every arm written in one way, so that `vit@nano` and `vit` are one arm in a study of tier nano."""
    if isinstance(value, tuple):
        return tuple(canonical_arm(name, tier) for name in value)
    if isinstance(value, dict):
        names = [canonical_arm(name, tier) for name in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} twice")
        return dict(zip(names, value.values(), strict=True))
    if isinstance(value, Recipe):
        fields = ("learning_rate", "weight_decay")
        return value.model_copy(update={field: _canonical(getattr(value, field), tier) for field in fields})
    return value
