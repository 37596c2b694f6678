"""What a network looks at first: the filters of the layer that sees pixels.

Of a patch embedding the principal components of its filters are shown (Dosovitskiy et al. 2010.11929, figure 7, left):
"The components resemble plausible basis functions for a low-dimensional representation of the fine structure within
each patch" (section 4.5). A convolution's kernels are shown themselves, and the rows of a fully connected layer as
images, those of largest norm. Two numbers say what a picture of noise has not: how smooth filters are and how local.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .presenting import Batches, evaluation_mode, shown
from .probe import Probed, ProbeError, Reading

Float64Array = npt.NDArray[np.float64]

NUM_COMPONENTS = 28
"""As many as figure 7 of Dosovitskiy et al. shows."""


def first_layer(network: nn.Module, batches: Batches, *, num_components: int = NUM_COMPONENTS) -> Probed:
    """Filters of the first convolution or fully connected layer that runs, and how smooth and how local they are.

    A convolution whose stride is its kernel is a patch embedding (ViT, Mixer, LSTM); any other is one of a
    convolutional network, also in front of a transformer (hybrid). A fully connected layer must have a weight for every
    pixel and channel, in the order `[C, H, W]`.

    Args:
        network: any.
        batches: the first image of them is given to the network, to see which layer runs first; values do not matter.
        num_components: principal components of a patch embedding, and images of a fully connected layer, at most.

    Returns:
        Array `components`, `[k, C, p, p]`: principal components of the filters of a patch embedding about their mean
        filter, each of unit norm, its largest entry positive, or array `filters`, `[n, C, kernel height, kernel
        width]`: all kernels of a convolution, or `[k, C, H, W]` of a fully connected layer. Readings of its layer:

        - `explained_variance` (fraction; setting: the component, from 1) of a patch embedding;
        - `low_frequency_share` (fraction): share of the filters' spectral energy, over the filters together, below half
          of the Nyquist frequency along both axes. White noise has 1/4, a single pixel too, smooth filters near 1, and
          those that look for fine structure near 0;
        - `filter_radius` (px): root mean square distance of a filter's energy from its own centre, over the filters
          together by energy. Energy spread evenly over p x p has `sqrt((p^2 - 1) / 6)`, a single pixel 0.

    Raises:
        ProbeError: no layer sees the image, it is of another kind, or its weights are zero or not finite.
    """
    found = _first_filters(network, batches)
    energy = (found.filters**2).sum()
    if not np.isfinite(energy) or not energy > 0:
        raise ProbeError(f"weights of the first layer {found.name!r} are zero or not finite: there is nothing to see")
    measures = (
        ("low_frequency_share", low_frequency_share(found.filters), "fraction"),
        ("filter_radius", filter_radius(found.filters), "px"),
    )
    readings = [Reading(quantity, value, unit, layer=found.name, depth=0) for quantity, value, unit in measures]
    if not found.is_patch_embedding:
        shown = found.filters
        if found.is_dense:
            shown = shown[np.argsort(-(shown**2).sum(axis=(1, 2, 3)), kind="stable")[:num_components]]
        return Probed(tuple(readings), {"filters": shown.astype(np.float32)})
    components, explained = principal_components(found.filters, num_components)
    readings += [
        Reading("explained_variance", value, "fraction", layer=found.name, depth=0, setting=number)
        for number, value in enumerate(explained.tolist(), start=1)
    ]
    return Probed(tuple(readings), {"components": components.astype(np.float32)})


def principal_components(filters: Float64Array, number: int) -> tuple[Float64Array, Float64Array]:
    """Leading directions in which filters differ from their mean, and the share of their variance each explains.

    Args:
        filters: `[n, C, p, p]`.
        number: of components at most.

    Returns:
        Components `[k, C, p, p]` of unit norm with their largest entry positive, and shares `[k]`, falling.

    Raises:
        ProbeError: the filters are all alike.
    """
    flat = filters.reshape(len(filters), -1)
    _, singular, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    if not singular[0] > 1e-12 * np.linalg.norm(flat):
        raise ProbeError("the filters of the patch embedding are all alike: they have no principal components")
    chosen = directions[: min(number, len(filters) - 1)]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1, keepdims=True), axis=1)
    shares: Float64Array = (singular**2 / (singular**2).sum())[: len(chosen)]
    return (chosen * np.sign(largest)).reshape(-1, *filters.shape[1:]), shares


def low_frequency_share(filters: Float64Array) -> float:
    """Share of spectral energy below half of the Nyquist frequency along both axes, filters `[n, C, h, w]` together.

    A filter is an image that is zero outside: its spectrum is continuous, and what lies below a quarter of a cycle per
    pixel is integrated exactly. Of filters w along one axis it is `sum_ij w_i w_j sinc((i - j) / 2) / 2`, with
    `sinc(x) = sin(pi x) / (pi x)`; the whole is `sum_i w_i^2` (Parseval).
    """
    down, across = (_half_band(size) for size in filters.shape[-2:])
    return float((filters * (down @ filters @ across)).sum() / (filters**2).sum())


def filter_radius(filters: Float64Array) -> float:
    """Root mean square distance in pixels of the energy of filters `[n, C, h, w]` from the centre of each one's own."""
    energy = (filters**2).sum(axis=1)
    spread = 0.0
    for axis in (1, 2):
        along = energy.sum(axis=3 - axis)  # [n, places]
        places, mass = np.arange(along.shape[1]), along.sum(axis=1)
        centre = np.divide(along @ places, mass, out=np.zeros_like(mass), where=mass > 0)
        spread += float((along * (places - centre[:, None]) ** 2).sum())
    return float(np.sqrt(spread / energy.sum()))


def _half_band(size: int) -> Float64Array:
    """Quadratic form of the energy below half of the Nyquist frequency, `[size, size]`."""
    places = np.arange(size)
    form: Float64Array = np.sinc((places[:, None] - places) / 2) / 2
    return form


@dataclass(frozen=True)
class _Filters:
    """Weights of the first layer, `[n, C, h, w]`."""

    name: str
    filters: Float64Array
    is_patch_embedding: bool = False
    is_dense: bool = False


def _first_filters(network: nn.Module, batches: Batches) -> _Filters:
    images, _ = next(shown(batches, 1, network))
    seen: list[nn.Module] = []

    def look(module: nn.Module, inputs: object) -> None:
        del inputs
        seen.append(module)

    hooks = [
        module.register_forward_pre_hook(look)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with evaluation_mode(network), torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ProbeError(f"{type(network).__name__} has no convolution and no fully connected layer")
    layer = seen[0]
    name = next(name for name, module in network.named_modules() if module is layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights: Float64Array = layer.weight.detach().cpu().double().numpy()
    if isinstance(layer, nn.Conv2d):
        is_patch_embedding = layer.stride == layer.kernel_size and layer.kernel_size != (1, 1)
        return _Filters(name, weights, is_patch_embedding=is_patch_embedding)
    if weights.shape[1] != images[0].numel():
        raise ProbeError(
            f"the first layer {name!r} of {type(network).__name__} reads {weights.shape[1]} numbers, not the "
            f"{images[0].numel()} of an image of shape {list(images.shape[1:])}: its rows are no images"
        )
    return _Filters(name, weights.reshape(-1, *images.shape[1:]), is_dense=True)
