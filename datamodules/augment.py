"""Augmentation as a table of source pixels: batched, on the device, a pure function of (seed, step, slot in the batch).

Randomness comes from hashing the counter (seed, step, slot, draw) with SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators"), in integer arithmetic that is exact on every device. There is no state: a
resumed run, another device or another order of calls sees the same augmentation.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.info import DataError

AugmentationName = Literal["crop", "flip"]

NUM_DRAWS = 3  # random integers of an image: shift down, shift right, flip
CROP_PADDING = 4  # pixels on each side of a 32-pixel image, as in He et al. (arXiv 1512.03385, section 4.2)

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the odd increments and multipliers of SplitMix64, as signed int64
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def check_augmentation_names(names: tuple[str, ...]) -> None:
    """Raises DataError for a name that is no augmentation."""
    for name in names:
        if name not in get_args(AugmentationName):
            raise DataError(f"augmentation {name!r} is unknown; choose from {', '.join(get_args(AugmentationName))}")


def source_pixels(
    names: tuple[str, ...], *, seed: int, step: int, batch_size: int, image_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where each pixel of an augmented batch comes from.

    `crop` shifts an image by up to 4 pixels in each direction, every shift equally likely, and leaves the uncovered
    border empty; `flip` mirrors it left to right with probability 1/2.

    Args:
        names: Any of "crop" and "flip".
        seed: The run's augmentation seed.
        step: The optimiser step.
        batch_size: Images in the batch (B).
        image_size: Height and width (H = W).
        device: Where the tables are made.

    Returns:
        Source pixels int64 `[B, H * W]`, and which of them lie inside the image, bool `[B, H * W]`.
    """
    return drawn_pixels(names, random_integers(seed, step, (NUM_DRAWS, batch_size), device), image_size)


def drawn_pixels(names: tuple[str, ...], draws: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """The same from random integers `[3, n]` already drawn; tensors only, so that a device step may call it."""
    offsets = torch.arange(image_size, device=draws.device)
    rows, columns = offsets.expand(draws.shape[1], -1), offsets.expand(draws.shape[1], -1)
    if "flip" in names:
        flipped = (draws[2] & 1).bool()
        columns = torch.where(flipped[:, None], image_size - 1 - columns, columns)
    if "crop" in names:
        shifts = draws[:2] % (2 * CROP_PADDING + 1) - CROP_PADDING
        rows, columns = rows + shifts[0, :, None], columns + shifts[1, :, None]
    inside_rows, inside_columns = (rows >= 0) & (rows < image_size), (columns >= 0) & (columns < image_size)
    rows, columns = rows.clamp(0, image_size - 1), columns.clamp(0, image_size - 1)
    pixels = (rows * image_size)[:, :, None] + columns[:, None, :]
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return pixels.flatten(1), inside.flatten(1)


def random_integers(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Non-negative random integers below 2^62 `[draw, slot]`, a pure function of seed, step and place."""
    place = torch.tensor([seed, step], dtype=torch.int64, device=device)
    return random_integers_of(place[0], place[1], shape)


def random_integers_of(seed: Tensor, step: Tensor, shape: tuple[int, int]) -> Tensor:
    """The same `[..., draw, slot]` from seeds and steps that lie on the device.

    Args:
        seed: int64 `[...]`, one per run.
        step: int64, of a shape that broadcasts with `seed`.
        shape: Draws, and slots of a batch.
    """
    key = _mix(_mix(seed * _GOLDEN) ^ _rotate(_mix(step * _GOLDEN)))[..., None, None]
    counter = torch.arange(shape[0] * shape[1], device=key.device).reshape(shape[1], shape[0]).T
    return _shift_right(_mix(key + (counter + 1) * _GOLDEN), 2)


def _mix(value: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of 64-bit integers in which every input bit moves every output bit."""
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: torch shifts arithmetically, so the copies of the sign bit are masked off."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _rotate(value: Tensor) -> Tensor:
    """Rotates by 32 bits, so that (seed, step) and (step, seed) differ."""
    return (value << 32) | _shift_right(value, 32)
