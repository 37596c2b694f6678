"""What every answer has in common: how it was reached, from what, without what, and a sentence for people."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Names = Mapping[str, str]
"""What a family is called in a sentence; a family that is not in it is called by its own name."""


@dataclass(frozen=True)
class LeftOut:
    """Something the data held that an answer does not rest on."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Finding(ABC):
    """An answer.

    Attributes:
        method: how it was reached, in words that a methods section could use.
        used: the data it rests on.
        left_out: what was in the table and is not in the answer, each with its reason.
    """

    method: str
    used: str
    left_out: tuple[LeftOut, ...] = ()

    @abstractmethod
    def sentence(self, names: Names | None = None) -> str:
        """The answer as a statement for people."""

    def __str__(self) -> str:
        return self.sentence()

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain values for JSON: its kind, its statement and all of its fields; NaN becomes None."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": type(self).__name__, "statement": self.sentence(), **plain(fields)}


def plain(value: Any) -> Any:  # noqa: ANN401  # any tree of dataclasses, arrays and tables
    """A tree of values as JSON holds it; what is not finite becomes None."""
    if isinstance(value, Finding):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def name_of(family: str, names: Names | None) -> str:
    """What a family is called."""
    return family if names is None else names.get(family, family)
