"""The figures of a report as bytes: all of them, or every other one, so that two processes can share them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from .axes import png_bytes, svg_bytes
from .drawings import Material, drawings
from .page import Picture


@dataclass(frozen=True)
class Image:
    """A figure that was drawn.

    Attributes:
        picture: as the page shows it.
        png: the same for elsewhere.
    """

    picture: Picture
    png: bytes


def drawn(of: Material, first: int = 0, step: int = 1) -> list[Image]:
    """Draws the figures of a report, of several processes each its own.

    Args:
        of: what they are made of.
        first: place of the first.
        step: how many places the next is further on.
    """
    images = []
    for name, drawing in itertools.islice(drawings(of).items(), first, None, step):
        figure = drawing.draw()
        svg = svg_bytes(figure)
        alternative = drawing.caption.split(". ")[0]
        picture = Picture(name, svg, drawing.caption, alternative, figure.get_figwidth())
        images.append(Image(picture, png_bytes(figure)))
    return images


def in_turn(even: Sequence[Image], odd: Sequence[Image]) -> list[Image]:
    """Figures that two drew, each every other one, in their order."""
    return [one for both in itertools.zip_longest(even, odd) for one in both if one is not None]
