"""Figures of what probes found as arrays: position similarity, first-layer filters, receptive fields, CKA across sizes.

Each shows one network per arm, the first replicate at its largest training set, but for CKA, a mean over replicates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.analysis.probe_answers import INITIAL, TRAINED, ProbeAnswers, probe_curve
from studies.analysis.quantity import quantity

from .axes import new_figure, print_style
from .layer_names import NamedLayer, named_layers
from .palette import INK, MUTED, Look, size_labels

FloatArray = npt.NDArray[np.float32]
MOST_ARMS = 6
MOST_FILTERS = 16
MOST_LAYERS = 6
_SIMILARITY_MAP, _FILTER_MAP, _FIELD_MAP, _CKA_MAP = "viridis", "RdBu_r", "magma", "Blues"


def plot_position_similarity(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """Cosine similarity of every position embedding to all others, laid out as the patches lie; two panels per arm.

    As in Dosovitskiy et al. (arXiv 2010.11929), figure 7, centre.
    """
    found = {weights: probes.arrays_of("position_similarity", "position_similarity", weights) for weights in
             (INITIAL, TRAINED)}  # fmt: skip
    arms = [arm for arm in looks if arm in found[TRAINED]][:MOST_ARMS]
    with print_style():
        figure = new_figure(6.2, 0.5 + 2.9 * len(arms))
        panels = figure.subplots(len(arms), 2, squeeze=False, gridspec_kw={"wspace": 0.12})
        image = None
        for row, arm in zip(panels, arms, strict=True):
            for axes, (weights, text) in zip(row, ((INITIAL, "before training"), (TRAINED, "trained")), strict=True):
                _bare(axes)
                if arm not in found[weights]:
                    axes.set_axis_off()
                    continue
                image = axes.imshow(_mosaic(found[weights][arm][0]), cmap=_SIMILARITY_MAP, vmin=-1, vmax=1)
                axes.set_title(f"{looks[arm].label}, {text}")
        if image is not None:
            figure.colorbar(image, ax=panels, label="cosine similarity", shrink=0.8, aspect=28)
        return figure


def plot_first_layer(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """Filters of the first layer, a row per arm: principal components of patch embeddings, kernels of convolutions."""
    filters = probes.arrays_of("first_layer", "components") | probes.arrays_of("first_layer", "filters")
    arms = [arm for arm in looks if arm in filters][:MOST_ARMS]
    columns = min(MOST_FILTERS, max(len(filters[arm]) for arm in arms))
    with print_style():
        figure = new_figure(0.62 * columns + 1.9, 0.75 * len(arms) + 0.35)
        panels = figure.subplots(len(arms), columns, squeeze=False)
        for row, arm in zip(panels, arms, strict=True):
            for place, axes in enumerate(row):
                _bare(axes)
                if place < len(filters[arm]):
                    _filter(axes, filters[arm][place])
                else:
                    axes.set_axis_off()
            row[0].set_ylabel(looks[arm].label.replace(" (", "\n("), rotation=0, ha="right", va="center", labelpad=8)
        return figure


def plot_receptive_fields(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """What the centre of a layer sees of the image: mean absolute gradient, brightest 1 in each map; a row per arm.

    Over each map the place of its layer, and in small print the name of the module.
    """
    fields = {arm: _fields(arrays) for arm, arrays in receptive_arrays(probes).items()}
    arms = [arm for arm in looks if fields.get(arm)][:MOST_ARMS]
    columns = max(len(fields[arm]) for arm in arms)
    with print_style():
        figure = new_figure(1.35 * columns + 2.4, 1.75 * len(arms) + 0.3)
        panels = figure.subplots(len(arms), columns, squeeze=False)
        image = None
        for row, arm in zip(panels, arms, strict=True):
            for place, axes in enumerate(row):
                _bare(axes)
                if place >= len(fields[arm]):
                    axes.set_axis_off()
                    continue
                layer, field = fields[arm][place]
                image = axes.imshow(np.sqrt(field / max(float(field.max()), 1e-30)), cmap=_FIELD_MAP, vmin=0, vmax=1)
                axes.set_title(layer.place, fontsize=7.5, fontweight="normal", color=INK, loc="center")
                axes.set_xlabel(layer.path, fontsize=5.5, color=MUTED, labelpad=2)
            row[0].set_ylabel(looks[arm].label.replace(" (", "\n("), rotation=0, ha="right", va="center", labelpad=8)
        if image is not None:
            bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=24)
            bar.set_label("√ gradient, brightest pixel of a map 1")
        return figure


def plot_similarity_across_sizes(probes: ProbeAnswers, looks: Mapping[str, Look]) -> Figure:
    """CKA of the features of an arm trained on one size with those of the same arm trained on another."""
    curve = probe_curve(size_similarities(probes), ["size", "setting"])
    arms = [arm for arm in looks if arm in set(curve["arm"])][:MOST_ARMS]
    sizes = sorted({int(size) for size in (*curve["size"], *curve["setting"])})
    with print_style():
        figure = new_figure(max(2.7 * len(arms) + 0.9, 4.2), 3.3)
        panels = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
        image = None
        for axes, arm in zip(panels, arms, strict=True):
            matrix = np.full((len(sizes), len(sizes)), np.nan)
            np.fill_diagonal(matrix, 1)
            for row in curve[curve["arm"] == arm].to_dict("records"):
                matrix[sizes.index(int(row["size"])), sizes.index(int(row["setting"]))] = row["mean"]
            image = axes.imshow(matrix, cmap=_CKA_MAP, vmin=0, vmax=1, origin="lower")
            for (i, j), value in np.ndenumerate(matrix):
                if np.isfinite(value):
                    colour = "white" if value > 0.6 else INK
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
            labels = size_labels(sizes)
            axes.set_xticks(range(len(sizes)), labels)
            axes.set_yticks(range(len(sizes)), labels)
            axes.tick_params(length=0)
            axes.grid(False)
            axes.set_title(looks[arm].label)
        panels[0].set_ylabel(quantity(probes.x).axis)
        figure.supxlabel(quantity(probes.x).axis, fontsize=9.5)
        if image is not None:
            figure.colorbar(image, ax=panels, label="CKA", shrink=0.85, aspect=24)
        return figure


def size_similarities(probes: ProbeAnswers) -> pd.DataFrame:
    """Similarities of trained networks of two sizes: `size`, and the other one as `setting`."""
    readings = probes.shown
    own = (readings["probe"] == "representation_similarity") & (readings["weights"] == TRAINED)
    return readings[own & readings["setting"].notna()]


def receptive_arrays(probes: ProbeAnswers) -> dict[str, Mapping[str, FloatArray]]:
    """By arm the receptive fields of the first replicate at the largest size."""
    own = [one for one in probes.arrays if one.probe == "receptive_field" and one.weights == TRAINED]
    own.sort(key=lambda one: (one.arm, -one.size, one.replicate))
    found: dict[str, Mapping[str, FloatArray]] = {}
    for one in own:
        found.setdefault(one.arm, one.arrays)
    return found


def _fields(arrays: Mapping[str, FloatArray]) -> list[tuple[NamedLayer, FloatArray]]:
    """Maps by layer in the order of depth, at most `MOST_LAYERS`, evenly chosen, the last among them."""
    fields = {name: array for name, array in arrays.items() if array.ndim == 2}
    maps = list(zip(named_layers(list(fields)), fields.values(), strict=True))
    places = np.unique(np.linspace(0, len(maps) - 1, min(MOST_LAYERS, len(maps))).round().astype(int))
    return [maps[place] for place in places]


def _mosaic(similarity: FloatArray) -> FloatArray:
    """Similarities `[T, T]` of places on a square grid as one picture, a small map per place, gaps between them."""
    side = round(len(similarity) ** 0.5)
    gap = 1
    step = side + gap
    picture = np.full((side * step - gap, side * step - gap), np.nan, np.float32)
    for place, row in enumerate(similarity):
        top, left = place // side * step, place % side * step
        picture[top : top + side, left : left + side] = row.reshape(side, side)
    return picture


def _filter(axes: Axes, weights: FloatArray) -> None:
    """A filter `[C, h, w]`: as colours around grey where it has three channels, else the mean over channels."""
    reach = max(float(np.abs(weights).max()), 1e-30)
    if len(weights) == 3:
        axes.imshow(0.5 + 0.5 * weights.transpose(1, 2, 0) / reach)
    else:
        flat = weights.mean(axis=0)
        reach = max(float(np.abs(flat).max()), 1e-30)
        axes.imshow(flat, cmap=_FILTER_MAP, vmin=-reach, vmax=reach)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
