"""The figures of a report as bytes, drawn by one process or shared between two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studies.company import Company

from .axes import png_bytes, svg_bytes
from .drawings import Material, drawings, drawn_from
from .page import Picture

AHEAD = 2
"""Times that a second process is asked for figures before it has answered: it need not wait for this one to look."""


@dataclass(frozen=True)
class Image:
    """A figure that was drawn.

    Attributes:
        picture: as the page shows it.
        png: the same for elsewhere.
    """

    picture: Picture
    png: bytes


def drawn(of: Material, names: Sequence[str]) -> dict[str, Image]:
    """Draws figures of a report.

    Args:
        of: see `drawings.drawn_from`.
        names: of `drawings`.

    Returns:
        The images by name; none of a figure that has nothing to show.
    """
    found, images = drawings(of), {}
    for name in names:
        drawing = found[name]
        if (figure := drawing.draw()) is not None:
            alternative = drawing.caption.split(". ")[0]
            picture = Picture(name, svg_bytes(figure), drawing.caption, alternative, figure.get_figwidth())
            images[name] = Image(picture, png_bytes(figure))
    return images


def begin_drawing(of: Material, second: Company | None = None) -> Callable[[], list[Image]]:
    """Lets a second process begin with the figures of a report, where there is one.

    It draws every other figure; once it is done it takes one after the other of those that this process has not come
    to, which begins with what takes longest. Figures of the losses of trunks, which are millions, are drawn here.

    Returns:
        A function that draws what is left and returns all images in their order.
    """
    here = drawn_from(of)
    found = drawings(here)
    if second is None:
        return lambda: list(drawn(here, list(found)).values())
    there = drawn_from(of, losses=False)
    sendable = [name for name, drawing in found.items() if not drawing.of_losses]
    sent = sendable[1::2]
    awaited = second.asked(drawn, there, sent)

    def rest() -> list[Image]:
        asked = [awaited]
        own = [name for name in found if name not in sent]
        waiting = deque(sorted(own, key=lambda name: (name in sendable, not found[name].is_long)))
        images: dict[str, Image] = {}
        while waiting:
            if sum(not one.is_answered for one in asked) < AHEAD and waiting[-1] in sendable:
                asked.append(second.asked(drawn, there, [waiting.pop()]))
            else:
                images |= drawn(here, [waiting.popleft()])
        for one in asked:
            images |= one()
        return [images[name] for name in found if name in images]

    return rest
