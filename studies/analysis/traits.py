"""What two arms differ in: the prior, or, of one family, the size, the start, the position embedding, ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

_NAMED: Mapping[str, str] = {
    **dict.fromkeys(
        ("nopos", "learned2d", "sin1d", "sin2d", "relbias", "relquery", "rotary", "every", "shared"),
        "position embedding",
    ),
    "cls": "class token",
    "regularized": "regularisation",
    "circular": "padding",
    "gn": "normalisation",
    **dict.fromkeys(("half", "quarter"), "depth of convolution"),
    **dict.fromkeys(("raster", "column", "snake", "shuffled"), "scan order"),
}
"""What the words of a form change about their family (`models`); another word changes the form."""


TRAIT_COLUMNS = ("arm", "family", "variant", "start", "designed_for")


@dataclass(frozen=True)
class Traits:
    """What an arm is made of."""

    family: str
    tier: str
    form: str
    start: str
    designed_for: int


def traits_of(frame: pd.DataFrame) -> dict[str, Traits]:
    """The traits of every arm of a table of records; none where its columns do not tell them."""
    if not set(TRAIT_COLUMNS) <= set(frame.columns):
        return {}
    found = {}
    for row in frame[list(TRAIT_COLUMNS)].drop_duplicates("arm").to_dict("records"):
        tier, _, form = str(row["variant"]).partition("-")
        found[str(row["arm"])] = Traits(str(row["family"]), tier, form, str(row["start"]), int(row["designed_for"]))
    return found


def differs_in(first: str, second: str, traits: Mapping[str, Traits]) -> str:
    """What two families differ in, as a sentence calls it: `prior`, `size`, `position embedding and class token`.

    Families whose traits are not known differ in their prior: that is what a pair is declared for.
    """
    if first not in traits or second not in traits or traits[first].family != traits[second].family:
        return "prior"
    one, other = traits[first], traits[second]
    words = set(one.form.split("-")) ^ set(other.form.split("-"))
    names = [
        *(["size"] if one.tier != other.tier else []),
        *sorted({_NAMED.get(word, "form") for word in words if word}),
        *(["start"] if one.start != other.start else []),
        *(["image size designed for"] if one.designed_for != other.designed_for else []),
    ]
    return " and ".join(names) or "prior"
