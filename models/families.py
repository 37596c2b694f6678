"""What a family of architectures is: a name, an assumption, sizes by arithmetic and a way to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from models.tiers import TIERS, Tier

if TYPE_CHECKING:
    from torch import nn

Head = Literal["linear", "hidden"]  # what a network ends in: `models.head`
HEADS: tuple[Head, ...] = get_args(Head)


@dataclass(frozen=True)
class Family:
    """One family of architectures.

    Attributes:
        name: how it is written in a study.
        label: how it is written in figures.
        prior: one line: what the architecture assumes about images.
        layout: ``layout(tier, form, image_size, in_channels)`` gives the sizes; pure arithmetic, no torch.
        build: ``build(layout, num_classes)`` gives the network, ``[B, C, H, W]`` float to logits ``[B, num_classes]``,
            with a zero-initialised classifier.
        forms: what may follow the tier in a variant, besides nothing.
        refused_tiers: tier name -> the reason why the family does not exist there.
        refusal: ``refusal(tier name, form)`` says why there is no such variant, also for a form that is none of
            ``forms``, and gives None where there is one. None: every tier has every form, and only these.
    """

    name: str
    label: str
    prior: str
    layout: Callable[[Tier, str, int, int], Any]
    build: Callable[[Any, int], nn.Module]
    forms: tuple[str, ...] = ()
    refused_tiers: tuple[tuple[str, str], ...] = ()
    refusal: Callable[[str, str], str | None] | None = None

    def variants(self) -> tuple[str, ...]:
        """All variants that can be built: every tier alone, then with each form."""
        refused = dict(self.refused_tiers)
        tiers = [tier for tier in TIERS if tier not in refused]
        return tuple(
            tier if not form else f"{tier}-{form}"
            for form in ("", *self.forms)
            for tier in tiers
            if self.refusal is None or self.refusal(tier, form) is None
        )
