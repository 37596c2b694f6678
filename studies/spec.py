"""The question: what a study file may say, validated before anything runs."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from datamodules import DataConfig
from models.families import Head

from .arms import START_NAME, canonical_arm, parse_arm
from .budget import Budget
from .few_shot_spec import FewShotSpec
from .pretraining import Pretraining
from .protocol import ObjectiveName, Permutation, SeedKind
from .published import Published
from .recipe import LABEL_PRESERVING, Recipe
from .strict import Strict


class StudySpec(Strict):
    """A declared grid and its question.

    Attributes:
        families: the arms compared, each as `studies.arms` says: a family (`vit`), with a form (`resnet-circular`), in
            another tier (`vit@tiny`), a timm model (`timm:convnext_atto`) or a function (`package.module:build`).
        num_train: training-set sizes N, validation images not counted.
        num_validation: validation images V, carved first, the same for every N and arm.
        replicates: settings of the seeds; a number, or a mapping of arms with `default`. Fixed before running.
        vary: the seeds that change with the replicate; the others stay at their first value (a variance split).
        permutation: pixel permutation control applied to every image.
        ladder: permutations that every arm is trained under, each a rung, `none` among them, instead of the one
            `permutation`; empty: no ladder (PROTOCOL 9).
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
        few_shot: ridge regression on the frozen features of every start, beside the fine-tuning; null: none.
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
    ladder: tuple[Permutation, ...] = ()
    primary_pair: tuple[str, str] | None = None
    allow_unequal_flops: bool = False
    pretraining: dict[str, Pretraining] = Field(default_factory=dict)
    x: Literal["num_train", "num_pretrain"] = "num_train"
    objective: ObjectiveName = "classification"
    head: Head = "linear"
    designed_for: PositiveInt | None = None
    published: Published | None = None
    few_shot: FewShotSpec | None = None

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

    @field_validator("families", "num_train", "ladder")
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

    @field_validator("ladder", mode="before")
    @classmethod
    def _several_rungs(cls, ladder: Any) -> Any:  # noqa: ANN401  # of whatever a file says
        if ladder is None or isinstance(ladder, str):
            raise ValueError("expected a list such as [none, pixels]; [] for no ladder")
        return ladder

    @field_validator("ladder")
    @classmethod
    def _from_none_to_all(cls, ladder: tuple[Permutation, ...]) -> tuple[Permutation, ...]:
        """The rungs in one order, whatever the file's; a ladder without its lowest rung has nothing to compare with."""
        if ladder and ("none" not in ladder or len(ladder) == 1):
            raise ValueError("needs the rung none, which the others are compared with, and at least one other")
        return tuple(sorted(ladder, key=get_args(Permutation).index))

    @model_validator(mode="after")
    def _one_way_to_permute(self) -> StudySpec:
        if self.ladder and self.permutation != "none":
            raise ValueError(
                f"permutation: {self.permutation} beside a ladder; leave it none, or set ladder=[] for a study under "
                "this permutation alone"
            )
        if self.ladder and self.starts:
            raise ValueError(
                f"ladder: is for arms that are trained from scratch, and some begin from {', '.join(self.starts)}: "
                "leave those out, or run the study once per permutation=..."
            )
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
        silent = [name for name in self.starts if not self.pretraining[name].num_train]
        if self.x == "num_pretrain" and silent:
            raise ValueError(
                f"pretraining.{silent[0]}.num_train: curves run over x=num_pretrain, but the file does not say on how "
                "many images it was trained: give that number, or set x=num_train"
            )
        if self.x == "num_pretrain" and len(self.num_train) > 1:
            raise ValueError(f"num_train: give one size with x=num_pretrain, not {list(self.num_train)}")
        if self.few_shot is not None and not self.starts:
            raise ValueError(
                "few_shot: needs arms with a start, whose features are evaluated, such as vit+NAME with NAME under "
                f"pretraining; families: {list(self.families)}"
            )
        if self.starts and self.objective != "classification":
            raise ValueError(f"objective: {self.objective} is for studies and stages whose arms have no start")
        return self

    @property
    def starts(self) -> tuple[str, ...]:
        """The starts that arms begin from, in the order of the arms."""
        named = (parse_arm(arm, self.tier).start for arm in self.families)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def rungs(self) -> tuple[Permutation, ...]:
        """The permutations that every arm is trained under: those of the ladder, or the one of the study."""
        return self.ladder or (self.permutation,)

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
