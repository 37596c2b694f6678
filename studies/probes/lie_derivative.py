r"""Translation equivariance error: the Lie derivative of every layer (Gruver et al. 2210.02984).

If a layer `f` is equivariant, moving the image moves its output: `T_{-t/s} f(T_t x) = f(x)` for every shift of `t`
pixels, `s` being the stride of the layer. The Lie derivative `L f(x)`, the derivative of the left side at `t = 0`, is
zero if and only if that holds for small shifts. It is taken by central differences,
`(T_{-e/s} f(T_e x) - T_{e/s} f(T_{-e} x)) / 2e` with `e = 0.1` pixels, along both sides of the image. Outputs without
places (pooled features, logits) are not moved back: equivariance there is invariance.

Images are moved on a torus, by phases in the Fourier domain, and hold no frequency above a band: on others a shift by a
fraction of a pixel is not defined. A pointwise nonlinearity doubles the band, or, with a kink such as ReLU's, leaves it
altogether, and a stride folds what is too fast for the coarser map: such aliasing is a failure of equivariance and
counts as one. Zero is reached by linear and smooth networks with circular borders alone, if the band is low enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from studies.probes.layers import LOGITS, Layer, captured, network_layers
from studies.probes.presenting import Batches, check_finite, evaluation_mode, shown
from studies.probes.probe import Probed, ProbeError, Reading
from studies.probes.translation import band_limited, translated

_NO_SPREAD = 1e-10  # of the mean square of an output: differences below it are the rounding of float32


def equivariance(
    network: nn.Module,
    batches: Batches,
    *,
    band: float = 0.5,
    step: float = 0.1,
    num_images: int = 64,
) -> Probed:
    r"""How far every layer of a network is from moving with the image.

    Two scales, both of root mean squares over images, places, channels and the two directions, neither changed by
    scaling an output:

    - ``equivariance_error`` (1/px) is `|L f|` relative to the standard deviation of the output over images: the
      part of what tells images apart that a shift of one pixel would displace wrongly, were the derivative constant.
      It exists for all layers, ``features`` and the logits (layer "", the whole network's invariance error) included.
    - ``equivariance_ratio`` (relative) is `|L f| / sqrt(|D f|^2 + |D' f|^2)`, where `D f` is how the output changes as
      the image moves, and `D' f` how it would if it moved along: 0 if equivariant, 1 if the two have nothing to do with
      each other, at most the square root of 2. Maps and tokens only.

    Only small shifts are seen: compare networks on the same images and band, and at matched error.

    Args:
        network: any network of images.
        batches: images and classes; the classes are not read.
        band: of the images, as a fraction of Nyquist's frequency (``setting`` of all readings).
        step: the shift `e` in pixels.
        num_images: the first so many images of the batches are shown.

    Returns:
        The readings of every layer; none for a layer that does not tell these images apart, as logits of an untrained
        network with a zero classifier.

    Raises:
        ValueError: band or step are out of range.
        ProbeError: there are fewer than two images, no layer tells them apart, or the network has diverged.
    """
    if not 0 < step < 1:
        raise ValueError(f"step={step}: expected a fraction of a pixel, between 0 and 1")
    sums: dict[str, _Sums] = {}
    layers: tuple[Layer, ...] = ()
    seen = 0
    with evaluation_mode(network), torch.no_grad():
        for raw, _ in shown(batches, num_images, network):
            images = band_limited(raw, band)
            layers = layers or network_layers(network, images)
            seen += len(images)
            found = _outputs(network, layers, images)
            for layer in layers:
                sums.setdefault(layer.name, _Sums()).add_output(found[layer.name])
            for axis in (0, 1):
                ahead, behind = (
                    _outputs(network, layers, translated(images, sign * step, axis + 2)) for sign in (1, -1)
                )
                for layer in layers:
                    trio = (found[layer.name], ahead[layer.name], behind[layer.name])
                    sums[layer.name].add_derivatives(*_derivatives(layer, trio, step, axis))
    if seen < 2:
        raise ProbeError("the equivariance error is relative to how images differ: expected at least two images")
    readings = [
        reading
        for depth, layer in enumerate(layers)
        for reading in _readings(layer, None if layer.name == LOGITS else depth, sums[layer.name], band, seen)
    ]
    if not readings:
        raise ProbeError("no layer of the network gives different outputs for different images")
    return Probed(tuple(readings))


@dataclass
class _Sums:
    """Sums over images of one layer's squares, in float64."""

    outputs: Tensor = field(default_factory=lambda: torch.zeros(()))  # [C, h, w]
    squares: float = 0.0
    lie: float = 0.0
    moving: float = 0.0  # with the image, and as the map itself

    def add_output(self, output: Tensor) -> None:
        values = output.double().cpu()
        self.outputs = self.outputs + values.sum(dim=0)
        self.squares += float(values.square().sum())

    def add_derivatives(self, lie: Tensor, with_image: Tensor, of_map: Tensor) -> None:
        squares = [float(derivative.double().square().sum()) for derivative in (lie, with_image, of_map)]
        self.lie += squares[0] / 2  # of two directions
        self.moving += (squares[1] + squares[2]) / 2

    def spread(self, num_images: int) -> float:
        """Squared deviations from the mean over images; 0 where they are rounding."""
        deviations = self.squares - float(self.outputs.square().sum()) / num_images
        return deviations if deviations > _NO_SPREAD * self.squares else 0.0


def _outputs(network: nn.Module, layers: tuple[Layer, ...], images: Tensor) -> dict[str, Tensor]:
    with captured(network, layers) as seen:
        network(images)
    for output in seen.values():
        check_finite(output, network)
    # Differences of half precision would be its rounding.
    return {name: output.to(torch.promote_types(output.dtype, torch.float32)) for name, output in seen.items()}


def _derivatives(layer: Layer, outputs: tuple[Tensor, Tensor, Tensor], step: float, axis: int) -> tuple[Tensor, ...]:
    """Lie derivative, derivative as the image moves, and as the map moves, per pixel of the image.

    Args:
        layer: where its places lie.
        outputs: for the image, the image moved ahead and moved behind ``[B, C, h, w]``.
        step: by which it was moved, in pixels.
        axis: 0 for rows, 1 for columns.
    """
    output, ahead, behind = outputs
    with_image = (ahead - behind) / (2 * step)
    if layer.grid is None:
        return with_image, with_image, torch.zeros_like(with_image)
    places, dim = step / layer.stride[axis], axis + 2
    lie = (translated(ahead, -places, dim) - translated(behind, places, dim)) / (2 * step)
    of_map = (translated(output, places, dim) - translated(output, -places, dim)) / (2 * step)
    return lie, with_image, of_map


def _readings(layer: Layer, depth: int | None, sums: _Sums, band: float, num_images: int) -> list[Reading]:
    spread = sums.spread(num_images)
    if not spread:
        return []
    error = math.sqrt(sums.lie / num_images / (spread / (num_images - 1)))
    values = [("equivariance_error", error, "1/px")]
    if layer.grid is not None and sums.moving > 0:
        values.append(("equivariance_ratio", math.sqrt(sums.lie / sums.moving), "relative"))
    return [
        Reading(quantity, value, unit, layer=layer.name, depth=depth, setting=band, num_images=num_images)
        for quantity, value, unit in values
    ]
