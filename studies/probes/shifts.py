"""Shift consistency: does a network call an image the same when the image moves by a few pixels?

Zhang 1904.11486 and Chaman & Dokmanic 2011.14214 report how often two shifts of an image get the same class. A network
that always says the same class reaches 100% there. Here only images that are classified correctly where they are
count, and of their agreement what chance would give is taken off (Cohen's kappa).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.probes.presenting import Batches, evaluation_mode, predicted, shown
from studies.probes.probe import Probed, ProbeError, Reading

Kind = Literal["roll", "crop"]
Padding = Literal["reflect", "zeros"]
Int64Array = npt.NDArray[np.int64]

_DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right


def shift_consistency(
    network: nn.Module,
    batches: Batches,
    *,
    largest_shift: int = 4,
    kinds: Sequence[Kind] = ("roll", "crop"),
    padding: Padding = "reflect",
    num_images: int = 512,
    seed: int = 0,
) -> Probed:
    r"""How a network's classes stand shifts of 1 to ``largest_shift`` pixels.

    Every image is shifted up, down, left or right, a direction drawn for it once. With `p_o` the share of images whose
    class stays, among those classified correctly unshifted, and `p_c`, `q_c` the shares of these images that are called
    `c` before and after the shift, the consistency is `(p_o - p_e) / (1 - p_e)`, `p_e = \sum_c p_c q_c`: 1 if all
    classes stay, 0 if they stay as often as classes drawn at random with these shares would. It does not depend on how
    unbalanced the classes are: of a network that says one class but for a few images, these few must stay. One that is
    right about a single class, as a constant classifier is, has no consistency at all.

    Args:
        network: any classifier of images.
        batches: images and classes.
        largest_shift: in pixels.
        kinds: ``roll`` wraps the border around; ``crop`` takes two crops of the padded image, the image itself and one
            that lies a shift away, so that a border comes in that was not there.
        padding: of crops: the image mirrored at its border, or zeros (the mean color of normalised images).
        num_images: the first so many images of the batches are shown.
        seed: of the directions.

    Returns:
        Readings ``{kind}_consistency`` (kappa) and ``{kind}_agreement`` (`p_o`), for each shift in pixels
        (``setting``), their ``num_images`` being the images that were classified correctly; ``accuracy`` and
        ``num_correct`` of the unshifted images.

    Raises:
        ValueError: a shift, kind or padding does not exist.
        ProbeError: the network is right about images of fewer than two classes, or gives no logits.
    """
    _check(largest_shift, kinds, padding)
    generator = np.random.Generator(np.random.Philox(seed))
    shifts = [(kind, pixels) for kind in kinds for pixels in range(1, largest_shift + 1)]
    before: list[Tensor] = []
    after: dict[tuple[Kind, int], list[Tensor]] = {shift: [] for shift in shifts}
    seen = num_classes = 0
    with evaluation_mode(network):
        for images, labels in shown(batches, num_images, network):
            if largest_shift >= min(images.shape[2:]):
                raise ValueError(f"largest_shift={largest_shift}: images have {list(images.shape[2:])} pixels")
            classes, num_classes = predicted(network, images)
            directions = generator.integers(len(_DIRECTIONS), size=len(images))
            seen += len(images)
            right = classes == labels
            before.append(classes[right])
            kept, ways = images[right], directions[right.cpu().numpy()]
            if not len(kept):
                continue
            for kind, pixels in shifts:
                moved = shifted(kept, ways, pixels, kind=kind, padding=padding)
                after[kind, pixels].append(predicted(network, moved)[0])
    correct = torch.cat(before).cpu().numpy()
    readings = [
        Reading("accuracy", len(correct) / seen, "fraction", num_images=seen),
        Reading("num_correct", len(correct), "images", num_images=seen),
    ]
    if len(np.unique(correct)) < 2:
        raise ProbeError(
            f"of {seen} images, {len(correct)} were classified correctly, of {len(np.unique(correct))} class(es): "
            "whether classes stay under a shift means something from two classes on (a constant classifier is always "
            "consistent); show more images, or a trained network"
        )
    for (kind, pixels), parts in after.items():
        agreement, consistency = _agreement(correct, torch.cat(parts).cpu().numpy(), num_classes)
        about = {"setting": float(pixels), "num_images": len(correct)}
        readings.append(Reading(f"{kind}_consistency", consistency, "kappa", **about))  # type: ignore[arg-type]
        readings.append(Reading(f"{kind}_agreement", agreement, "fraction", **about))  # type: ignore[arg-type]
    return Probed(tuple(readings))


def shifted(images: Tensor, directions: Int64Array, pixels: int, *, kind: Kind, padding: Padding = "reflect") -> Tensor:
    """Images ``[B, C, H, W]``, each moved by so many pixels: direction 0 up, 1 down, 2 left, 3 right.

    Args:
        images: to be moved.
        directions: of every image ``[B]``.
        pixels: how far.
        kind: ``roll``: what leaves at one border enters at the opposite one; ``crop``: what enters is padding.
        padding: of a crop.
    """
    moved = torch.empty_like(images)
    padded = images
    if kind == "crop":
        padded = F.pad(images, (pixels,) * 4, mode="reflect" if padding == "reflect" else "constant")
    height, width = images.shape[2:]
    for direction, (down, right) in enumerate(_DIRECTIONS):
        rows = torch.from_numpy(np.flatnonzero(directions == direction)).to(images.device)
        if kind == "roll":
            moved[rows] = images[rows].roll((down * pixels, right * pixels), dims=(2, 3))
        else:  # what moves down shows what lies further up in the padded image
            top, left = (1 - down) * pixels, (1 - right) * pixels
            moved[rows] = padded[rows, :, top : top + height, left : left + width]
    return moved


def _agreement(before: Int64Array, after: Int64Array, num_classes: int) -> tuple[float, float]:
    """Share of equal classes, and Cohen's kappa."""
    observed = float((before == after).mean())
    shares = [np.bincount(classes, minlength=num_classes) / len(classes) for classes in (before, after)]
    expected = float(shares[0] @ shares[1])
    return observed, (observed - expected) / (1 - expected)


def _check(largest_shift: int, kinds: Sequence[str], padding: str) -> None:
    if largest_shift < 1:
        raise ValueError(f"largest_shift={largest_shift}: expected at least 1 pixel")
    if not kinds or set(kinds) - {"roll", "crop"}:
        raise ValueError(f"kinds={tuple(kinds)}: expected roll, crop or both")
    if padding not in ("reflect", "zeros"):
        raise ValueError(f"padding={padding!r}: expected reflect or zeros")
