"""What a study may change about a transformer encoder: how it learns places, how it pools, how it is regularised.

A form is written ``[position][-site][-cls][-regularized]``; a part left out is that of the plain transformer:

| part | written | meaning |
|---|---|---|
| position | (nothing) | a learnt vector for every patch, patches in raster order |
| | ``nopos`` | none: the patches are a set |
| | ``learned2d`` | a learnt half vector for the row and one for the column |
| | ``sin1d``, ``sin2d`` | fixed sinusoids of the raster index; of row and column, half the channels each |
| | ``relbias`` | a learnt bias of attention for every head and two-dimensional offset |
| | ``relquery`` | a learnt key for every raster offset, matched with the query |
| | ``rotary`` | queries and keys turned by angles of row and column |
| site | (nothing) | the kind's own: after the stem if added to tokens, every layer if told to attention |
| | ``every`` | added before every block, to each its own embedding |
| | ``shared`` | in every layer, the same parameters in all |
| pooling | ``cls`` | a class token instead of the average over patches |
| regularisation | ``regularized`` | dropout and stochastic depth |

None, 1-D, 2-D and relative, and the three sites, are the cases of Dosovitskiy et al. 2010.11929, appendix D.4, table 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

# Of Steiner et al. 2106.10270 (section 3.3), against neither: dropout, and stochastic depth that grows linearly with
# depth up to this rate.
DROPOUT = 0.1
STOCHASTIC_DEPTH = 0.1

GRAMMAR = "[position][-site][-cls][-regularized]"


class PositionKind(StrEnum):
    """What a transformer is told about the places of its patches."""

    LEARNED_1D = "learned1d"  # written by leaving it out
    NONE = "nopos"
    LEARNED_2D = "learned2d"
    SINUSOIDAL_1D = "sin1d"
    SINUSOIDAL_2D = "sin2d"
    RELATIVE_BIAS = "relbias"
    RELATIVE_QUERY = "relquery"
    ROTARY = "rotary"

    @property
    def in_attention(self) -> bool:
        """Whether attention is told, rather than something added to tokens."""
        return self in (PositionKind.RELATIVE_BIAS, PositionKind.RELATIVE_QUERY, PositionKind.ROTARY)

    @property
    def own_site(self) -> PositionSite:
        """Where it is used if nothing is said."""
        return PositionSite.EVERY if self.in_attention else PositionSite.STEM


class PositionSite(StrEnum):
    """Where a transformer is told about places."""

    STEM = "stem"
    EVERY = "every"
    SHARED = "shared"


_WRITTEN_KINDS = tuple(kind.value for kind in PositionKind if kind is not PositionKind.LEARNED_1D)
_WRITTEN_SITES = (PositionSite.EVERY.value, PositionSite.SHARED.value)
_FIXED_SHARED = "sinusoids are fixed, so the same in every layer is what 'every' already is: write 'every'"
_NO_STEM = "it tells attention, which a stem does not have: leave the site out"
_IN_ATTENTION = "its parameters are in every layer by nature: leave the site out, or write 'shared' for one table"
_REFUSED: dict[tuple[PositionKind, PositionSite], str] = {
    (PositionKind.NONE, PositionSite.EVERY): "without a position embedding there is nothing to place",
    (PositionKind.NONE, PositionSite.SHARED): "without a position embedding there is nothing to place",
    (PositionKind.SINUSOIDAL_1D, PositionSite.SHARED): _FIXED_SHARED,
    (PositionKind.SINUSOIDAL_2D, PositionSite.SHARED): _FIXED_SHARED,
    (PositionKind.RELATIVE_BIAS, PositionSite.STEM): _NO_STEM,
    (PositionKind.RELATIVE_BIAS, PositionSite.EVERY): _IN_ATTENTION,
    (PositionKind.RELATIVE_QUERY, PositionSite.STEM): _NO_STEM,
    (PositionKind.RELATIVE_QUERY, PositionSite.EVERY): _IN_ATTENTION,
    (PositionKind.ROTARY, PositionSite.STEM): _NO_STEM,
    (PositionKind.ROTARY, PositionSite.EVERY): "the rotation acts in every layer by nature: leave the site out",
    (PositionKind.ROTARY, PositionSite.SHARED): "the rotation has no parameters to share: leave the site out",
}


@dataclass(frozen=True)
class TransformerForm:
    """One choice of position kind, site, pooling and regularisation.

    Attributes:
        position: what the transformer is told about places.
        site: where; None gives the kind's own site.
        class_token: pool by a class token instead of the average over patches.
        regularized: train with dropout and stochastic depth.

    Raises:
        ValueError: kind and site do not go together; the message says why.
    """

    position: PositionKind = PositionKind.LEARNED_1D
    site: PositionSite | None = None
    class_token: bool = False
    regularized: bool = False

    def __post_init__(self) -> None:
        if self.site is None:
            object.__setattr__(self, "site", self.position.own_site)
        elif self.site is not self.position.own_site:
            _check_site(self.position, self.site)

    @property
    def name(self) -> str:
        """The form as it is written; empty for the plain transformer."""
        parts = [
            self.position.value if self.position is not PositionKind.LEARNED_1D else "",
            "" if self.site is self.position.own_site else f"{self.site}",
            "cls" if self.class_token else "",
            "regularized" if self.regularized else "",
        ]
        return "-".join(part for part in parts if part)

    def check_grid(self, grid: int, original_grid: int) -> None:
        """Whether places on a grid can be told to a network that was designed for another.

        Raises:
            ValueError: places are counted along the raster, where those of another grid are others; counted in steps of
                the old one, several patches would share one (36 sinusoids for 64 patches, from a grid of 4 to one of
                8).
        """
        if self.position is PositionKind.SINUSOIDAL_1D and grid != original_grid:
            raise ValueError(
                f"{self.position.value!r} on a grid of {grid} designed for one of {original_grid}: places are counted "
                "along the raster, and the same number is another place there; use the form sin2d, or train anew"
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token)


PLAIN = TransformerForm()


def parse_form(text: str) -> TransformerForm:
    """Read a form as it is written after the tier, ``""`` for the plain transformer.

    Raises:
        ValueError: a part is unknown or out of order, or kind and site do not go together; the message says why.
    """
    parts = text.split("-") if text else []
    position, site = PositionKind.LEARNED_1D, None
    if parts and parts[0] in _WRITTEN_KINDS:
        position = PositionKind(parts.pop(0))
    if parts and parts[0] in _WRITTEN_SITES:
        site = PositionSite(parts.pop(0))
        _check_site(position, site)
    flags = []
    for flag in ("cls", "regularized"):
        flags.append(bool(parts) and parts[0] == flag)
        del parts[: flags[-1]]
    if parts:
        raise ValueError(
            f"{parts[0]!r} is not a part of a form at this place; a form is written {GRAMMAR}, position one of "
            f"{', '.join(_WRITTEN_KINDS)} (nothing: learnt, 1-D), site {' or '.join(_WRITTEN_SITES)}"
        )
    return TransformerForm(position, site, *flags)


def _check_site(position: PositionKind, site: PositionSite) -> None:
    reason = _REFUSED.get((position, site))
    if reason is not None:
        raise ValueError(f"{position.value!r} with {site.value!r}: {reason}")


def form_names() -> tuple[str, ...]:
    """All forms but the plain one, as they are written."""
    places = [
        (kind, site)
        for kind, site in product(PositionKind, PositionSite)
        if site is kind.own_site or (kind, site) not in _REFUSED
    ]
    forms = [TransformerForm(*place, *flags) for flags in product((False, True), repeat=2) for place in places]
    return tuple(form.name for form in forms if form.name)


def why_not_form(text: str) -> str | None:
    """Why a form does not exist, in words; None if it does."""
    try:
        parse_form(text)
    except ValueError as error:
        return str(error)
    return None
