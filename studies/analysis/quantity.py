"""What a curve runs over, and how its values are written for people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from studies.counts import counted

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


@dataclass(frozen=True)
class Quantity:
    """A quantity x that error is measured against.

    Attributes:
        column: its name in a table.
        axis: its name on an axis.
        unit: what it counts, in the plural.
        of: how a multiplier of it is called: the *data* multiplier counts images.
        grouped: counted things, written as 2,849.
        prefixed: large numbers, written as 33.6G.
    """

    column: str
    axis: str
    unit: str
    of: str
    grouped: bool = False
    prefixed: bool = False

    def value(self, x: float) -> str:
        """A value with its unit: `2,849 images`, `33.6G training FLOPs`."""
        return f"{self.number(x)} {self.unit}"

    @property
    def heading(self) -> str:
        """Its name over a column: `Training images N`."""
        return self.axis[:1].upper() + self.axis[1:]

    @property
    def counts_images(self) -> bool:
        """Whether it is a number of images: one trains with so many, and spends as much as one decides."""
        return self.unit.endswith("images")

    def places(self, count: int) -> str:
        """So many values of it: `9 sizes`, `4 values of training FLOPs`."""
        one = counted(count, "size" if self.counts_images else "value")
        return one if self.counts_images else f"{one} of {self.axis}"

    def number(self, x: float) -> str:
        """A value without its unit, at four significant digits at most where it is counted."""
        if not math.isfinite(x):
            return "unlimited" if x > 0 else "unknown"
        if self.grouped and 1 <= x < 1e7:
            return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
        if self.prefixed and x >= 1000:
            power = min(int(math.log10(x)) // 3, len(PREFIXES) - 1)
            if float(f"{x / 1000**power:.3g}") >= 1000 and power < len(PREFIXES) - 1:  # 999,999 is 1M
                power += 1
            return f"{x / 1000**power:.3g}{PREFIXES[power]}"
        return f"{x:.3g}"


KNOWN = {
    "num_train": Quantity("num_train", "training images N", "images", "data", grouped=True),
    "num_pretrain": Quantity(
        "num_pretrain", "pretraining images", "pretraining images", "pretraining data", grouped=True
    ),
    "train_flops": Quantity("train_flops", "training FLOPs", "training FLOPs", "compute", prefixed=True),
    "train_flops_exact": Quantity(
        "train_flops_exact", "exact training FLOPs", "training FLOPs", "compute", prefixed=True
    ),
    "num_parameters": Quantity("num_parameters", "parameters", "parameters", "size", prefixed=True),
    "train_seconds": Quantity("train_seconds", "seconds of training", "seconds of training", "time"),
    "epochs": Quantity("epochs", "passes over the training set", "passes", "epoch"),
}


SAME_AS = dict.fromkeys(("train_size", "n_train", "num_images", "num_samples", "n_images"), "num_train")
"""Other usual names of training images."""


def quantity(column: str) -> Quantity:
    """The quantity of a column; an unknown column is called by its own name."""
    known = KNOWN.get(SAME_AS.get(column, column))
    return replace(known, column=column) if known else Quantity(column, column, f"({column})", column)
