"""How an arm of a study is written: `family[@tier][-form][+start]`. The one place that knows this grammar.

    vit                      the family as it is, in the study's tier
    vit-learned2d-every      another form of it; a form may hold dashes
    vit@tiny                 in another tier than the study's
    vit@tiny-cls+masked      both, beginning from the study's pretraining `masked`
    timm:convnext_atto       a family from outside (a colon in its name) is taken whole, but for a last `+start`

A network is named by family and variant (`models.tiers`): the variant is the tier, with the form after a dash.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from models.tiers import TIERS, split_variant

START_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""What a start may be called: letters, digits, `_` and `-`."""

_GRAMMAR = "family[@tier][-form][+start]"
_NETWORK = re.compile(r"(?P<family>[^@+-]+)(@(?P<tier>[^@+-]+))?(-(?P<form>[^@+]+))?")


@dataclass(frozen=True)
class ArmName:
    """An arm taken apart.

    Attributes:
        family: as `models.build_network` takes it.
        variant: tier, or tier and form; the tier alone for a family from outside.
        start: name of the pretraining it begins from; None where it is trained from scratch.
    """

    family: str
    variant: str
    start: str | None = None

    @property
    def tier(self) -> str:
        """The tier alone."""
        return split_variant(self.variant)[0]

    @property
    def form(self) -> str:
        """The form alone, empty where the arm is its family as it is."""
        return split_variant(self.variant)[1]


def parse_arm(name: str, default_tier: str) -> ArmName:
    """Takes the name of an arm apart; whether there is such a family, form or start is for others to say.

    Args:
        name: as a study file gives it.
        default_tier: the tier of an arm that names none.

    Raises:
        ValueError: the name does not follow the grammar, or its tier does not exist; says what was expected.
    """
    network, plus, start = name.rpartition("+") if "+" in name else (name, "", "")
    if plus and not re.fullmatch(START_NAME, start):
        raise ValueError(
            f"arm {name!r}: after + stands the name of a pretraining, letters, digits, _ or -; given: {start!r}"
        )
    if ":" in network:
        return ArmName(network, default_tier, start or None)
    parts = _NETWORK.fullmatch(network)
    if parts is None:
        late = re.fullmatch(r"([^@+-]+)-([^@+]+)@([^@+-]+)", network)
        hint = f": did you mean {late[1]}@{late[3]}-{late[2]}?" if late else ""
        raise ValueError(f"arm {name!r} is not written as {_GRAMMAR}{hint}")
    tier, form = parts["tier"], parts["form"]
    if tier is not None and tier not in TIERS:
        close = difflib.get_close_matches(tier, list(TIERS), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"arm {name!r}: there is no tier {tier!r}{hint}; expected one of {', '.join(TIERS)}")
    tier = default_tier if tier is None else tier
    return ArmName(parts["family"], f"{tier}-{form}" if form else tier, start or None)


def arm_name(family: str, variant: str, start: str | None = None, default_tier: str | None = None) -> str:
    """The name of an arm, the inverse of `parse_arm`.

    Args:
        family: as `models.build_network` takes it.
        variant: tier, or tier and form.
        start: name of the pretraining it begins from.
        default_tier: the tier that needs no mention; None: no tier is mentioned.
    """
    tier, form = split_variant(variant)
    name = family
    if ":" not in family:
        name += f"@{tier}" if default_tier not in (None, tier) else ""
        name += f"-{form}" if form else ""
    return f"{name}+{start}" if start else name


def canonical_arm(name: str, default_tier: str) -> str:
    """The one way to write an arm in a study of `default_tier`: `vit@nano` is `vit` where the tier is nano.

    Raises:
        ValueError: as of `parse_arm`.
    """
    arm = parse_arm(name, default_tier)
    return arm_name(arm.family, arm.variant, arm.start, default_tier)
