"""How an arm looks in every figure: one colour and marker per family, one line style per form of it. Where a study
compares more forms of a family than there are line styles, each arm takes a colour and a marker of its own.

The colours are those of Okabe and Ito (2008), which stay apart under the common colour-vision deficiencies; markers
and direct labels say the same again for grey print. Families from outside take the colours left over, in
alphabetical order.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import pandas as pd

from models.tiers import split_variant
from studies.arms import parse_arm

INK = "#1b1f24"
MUTED = "#6a7380"
GRID = "#e3e6ea"
CHANCE = "#9aa3ad"
FLOOR = "#8a6d1d"

Line = str | tuple[int, tuple[float, ...]]
"""A line style as matplotlib takes it."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of an arm, and the label readers see. Forms of a family have open markers."""

    label: str
    colour: str
    marker: str
    line: Line = "-"
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


def arm_looks(families: Mapping[str, str], tiers: Mapping[str, str] | None = None) -> dict[str, Look]:
    """The look of every arm of a study.

    Args:
        families: family of each arm; an arm of the plain variant is named like its family.
        tiers: tier of each arm, where labels are to tell it although the name does not.

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
        others = {base[other].colour for other in families.values() if other != family}
        drawn = _drawn(arms, family, base[family], others)
        for arm in arms:
            told = "" if ":" in family else (tiers or {}).get(arm, "")  # what comes from outside has no tier
            plain = arm == family and not told
            label = base[family].label if plain else _label(base[family].label, arm, told)
            looks[arm] = replace(drawn[arm], label=label)
    return looks


def _drawn(arms: Sequence[str], family: str, base: Look, others: Collection[str]) -> dict[str, Look]:
    """Colours, markers and lines of the arms of a family, which keep out of the colours of others."""
    forms = [arm for arm in arms if arm != family]
    if len(forms) <= len(_FORM_LINES):
        line_of = dict(zip(forms, _FORM_LINES, strict=False))
        return {arm: replace(base, line=line_of[arm], open=True) if arm in line_of else base for arm in arms}
    known = [(look.colour, look.marker) for look in FAMILY_LOOKS.values()]
    pairs = [(base.colour, base.marker)]
    pairs += [pair for pair in (*known, *_OUTSIDE) if pair[0] != base.colour and pair[0] not in others]
    lines: tuple[Line, ...] = ("-", *_FORM_LINES)
    styles = [(line, colour, marker) for line in lines for colour, marker in pairs]
    return {
        arm: Look(base.label, colour, marker, line, open=line != "-")
        for arm, (line, colour, marker) in zip(arms, itertools.cycle(styles), strict=False)
    }


def _label(family: str, arm: str, tier: str) -> str:
    """`ViT (tiny, cls, from masked)`: the family's label and what is said of the arm besides."""
    named = parse_arm(arm, tier)
    words = [*split_variant(named.variant), f"from {named.start}" if named.start else ""]
    said = ", ".join(filter(None, words))
    return f"{family} ({said})" if said else family


def looks_of(frame: pd.DataFrame) -> dict[str, Look]:
    """The look of every arm in a table of records, in listing order; where tiers differ, every label tells its own."""
    arms = frame.drop_duplicates("arm")
    tiers = {arm: split_variant(variant)[0] for arm, variant in zip(arms["arm"], arms["variant"], strict=True)}
    families = dict(zip(arms["arm"], arms["family"], strict=True))
    return arm_looks(families, tiers if len(set(tiers.values())) > 1 else None)


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
