"""Effective receptive field: which pixels a place of a layer really depends on (Luo et al. 1701.04128).

The theoretical receptive field says which pixels can matter; the gradient says which do, and by how much. Luo et al.
find that in deep convolutional networks it is a small Gaussian spot that grows with the square root of the depth, and
grows in training; Raghu et al. 2108.08810 compare ResNets and vision transformers by it.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from studies.probes.layers import LOGITS, Layer, captured, network_layers
from studies.probes.presenting import Batches, check_finite, evaluation_mode, shown
from studies.probes.probe import Probed, ProbeError, Reading

Float64Array = npt.NDArray[np.float64]

_MASSES = (0.5, 0.9)


def receptive_field(network: nn.Module, batches: Batches, *, num_images: int = 32, seed: int = 0) -> Probed:
    r"""Where the gradient of every layer's central place lies on the image.

    The output at the central row and column (of an even grid, the ones behind the middle) is added up over channels
    with random signs `e_c`, so that channels do not cancel; of its gradient with respect to the image, absolute values
    are averaged over signs, images and color channels: `m(p) = E |\sum_c e_c df_c / dx_p|`. Pooled features and logits
    have no places: they are taken as a whole.

    Args:
        network: any network of images.
        batches: images and classes; the classes are not read.
        num_images: the first so many images of the batches are shown; signs are drawn for each.
        seed: of the signs.

    Returns:
        Per layer, in pixels and around the center of mass of `m`: readings ``receptive_field_rms`` (root mean square
        distance; that of equal weights on an n x n image is `sqrt((n^2 - 1) / 6)`), ``receptive_field_50`` and
        ``receptive_field_90`` (radius of the circle that holds so much of `m`). Arrays: `m` by the layer's name,
        `[H, W]`, adding up to 1, in the order of depth. A layer without gradient has neither, as the logits of an
        untrained network with a zero classifier.

    Raises:
        ProbeError: no layer depends on the image, or the network has diverged.
    """
    masses: dict[str, Float64Array] = {}
    layers: tuple[Layer, ...] = ()
    seen = 0
    signs = torch.Generator().manual_seed(seed)
    with evaluation_mode(network), torch.enable_grad(), _differentiable(network):
        for raw, _ in shown(batches, num_images, network):
            layers = layers or network_layers(network, raw)
            seen += len(raw)
            images = raw.detach().requires_grad_()
            with captured(network, layers) as outputs:
                network(images.clone())  # a network may write over what it is given
            for layer in layers:
                gradient = _gradient(outputs[layer.name], images, signs)
                mass = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).abs().sum(dim=(0, 1))
                check_finite(mass, network)
                masses[layer.name] = masses.get(layer.name, 0.0) + mass.double().cpu().numpy()
    readings: list[Reading] = []
    arrays = {}
    for depth, layer in enumerate(layers):
        total = masses[layer.name].sum()
        if not total > 0:
            continue
        weights = masses[layer.name] / total
        arrays[layer.name] = weights.astype(np.float32)
        place = None if layer.name == LOGITS else depth
        readings += [
            Reading(quantity, value, "px", layer=layer.name, depth=place, num_images=seen)
            for quantity, value in radii(weights).items()
        ]
    if not readings:
        raise ProbeError("no layer of the network depends on the image")
    return Probed(tuple(readings), arrays)


def radii(weights: npt.ArrayLike) -> dict[str, float]:
    """Root mean square distance from the center of mass, and the radii that hold 50% and 90%, in pixels.

    Args:
        weights: not negative, `[H, W]`.

    Raises:
        ValueError: there is no weight.
    """
    values = np.asarray(weights, dtype=np.float64)
    if not values.sum() > 0:
        raise ValueError("the weights add up to 0: they have no center")
    shares = values / values.sum()
    rows, columns = np.indices(shares.shape)
    distances = np.hypot(rows - (shares * rows).sum(), columns - (shares * columns).sum())
    order = np.argsort(distances, axis=None)
    held = np.cumsum(shares.ravel()[order])
    found = {"receptive_field_rms": math.sqrt(float((shares * distances**2).sum()))}
    for mass in _MASSES:
        # The first pixel at which so much is held, up to rounding.
        first = min(int(np.searchsorted(held, mass * (1 - 1e-9))), held.size - 1)
        found[f"receptive_field_{mass * 100:.0f}"] = float(distances.ravel()[order[first]])
    return found


def _gradient(output: Tensor, images: Tensor, signs: torch.Generator) -> Tensor:
    """Gradient of a layer's central place with respect to its own image, channels under random signs."""
    center = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    if not center.requires_grad:  # nothing of the image reaches it
        return torch.zeros_like(images)
    drawn = torch.randint(0, 2, center.shape, generator=signs).to(center) * 2 - 1
    (gradient,) = torch.autograd.grad((center * drawn).sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def _differentiable(network: nn.Module) -> AbstractContextManager[None]:
    """On CUDA, the kernels of recurrent layers have no gradient in evaluation mode unless they are torch's own."""
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()
