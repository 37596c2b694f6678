"""How a probe shows images to a network: as many as asked, where the network lies, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from studies.probes.probe import ProbeError

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images, float `[B, C, H, W]`, normalised as the network expects them, and their classes, int64 `[B]`."""


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Dropout off and norms in evaluation mode; every module's own mode is put back after, also after an error."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.inference_mode(False):  # a validation loop may be running, whose tensors count no changes
            network.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def shown(batches: Batches, num_images: int, network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The first images of the batches, on the network's device.

    Args:
        batches: images and their classes.
        num_images: at most so many; fewer where there are fewer.
        network: looked at for its device.

    Raises:
        ValueError: fewer than one image is asked for.
        ProbeError: there is no image.
    """
    if num_images < 1:
        raise ValueError(f"num_images={num_images}: expected at least 1")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    left = num_images
    for images, labels in batches:
        taken = min(left, len(images))
        left -= taken
        # Tensors of an inference mode cannot take part in what counts changes or gradients: a copy can.
        images, labels = (
            (part.clone() if part.is_inference() else part)[:taken].to(device) for part in (images, labels)
        )
        yield images, labels
        if not left:
            return
    if left == num_images:
        raise ProbeError("there are no images to show the network: expected batches of images and their classes")


def predicted(network: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """The class a network gives to every image, int64 `[B]`, and the number of classes it knows.

    Raises:
        ProbeError: its output is no logits `[B, K]`, or not finite.
    """
    with torch.no_grad():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ProbeError(f"{type(network).__name__} returns {given}, expected logits [images, classes]")
    check_finite(logits, network)
    return logits.argmax(dim=1), logits.shape[1]


def check_finite(values: Tensor, network: nn.Module) -> None:
    """Refuse what a diverged network gives.

    Raises:
        ProbeError: a value is not finite.
    """
    if not bool(torch.isfinite(values).all()):
        raise ProbeError(f"{type(network).__name__} gives values that are not finite: it has diverged")
