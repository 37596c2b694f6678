"""Numbers from a paper that a study puts its own beside, in the paper's layout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .arms import parse_arm
from .strict import Strict

PlacedArm = Annotated[str, Field(min_length=1)] | None
"""An arm in a table, or a place that is empty there."""


class Published(Strict):
    """The section `published` of a study file. It changes nothing that is run.

    Attributes:
        source: paper, table, and what was trained and measured there.
        quantity: what the numbers are.
        measure: whether they are accuracies or errors; ours are shown as the same.
        values: published number per arm; an arm without one is shown with ours alone.
        columns: heads of the paper's table, after the one of its rows.
        rows: head of a row -> its arms, a column each; null, or nothing at the end, where the paper has no entry.
    """

    source: str
    quantity: str
    measure: Literal["accuracy", "error"] = "accuracy"
    values: Annotated[dict[str, float], Field(min_length=1)]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[dict[str, tuple[PlacedArm, ...]], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _are_arms(cls, values: dict[str, float]) -> dict[str, float]:
        for name in values:
            parse_arm(name, "")
        return values

    @model_validator(mode="after")
    def _everything_has_a_place(self) -> Published:
        placed = [arm for arms in self.rows.values() for arm in arms if arm is not None]
        for row, arms in self.rows.items():
            if len(arms) > len(self.columns):
                raise ValueError(f"rows.{row} has {len(arms)} entries for the {len(self.columns)} columns")
        if twice := sorted({arm for arm in placed if placed.count(arm) > 1}):
            raise ValueError(f"rows names {', '.join(twice)} twice")
        if absent := [arm for arm in self.values if arm not in placed]:
            raise ValueError(f"values names {', '.join(absent)}, which stands in no row")
        for arm in placed:
            parse_arm(arm, "")
        return self
