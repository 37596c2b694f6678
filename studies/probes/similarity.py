r"""How alike two networks see images: centred kernel alignment (CKA) of their layers, without the bias of few images.

Linear CKA (Kornblith et al. 1905.00414) compares which images a layer holds near each other: it does not change if
features are rotated, permuted or scaled as a whole, so that layers of different width and networks of different seeds
compare. Estimated from n images by the plain formula it is biased towards 1, the more so the wider the layer. Here the
Hilbert-Schmidt independence criterion is estimated without bias (Song et al., Journal of Machine Learning Research 13,
2012), `K` and `L` being `X X'` and `Y Y'` with zeros on the diagonal:

    HSIC_1(K, L) = [ tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L 1 ] / (n (n - 3)),

and averaged over minibatches before the ratio is taken, as Nguyen et al. 2010.15327 do:

    CKA = mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) mean HSIC_1(L, L)).

What is computed is the same number as a product of matrices: HSIC_1 is the scalar product of U-centred Gram matrices
(Szekely & Rizzo 1310.2926), so that the ratio is a cosine and never leaves [-1, 1]. A batch counts by its pairs of
images, which is the average of the paper where all batches are of one size. Independent features give about 0, and
may give slightly less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models import features

from .layers import Layer, captured, network_layers
from .presenting import Batches, evaluation_mode, shown
from .probe import Probed, ProbeError, Reading

NUM_IMAGES = 512
"""Images that layers are compared on unless told otherwise."""
FEWEST_IMAGES = 4
"""Of a batch: the unbiased estimate divides by n - 3."""
_Batch = tuple[torch.Tensor, torch.Tensor]
# Features that vary by less than this, relative to their size, are constant: float32 rounds at 6e-8.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Similarity:
    """CKA of every representation of one list with every one of another.

    Attributes:
        first: names of the rows: layers of the first network, or networks.
        second: names of the columns.
        values: float64 `[len(first), len(second)]`, 1 for the same up to rotation and scale, about 0 for independent.
        undefined: representations that are left out of rows or columns, as `first: <name>` or `second: <name>`: they do
            not tell images apart, as an untrained classifier that is zero, and have no similarity to anything.
        num_images: images of the batches that were large enough to count.
        quantity: what its readings are called.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    values: npt.NDArray[np.float64]
    undefined: tuple[str, ...]
    num_images: int
    quantity: str = "representation_similarity"

    def probed(self) -> Probed:
        """Readings of the rows and columns of one name, by layer and depth, and how many were undefined.

        The array, named as the quantity, is the whole matrix.
        """
        columns = {name: place for place, name in enumerate(self.second)}
        readings = [
            Reading(
                self.quantity, float(self.values[depth, columns[name]]), "relative", name, depth,
                num_images=self.num_images,
            )
            for depth, name in enumerate(self.first)
            if name in columns
        ]  # fmt: skip
        count = Reading("undefined_similarities", float(len(self.undefined)), "layers", num_images=self.num_images)
        return Probed((*readings, count), {self.quantity: self.values.astype(np.float32)})


def representation_similarity(
    first: nn.Module, second: nn.Module, batches: Batches, *, num_images: int = NUM_IMAGES
) -> Similarity:
    """Compare all layers of two networks on the same images.

    Layers are those of `layers.network_layers`: blocks and stages, then `features`, what the classifier reads, and
    `logits`. A map or grid of tokens is compared as it lies, all places and channels of an image
    together; tokens without a place are left out, so that a class token is seen in `features`.

    Args:
        first: its layers are the rows; the same network twice compares its layers with each other.
        second: its layers are the columns.
        batches: images as in training; of those with fewer than 4 images nothing can be said, and they are left out.
        num_images: how many of them are used, the first ones.

    Raises:
        ProbeError: no batch is large enough, a network has diverged, or all layers of one are constant.
    """
    held = _large_enough(list(shown(batches, num_images, first)))
    networks = (first,) if second is first else (first, second)
    with torch.no_grad():
        layers = [network_layers(network, _beside(network, held[0])) for network in networks]
        names = [tuple(layer.name for layer in found) for found in layers]
        sums = _Sums(names[0], names[-1])
        for batch in held:
            outputs = [_outputs(*pair, batch) for pair in zip(networks, layers, strict=True)]
            sums.add(outputs[0], outputs[-1])
    return sums.similarity("representation_similarity", held)


def feature_similarity(
    networks: Mapping[str, nn.Module], batches: Batches, *, num_images: int = NUM_IMAGES
) -> Similarity:
    """Compare what the classifiers of several networks read, such as one architecture trained on more and more images.

    Args:
        networks: by name, in the order of rows and columns.
        batches: images as in training; those with fewer than 4 images are left out.
        num_images: how many of them are used, the first ones.

    Returns:
        The matrix `[K, K]` of `models.features`, symmetric, 1 on the diagonal; its readings are the diagonal.

    Raises:
        ProbeError: no batch is large enough, a network has diverged or has no classifier, or all features are constant.
        ValueError: no network is given.
    """
    if not networks:
        raise ValueError("networks is empty: expected networks by name, at least one")
    names = tuple(networks)
    held = _large_enough(list(shown(batches, num_images, networks[names[0]])))
    sums = _Sums(names, names)
    for batch in held:
        outputs = []
        for name, network in networks.items():
            try:
                outputs.append(features(network, _beside(network, batch)).clone())
            except ValueError as error:
                raise ProbeError(f"network {name!r} has no features to compare: {error}") from error
        sums.add(outputs, outputs)
    return sums.similarity("feature_similarity", held)


def centred_gram(representation: torch.Tensor) -> torch.Tensor:
    """U-centred Gram matrix of features of n images, `[n, ...]` -> float64 `[n, n]`; it needs 4 images.

    For i != j it is `k_ij - sum_l k_il / (n - 2) - sum_l k_lj / (n - 2) + sum_lm k_lm / ((n - 1)(n - 2))` and on the
    diagonal 0, where `k` is the Gram matrix without its diagonal. The scalar product of two, divided by `n (n - 3)`, is
    HSIC_1. Features are centred first, which changes nothing but the rounding.
    """
    flat = representation.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    size = len(flat)
    gram = (flat @ flat.T).fill_diagonal_(0)
    rows = gram.sum(dim=1) / (size - 2)
    centred = gram - rows[:, None] - rows + rows.sum() / (size - 1)
    return centred.fill_diagonal_(0)


class _Sums:
    """Scalar products of centred Gram matrices, summed over batches."""

    def __init__(self, first: tuple[str, ...], second: tuple[str, ...]) -> None:
        self.names = (first, second)
        self.cross = torch.zeros(len(first), len(second), dtype=torch.float64)
        self.own = tuple(torch.zeros(len(names), dtype=torch.float64) for names in self.names)
        self.scale = tuple(torch.zeros(len(names), dtype=torch.float64) for names in self.names)

    def add(self, first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> None:
        """Add one batch: representations `[n, ...]` in the order of the names."""
        sides: list[torch.Tensor] = []
        for side, representations in enumerate((first, second)):
            if side and second is first:
                sides.append(sides[0])
            else:
                sides.append(torch.stack([centred_gram(one).flatten().cpu() for one in representations]))
            for place, one in enumerate(representations):
                size = float(one.double().square().sum())
                if not np.isfinite(size):
                    name = self.names[side][place]
                    raise ProbeError(f"representation {name!r} is not finite: the network has diverged")
                self.scale[side][place] += size**2
            self.own[side].add_(sides[side].square().sum(dim=1))
        self.cross += sides[0] @ sides[1].T

    def similarity(self, quantity: str, batches: Sequence[_Batch]) -> Similarity:
        """The ratio of the sums, in which the counts of pairs cancel."""
        defined = [own > _CONSTANT**4 * scale for own, scale in zip(self.own, self.scale, strict=True)]
        for side, kept in zip(("first", "second"), defined, strict=True):
            if not kept.any():
                raise ProbeError(
                    f"no representation of the {side} network tells images apart: similarity is undefined for constant "
                    "features, and for those in which all images are equally far from each other"
                )
        lengths = [own[kept].sqrt() for own, kept in zip(self.own, defined, strict=True)]
        values = self.cross[defined[0]][:, defined[1]] / (lengths[0][:, None] * lengths[1])
        kept_names = [
            tuple(name for name, keep in zip(names, kept.tolist(), strict=True) if keep)
            for names, kept in zip(self.names, defined, strict=True)
        ]
        undefined = tuple(
            f"{side}: {name}"
            for side, names, kept in zip(("first", "second"), self.names, defined, strict=True)
            for name, keep in zip(names, kept.tolist(), strict=True)
            if not keep
        )
        num_images = sum(len(images) for images, _ in batches)
        return Similarity(kept_names[0], kept_names[1], values.numpy(), undefined, num_images, quantity)


def _outputs(network: nn.Module, layers: Sequence[Layer], batch: _Batch) -> list[torch.Tensor]:
    """What the layers give for a batch."""
    with evaluation_mode(network), captured(network, layers) as seen:
        network(_beside(network, batch))
        return [seen[layer.name] for layer in layers]


def _beside(network: nn.Module, batch: _Batch) -> torch.Tensor:
    """Images of a batch on the network's device."""
    images, _ = next(shown([batch], len(batch[0]), network))
    return images


def _large_enough(batches: Sequence[_Batch]) -> Sequence[_Batch]:
    large = [batch for batch in batches if len(batch[0]) >= FEWEST_IMAGES]
    if not large:
        raise ProbeError(
            f"batches of at most {max(len(images) for images, _ in batches)} images: expected at least {FEWEST_IMAGES} "
            "in a batch, which the unbiased estimate of similarity needs"
        )
    return large
