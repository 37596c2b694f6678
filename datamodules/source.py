"""What every data source can do, whatever its kind: describe itself cheaply and load a decoded split."""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from datamodules.images import ImageSplit
from datamodules.info import DataError, DataInfo

Split = Literal["train", "test"]
Augmentation = Literal["crop", "flip"]

LABEL_PATTERN = r"^[\w.-]+$"  # a short name becomes part of a folder's name


class DataSource(BaseModel, ABC):
    """A data set as a study's configuration names it.

    Attributes:
        label_preserving: The augmentations that keep this data set's labels true; any other is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    fresh_per_replicate: ClassVar[bool] = False
    """Whether every replicate draws its own images, test split included, so that no pool is shared."""

    label_preserving: tuple[Augmentation, ...] = Field(default=(), validate_default=True)

    @abstractmethod
    def describe(self) -> DataInfo:
        """Facts for planning; decodes no image and loads no torch.

        Raises:
            DataError: A folder, file or column is not there, or what is there contradicts the configuration.
        """

    @abstractmethod
    def load(self, split: Split, *, seed: int = 0, cache: Path | None = None) -> ImageSplit:
        """The decoded split.

        Args:
            split: "train" (validation images included) or "test".
            seed: The replicate; only procedural sources heed it, with fresh images for every seed.
            cache: Folder of decoded splits; `datamodules.cache.cache_folder` says the default.

        Raises:
            DataError: As for `describe`, or an image cannot be decoded (the message names its file and row).
        """

    def check_augmentation(self, names: tuple[str, ...]) -> None:
        """Refuses augmentations that would make labels of this data set false.

        Raises:
            DataError: A name is not in `label_preserving`.
        """
        refused = [name for name in names if name not in self.label_preserving]
        if refused:
            allowed = ", ".join(self.label_preserving) or "none"
            raise DataError(
                f"augmentation {', '.join(refused)} is not declared to keep the labels of {self.describe().name} true "
                f"(allowed: {allowed}); drop it, or add it to data.label_preserving if it does"
            )


def fingerprint(**content: object) -> str:
    """SHA-256 (hexadecimal) of values that have a JSON form, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
