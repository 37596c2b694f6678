"""How an arm looks in every figure: one colour and marker per family, one line style per form of it.

The colours are those of Okabe and Ito (2008), which stay apart under the common colour-vision deficiencies; markers
and direct labels say the same again for grey print. Families from outside take the colours left over, in
alphabetical order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

INK = "#1b1f24"
MUTED = "#6a7380"
GRID = "#e3e6ea"
CHANCE = "#9aa3ad"
FLOOR = "#8a6d1d"


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of an arm, and the label readers see. Forms of a family have open markers."""

    label: str
    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]] = "-"
    open: bool = False

    @property
    def face(self) -> str:
        """Fill of the marker."""
        return "white" if self.open else self.colour

    @property
    def edge(self) -> str:
        """Outline of the marker."""
        return self.colour if self.open else "white"


FAMILY_LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "vit": Look("ViT", "#0072B2", "o"),
        "resnet": Look("ResNet", "#D55E00", "s"),
        "hybrid": Look("Hybrid", "#CC79A7", "D"),
        "mixer": Look("MLP-Mixer", "#009E73", "^"),
        "lstm": Look("LSTM", "#E69F00", "v"),
        "mlp": Look("Fully connected", "#4d4d4d", "X"),
    }
)
_OUTSIDE = (("#56B4E9", "P"), ("#882255", "p"), ("#117733", "h"), ("#332288", "*"), ("#999933", "d"))
_FORM_LINES: tuple[tuple[int, tuple[float, ...]], ...] = ((0, (4, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.4, 1.2, 1.4)))


def arm_looks(families: Mapping[str, str]) -> dict[str, Look]:
    """The look of every arm of a study.

    Args:
        families: family of each arm; an arm of the plain variant is named like its family.

    Returns:
        Looks in the order in which figures and tables list the arms: the built-in families first, in their fixed order.
    """
    outside = sorted(set(families.values()) - set(FAMILY_LOOKS))
    base = dict(FAMILY_LOOKS) | {
        family: Look(family, *_OUTSIDE[index % len(_OUTSIDE)]) for index, family in enumerate(outside)
    }
    rank = {family: index for index, family in enumerate(base)}
    looks: dict[str, Look] = {}
    for family in sorted(set(families.values()), key=rank.__getitem__):
        arms = sorted(arm for arm, its_family in families.items() if its_family == family)
        forms = [arm for arm in arms if arm != family]
        for arm in arms:
            look = base[family]
            if arm in forms:
                line = _FORM_LINES[forms.index(arm) % len(_FORM_LINES)]
                look = Look(
                    f"{look.label} ({arm.removeprefix(family + '-')})", look.colour, look.marker, line, open=True
                )
            looks[arm] = look
    return looks


def looks_of(frame: pd.DataFrame) -> dict[str, Look]:
    """The look of every arm in a table of records, in listing order."""
    return arm_looks(dict(zip(frame["arm"], frame["family"], strict=True)))


def size_label(num_train: float) -> str:
    """A short label for a number of images: 128, 512, 2k (2,048 or 2,000), 1.4k."""
    if num_train < 1000:
        return f"{num_train:.0f}"
    whole = int(num_train)
    for unit in (1024, 1000):
        if whole == num_train and whole % unit == 0:
            return f"{whole // unit}k"
    return f"{num_train / 1000:.3g}k"


def size_labels(sizes: Iterable[int]) -> list[str]:
    """Labels of a grid of sizes; written out in full where two short ones would be the same."""
    sizes = list(sizes)
    labels = [size_label(size) for size in sizes]
    return labels if len(set(labels)) == len(set(sizes)) else [f"{size:,}" for size in sizes]
