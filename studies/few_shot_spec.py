"""What a study declares of its few-shot linear evaluation; see `studies.few_shot` for what that is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from .errors import PlanError
from .strict import Strict

MOST_DRAWS = 1000
"""Most draws of a replicate: those of the next begin after so many seeds, so that no two replicates share one."""


class FewShotSpec(Strict):
    """Closed-form ridge regression on the frozen features of every start, beside the fine-tuning from it.

    It reads the test split, so it is declared: where a study has it, it enters the hash of the plan.

    Attributes:
        shots: numbers of labelled images per class (k), each evaluated.
        draws: how many times the k images are drawn, for every replicate.
    """

    shots: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    draws: Annotated[int, Field(ge=1, le=MOST_DRAWS)] = 5

    @field_validator("shots", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("shots")
    @classmethod
    def _ascending(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(shots)) < len(shots):
            raise ValueError(f"names a number of images twice: {list(shots)}")
        return tuple(sorted(shots))

    def check_pool(self, num_images: int, num_classes: int, data: str) -> None:
        """Refuses more images per class than the rarest class can have.

        Args:
            num_images: training images that are not held out for validation.
            num_classes: K.
            data: name of the data set.

        Raises:
            PlanError: says how many there are at most.
        """
        most = num_images // num_classes
        if max(self.shots) > most:
            raise PlanError(
                f"few_shot.shots: {max(self.shots)} images per class were asked for, but {data} has {num_images} "
                f"training images of {num_classes} classes besides the validation images: give at most {most}"
            )
