"""What a network's position embeddings say about places: do patches that are near each other have similar ones?

"Closer patches tend to have more similar position embeddings" (Dosovitskiy et al. 2010.11929, section 4.5 and figure 7,
centre): a network that is told nothing about the image's two dimensions has then learnt them. The figure is the cosine
similarity of the embedding of every place with that of every other; the number is its correlation with their distance,
-1 for an embedding that falls off evenly with distance, about 0 for an untrained one. A relative bias of attention is
asked the same: whether it falls with the distance of its offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import nn

from models.position import AddedPosition, RelativeBias, RelativeQuery, RotaryPosition

from .changes import change
from .patch_grid import PatchGrid
from .probe import Probed, ProbeError, Reading
from .wrapping import declaring

Float64Array = npt.NDArray[np.float64]


def position_similarity(network: nn.Module) -> Probed:
    """Cosine similarity of the position embeddings of all patches, and how it goes with their distance on the grid.

    Looked at are the embeddings added to tokens, learnt or sinusoidal, at the stem (timm's `pos_embed` or this
    package's) or in every layer; halves for row and column are taken together, as the tokens have them. A class token
    has no place and is left out. Biases of attention by offset (this package's and timm's `RelPosBias`) are correlated
    with the length of the offset instead, each offset counted once, also the zero one. Images are not needed.

    Args:
        network: any with such embeddings, also inside a module that holds it.

    Returns:
        Of embeddings: readings `position_similarity_pearson` and `position_similarity_spearman` by layer and depth, the
        correlations over all pairs of different patches of cosine similarity with distance; array
        `position_similarity`, `[L, T, T]`, patches in raster order. Of biases: readings `position_bias_pearson` and
        `position_bias_spearman` by layer, depth and head; array `position_bias`, `[L, heads, 2 rows - 1,
        2 columns - 1]`, the zero offset in the middle, key below and to the right of the query towards the end.

    Raises:
        ProbeError: the network has neither, or a correlation is undefined, as of embeddings that are all alike.
    """
    tables, biases = list(_tables(network)), list(_biases(network))
    if not tables and not biases:
        raise ProbeError(f"{type(network).__name__} {_why_none(network)}")
    readings: list[Reading] = []
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    if tables:
        similarities = [_cosines(table) for table in tables]
        for depth, (table, similarity) in enumerate(zip(tables, similarities, strict=True)):
            upper = np.triu_indices(table.grid.num_patches, 1)
            distances = table.grid.distances().numpy()[upper]
            readings += _correlations(
                "position_similarity", similarity[upper], distances, layer=table.layer, depth=depth
            )
        arrays["position_similarity"] = np.stack(similarities).astype(np.float32)
    if biases:
        by_offset = [_by_offset(bias) for bias in biases]
        for depth, (bias, heads) in enumerate(zip(biases, by_offset, strict=True)):
            rows, columns = (np.arange(size) - size // 2 for size in heads.shape[1:])
            lengths = np.hypot(rows[:, None], columns).ravel()
            for head, values in enumerate(heads):
                readings += _correlations(
                    "position_bias", values.ravel(), lengths, layer=bias.layer, depth=depth, head=head
                )
        arrays["position_bias"] = np.stack(by_offset).astype(np.float32)
    return Probed(tuple(readings), arrays)


def position_similarity_change(trained: nn.Module, initial: nn.Module) -> Probed:
    """What training did to the correlations of `position_similarity`: the same readings, named `..._change`.

    Args:
        trained: the network.
        initial: the same network before training.

    Raises:
        ProbeError: of `position_similarity`, or the networks are not of one architecture.
    """
    return change(position_similarity(trained), position_similarity(initial))


@dataclass(frozen=True)
class _Table:
    """Position embeddings of all patches `[T, D]`, or biases between them `[heads, T, T]`, and where they lie."""

    layer: str
    values: Float64Array
    grid: PatchGrid


def _tables(network: nn.Module) -> Iterator[_Table]:
    inside, inner = declaring(network)
    own = getattr(inner, "pos_embed", None)
    if isinstance(own, torch.Tensor) and own.ndim in (3, 4) and own.shape[0] == 1:
        vectors = own.flatten(1, -2)[0]  # [P + T, D] from [1, P + T, D] or [1, rows, columns, D]
        grid_size = own.shape[1:3] if own.ndim == 4 else _grid_size(network)
        yield _patches_of(f"{inside}.pos_embed".removeprefix("."), vectors, grid_size)
    for name, module in network.named_modules():
        if isinstance(module, AddedPosition):
            yield _patches_of(name, module.table(), _grid_size(network))


def _biases(network: nn.Module) -> Iterator[_Table]:
    inner: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, RelativeBias):
            inner.add(module.offsets)
            holder = module.offsets
        elif hasattr(module, "get_bias") and hasattr(module, "window_size") and module not in inner:
            holder = module  # timm's
        else:
            continue
        rows, columns = holder.window_size
        with torch.no_grad():
            bias = holder.get_bias()  # [1, heads, P + T, P + T]
        patches = bias[0, :, -rows * columns :, -rows * columns :]
        yield _Table(name, _numbers(patches, name), PatchGrid(rows, columns))


def _patches_of(layer: str, vectors: torch.Tensor, grid_size: tuple[int, int] | torch.Size | None) -> _Table:
    """Rows of the patches among `[P + T, D]`: the last ones, on the network's grid or on a square."""
    rows = len(vectors)
    if grid_size is None or grid_size[0] * grid_size[1] > rows:
        side = int(rows**0.5)  # a class token at most is beside a square of patches
        if rows - side**2 > 1:
            raise ProbeError(
                f"{layer!r} has {rows} position embeddings: expected those of a square grid, with one for a class "
                "token or none, or a network whose patch_embed.grid_size tells its grid"
            )
        grid_size = (side, side)
    grid = PatchGrid(grid_size[0], grid_size[1])
    if grid.num_patches < 3:
        raise ProbeError(f"{layer!r} tells the places of {grid.num_patches} patches: expected 3 for a correlation")
    return _Table(layer, _numbers(vectors[rows - grid.num_patches :], layer), grid)


def _grid_size(network: nn.Module) -> tuple[int, int] | None:
    grid_size = getattr(getattr(declaring(network)[1], "patch_embed", None), "grid_size", None)
    return tuple(grid_size) if grid_size is not None else None


def _numbers(values: torch.Tensor, layer: str) -> Float64Array:
    numbers: Float64Array = values.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise ProbeError(f"positions of {layer!r} are not finite: the network has diverged")
    return numbers


def _cosines(table: _Table) -> Float64Array:
    lengths = np.linalg.norm(table.values, axis=1, keepdims=True)
    if not lengths.all():
        raise ProbeError(f"{table.layer!r} embeds a place as a zero vector, whose similarity is undefined")
    directions = table.values / lengths
    similarity: Float64Array = np.clip(directions @ directions.T, -1.0, 1.0)
    return similarity


def _by_offset(bias: _Table) -> Float64Array:
    """Biases of attention `[heads, T, T]` by offset from query to key, `[heads, 2 rows - 1, 2 columns - 1]`."""
    rows, columns = np.divmod(np.arange(bias.grid.num_patches), bias.grid.columns)
    table = np.empty((len(bias.values), 2 * bias.grid.rows - 1, 2 * bias.grid.columns - 1))
    down = rows[None, :] - rows[:, None] + bias.grid.rows - 1
    across = columns[None, :] - columns[:, None] + bias.grid.columns - 1
    table[:, down, across] = bias.values
    return table


def _correlations(
    quantity: str, values: Float64Array, distances: Float64Array, *, layer: str, depth: int, head: int | None = None
) -> Iterator[Reading]:
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise ProbeError(
            f"{layer!r}{'' if head is None else f', head {head},'} says the same of all places: a correlation with "
            "distance is undefined"
        )
    for kind, correlation in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        value = float(correlation(values, distances).statistic)
        yield Reading(f"{quantity}_{kind}", value, "correlation", layer=layer, depth=depth, head=head)


def _has_bias_table(module: nn.Module) -> bool:
    """As BEiT's and Swin's attention in timm have one, for which nothing gives the biases of all pairs."""
    return isinstance(getattr(module, "relative_position_bias_table", None), torch.Tensor)


def _why_none(network: nn.Module) -> str:
    """Why there is no position embedding to look at."""
    kinds = {type(module) for module in network.modules()}
    if RotaryPosition in kinds:
        return "turns queries and keys by angles of row and column, which are fixed: it embeds no places"
    if RelativeQuery in kinds:
        return (
            "matches keys of raster offsets with the queries of an image: it embeds no places, and how its attention "
            "falls with distance depends on the image, see attention_distance"
        )
    tables = [name for name, module in network.named_modules() if _has_bias_table(module)]
    if tables:
        return (
            f"adds a bias of attention by offset that is not read here, relative_position_bias_table of {tables[0]!r}: "
            "expected a module with window_size and get_bias(), the biases of all pairs of tokens of one grid"
        )
    return (
        "has no position embedding: expected one added to tokens (pos_embed, or those of this package) or a bias of "
        "attention by offset"
    )
