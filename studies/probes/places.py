"""Where the numbers of an output lie on the image: rows, columns, and pixels from one to the next.

Shapes alone tell most of it, read in the order in which layers run. Where they do not, what the modules state decides:
a convolution without padding takes places off a map that no stride took, and a map as wide as it has channels lies
either way. What neither tells is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

Pair = tuple[float, float]

_SLIDING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)


class Arrangement(StrEnum):
    """How the output of a layer lies in memory."""

    MAP = "[B, C, h, w]"
    CHANNELS_LAST = "[B, h, w, C]"
    TOKENS = "[B, T, C]"
    VECTOR = "[B, C]"


@dataclass(frozen=True)
class Place:
    """Where an output lies; the attributes of `layers.Layer`."""

    arrangement: Arrangement
    grid: tuple[int, int] | None = None
    stride: Pair = (1.0, 1.0)
    num_prefix_tokens: int = 0


@dataclass(frozen=True)
class Made:
    """How an output came about.

    Attributes:
        module: that gave it; None where it is not known.
        read: shape of what that module read.
        channels_last: whether its channels come last, as far as modules that gave or read it say.
    """

    module: nn.Module | None = None
    read: tuple[int, ...] = ()
    channels_last: bool | None = None


class Places:
    """Reads the shapes of outputs in the order that layers run.

    Args:
        image_size: height and width in pixels.
        num_prefix_tokens: tokens before those of the grid; None where the network does not tell.
    """

    def __init__(self, image_size: Sequence[int], num_prefix_tokens: int | None) -> None:
        self.image_size = (image_size[0], image_size[1])
        self.prefixes = (0, 1) if num_prefix_tokens is None else (0, num_prefix_tokens)
        self.grid = self.image_size  # of the layer before
        self.stride: Pair | None = (1.0, 1.0)  # None: not known
        self.strides: dict[tuple[int, ...], Pair] = {self.image_size: (1.0, 1.0)}  # by grid, the latest
        self.channels_last: bool | None = None  # what the last map was that could be only one

    def place(self, shape: Sequence[int], made: Made) -> Place | None:
        """Where this output lies; None if it is no map, tokens on a grid or vector, or its stride cannot be told."""
        found = self._arranged(shape, made.channels_last)
        if found is None:
            return None
        arrangement, grid, prefix = found
        if grid is None:
            return Place(arrangement)
        self.stride, self.grid = self._stride(grid, made), grid
        if self.stride is None:
            self.strides.pop(grid, None)
            return None
        self.strides[grid] = self.stride
        return Place(arrangement, grid, self.stride, prefix)

    def _stride(self, grid: tuple[int, int], made: Made) -> Pair | None:
        """Pixels from one row, one column to the next; None where they cannot be told."""
        module = made.module
        if isinstance(module, _SLIDING):
            return self._of_sliding(module, made.read)
        if self.stride is None:
            return None
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) and _uneven(self.grid, grid):
            return None
        guess = _by_sizes(self.stride, self.grid, grid)
        sliding = [] if module is None else [one for one in module.modules() if isinstance(one, _SLIDING)]
        if len(sliding) == 1 and all(_expected(sliding[0], self.grid[axis], axis) == grid[axis] for axis in (0, 1)):
            step = _pair(sliding[0].stride)
            return self.stride[0] * step[0], self.stride[1] * step[1]
        if any(_loses_places(one) for one in sliding):
            known = guess == self.stride and all(_pair(one.stride) == (1, 1) for one in sliding)
            return guess if known else None
        return guess

    def _of_sliding(self, module: nn.Module, read: tuple[int, ...]) -> Pair | None:
        """Of a convolution or pooling: the stride of what it reads times its own."""
        size, step = (read[-2], read[-1]), _pair(module.stride)
        before = self.strides.get(size)
        if before is None and self.stride is not None:
            before = _by_sizes(self.stride, self.grid, size)
        return None if before is None else (before[0] * step[0], before[1] * step[1])

    def _arranged(
        self, shape: Sequence[int], channels_last: bool | None
    ) -> tuple[Arrangement, tuple[int, int] | None, int] | None:
        if len(shape) == 2 or (len(shape) > 2 and _num_places(shape) == 1):
            return Arrangement.VECTOR, None, 0
        if len(shape) == 3:
            grids = [(prefix, grid) for prefix in self.prefixes if (grid := self._square(shape[1] - prefix))]
            # A grid that the image divides into goes before one that it does not.
            grids.sort(key=lambda one: any(size % side for size, side in zip(self.image_size, one[1], strict=True)))
            return (Arrangement.TOKENS, grids[0][1], grids[0][0]) if grids else None
        if len(shape) != 4:
            return None
        first, last = self._alike(shape[2], shape[3]), self._alike(shape[1], shape[2])
        if not (first or last):
            return None
        if first != last:
            self.channels_last = last
        elif channels_last is not None:
            self.channels_last = channels_last
        if self.channels_last is None:
            return None
        if self.channels_last:
            return Arrangement.CHANNELS_LAST, (shape[1], shape[2]), 0
        return Arrangement.MAP, (shape[2], shape[3]), 0

    def _alike(self, height: int, width: int) -> bool:
        """Whether a map has the proportions of the image, up to the rounding of a stride."""
        rows, columns = self.image_size
        return abs(height * columns - width * rows) < max(rows, columns)

    def _square(self, num_tokens: int) -> tuple[int, int] | None:
        """The grid of so many tokens that has the proportions of the image."""
        rows, columns = self.image_size
        height = round((max(num_tokens, 0) * rows / columns) ** 0.5)
        if height < 1 or num_tokens % height or num_tokens < 2:
            return None
        width = num_tokens // height
        return (height, width) if height * columns == width * rows else None


def arranged_by(module: nn.Module) -> bool | None:
    """Whether a module reads and gives maps whose channels come last; None if it does not care."""
    if isinstance(module, (*_SLIDING, nn.GroupNorm)) or type(module).__name__.endswith("2d"):
        return False
    over_channels = type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    return True if over_channels or isinstance(module, nn.Linear) else None


def _num_places(shape: Sequence[int]) -> int:
    """Places of an output of 3 or 4 dimensions whose every dimension but images and channels is 1, else more than 1."""
    if len(shape) == 3:
        return shape[1]
    return 1 if len(shape) == 4 and (shape[2] == shape[3] == 1 or shape[1] == shape[2] == 1) else 2


def _by_sizes(before: Pair, size: tuple[int, int], after: tuple[int, int]) -> Pair:
    """Stride of a map behind one of another size."""
    rows, columns = (
        stride * max(1, round(old / new)) if new <= old * 1.5 else stride * old / new
        for stride, old, new in zip(before, size, after, strict=True)
    )
    return rows, columns


def _uneven(size: tuple[int, int], after: tuple[int, int]) -> bool:
    return any(old % new for old, new in zip(size, after, strict=True))


def _pair(value: object) -> tuple[int, int]:
    """A setting of a convolution or pooling along rows and columns."""
    if isinstance(value, tuple | list):
        return int(value[0]), int(value[-1])
    assert isinstance(value, int)
    return value, value


def _reach(module: nn.Module, axis: int) -> int:
    """Places that a window takes off a map along an axis, padding counted against it; none if it pads as it runs.

    timm's modules that do have no padding to state, and a name that ends in `Same`.
    """
    padding = getattr(module, "padding", 0)
    if padding == "same" or type(module).__name__.endswith("Same"):
        return 0
    around = 0 if padding == "valid" else _pair(padding)[axis]
    dilation = _pair(getattr(module, "dilation", 1))[axis]
    return dilation * (_pair(module.kernel_size)[axis] - 1) - 2 * around


def _loses_places(module: nn.Module) -> bool:
    """Whether a window takes off more places than its stride does."""
    return any(_reach(module, axis) >= _pair(module.stride)[axis] for axis in (0, 1))


def _expected(module: nn.Module, size: int, axis: int) -> int:
    """Rows or columns behind a convolution or pooling."""
    return (size - 1 - _reach(module, axis)) // _pair(module.stride)[axis] + 1
