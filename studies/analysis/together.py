"""Fits of several curves that advance together, each written as if it were alone.

A step of `robust.minimise` costs much the same for one fit as for some hundreds. So the fit of a curve, an `async`
function, does not minimise itself: it awaits a `Minimisation`. `together` runs the functions of all curves until each
waits for one, joins those that are alike into a single call of the minimiser, and hands every function its own minima.
No fit depends on which others it is joined with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Coroutine, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .curve import Array
from .forms import Form
from .robust import Cells, Minimum, minimise

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Minimisation:
    """What `minimise` is asked for; awaited, it is the `Minimum`.

    Attributes:
        form: of the curves.
        cells: what it is fitted to.
        theta: where to start [K, p].
        floor_given: see `minimise`, as `max_steps` and `tolerance`.
    """

    form: Form
    cells: Cells
    theta: Array
    floor_given: bool = False
    max_steps: int = 300
    tolerance: float = 1e-15

    def __await__(self) -> Generator[Minimisation, Minimum, Minimum]:
        return (yield self)

    @property
    def kind(self) -> Hashable:
        """Minimisations of one kind can be joined."""
        return self.form, type(self.cells), self.floor_given, self.max_steps, self.tolerance


def together(fits: Sequence[Coroutine[Any, Any, Found]]) -> list[Found]:
    """What each of the functions returns, in their order.

    Of the minimisations they wait for, the kind most wait for goes first: who is ahead then waits for the others.

    Raises:
        Exception: what one of them raises.
    """
    found: dict[int, Found] = {}
    waiting: dict[int, Minimisation] = {}
    minima: dict[int, Minimum | None] = dict.fromkeys(range(len(fits)))
    try:
        while minima:
            for index, minimum in minima.items():
                try:
                    waiting[index] = fits[index].send(minimum)
                except StopIteration as end:
                    found[index] = end.value
            kinds: dict[Hashable, list[int]] = defaultdict(list)
            for index, asked in waiting.items():
                kinds[asked.kind].append(index)
            most = max(kinds.values(), key=len, default=[])
            minima = dict(zip(most, _minima([waiting.pop(index) for index in most]), strict=True))
    finally:
        for fit in fits:
            fit.close()
    return [found[index] for index in range(len(fits))]


def _minima(asked: Sequence[Minimisation]) -> list[Minimum]:
    """Of minimisations of one kind."""
    if not asked:
        return []
    first, counts = asked[0], [len(one.theta) for one in asked]
    cells = first.cells if len(asked) == 1 else first.cells.joined([one.cells for one in asked], counts)
    minimum = minimise(
        first.form,
        cells,
        np.concatenate([one.theta for one in asked]),
        floor_given=first.floor_given,
        max_steps=first.max_steps,
        tolerance=first.tolerance,
    )
    ends = np.cumsum(counts)[:-1]
    return [Minimum(*each) for each in zip(np.split(minimum.theta, ends), np.split(minimum.loss, ends), strict=True)]
