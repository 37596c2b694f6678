"""Finding the sizes of a network whose forward FLOPs meet a target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

# Within 0.6% of the reference, any two families are within 1.2% of each other. The rest of the 2% is left to the
# classifier, whose cost differs between families only where it is small against the tier.
TOLERANCE = 0.006

LayoutT = TypeVar("LayoutT")


def nearest_layout(
    target: int,
    candidates: Iterable[LayoutT],
    *,
    count: Callable[[LayoutT], int],
    distance: Callable[[LayoutT], float] | None = None,
) -> LayoutT:
    """Choose the best-proportioned candidate among those that meet the target.

    Args:
        target: forward FLOPs per example to meet.
        candidates: layouts to choose from; the first of equals is taken, so the choice is deterministic.
        count: forward FLOPs of a layout.
        distance: how far a layout is from the proportions its family should have; 0 is ideal. Without it, the layout
            nearest the target is chosen.

    Raises:
        ValueError: no candidate is within 0.6% of the target.
    """
    choices = list(candidates)
    matching = [layout for layout in choices if abs(count(layout) / target - 1) <= TOLERANCE]
    if not matching:
        closest = min((count(layout) for layout in choices), key=lambda flops: abs(flops - target), default=None)
        found = "there is no candidate at all" if closest is None else f"the closest of {len(choices)} has {closest:,}"
        raise ValueError(
            f"no layout has {target:,} forward FLOPs per example within {TOLERANCE:.1%}: {found}; "
            "this image size and number of channels cannot be matched in this tier"
        )
    return min(matching, key=distance or (lambda layout: abs(count(layout) - target)))


def doubling_widths(
    width: float, num_stages: int, *, multiple: int, last: int | None = None, reach: int = 3
) -> list[tuple[int, ...]]:
    """Stage widths near ``width * 2**stage``, in steps of ``multiple``.

    Args:
        width: width of the first stage, not necessarily whole.
        num_stages: number of stages.
        multiple: widths are multiples of this, which keeps kernels fast.
        last: fixes the last stage's width, whatever ``multiple`` is.
        reach: steps to go either way from the ideal width.
    """
    options: list[Sequence[int]] = []
    for stage in range(num_stages):
        if last is not None and stage == num_stages - 1:
            options.append((last,))
            continue
        centre = round(width * 2**stage / multiple)
        options.append([multiple * step for step in range(centre - reach, centre + reach + 1) if step > 0])
    return list(itertools.product(*options))


def distance_from_doubling(widths: Sequence[int], width: float) -> float:
    """Sum of squared log ratios of ``widths`` to ``width * 2**stage``."""
    return sum(math.log(actual / (width * 2**stage)) ** 2 for stage, actual in enumerate(widths))


def bisect_width(target: int, count: Callable[[float], float], *, low: float = 1.0, high: float = 65536.0) -> float:
    """The real width at which a growing ``count`` reaches ``target``."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) > target else (middle, high)
    return (low + high) / 2
