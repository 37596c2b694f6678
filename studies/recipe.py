"""How every run is optimised: the hyper-parameters of a study, for all arms or for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from .strict import Strict

Augmentation = Literal["crop", "flip", "label_preserving"]
LABEL_PRESERVING: Literal["label_preserving"] = "label_preserving"


class Recipe(Strict):
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


def _items(value: float | Mapping[str, float]) -> list[tuple[str, float]]:
    return list(value.items()) if isinstance(value, Mapping) else [("value", value)]
