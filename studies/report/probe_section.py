"""Why: what the networks of a study assume, as probes measured it; its figures, its tables, and their words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from studies.analysis.probe_answers import ProbeAnswers, training_change
from studies.analysis.quantity import quantity

from . import probe_figures, probe_maps
from .palette import Look
from .probe_figures import at_largest
from .tables import Table

FIGURES = (
    "equivariance",
    "shift_consistency",
    "patch_shuffle",
    "receptive_field",
    "attention_distance",
    "position_similarity",
    "first_layer",
    "representation_similarity",
)
TABLES = ("probes",)

MEASURES: Mapping[str, tuple[str, str]] = {
    "equivariance_error": ("equivariance error", "per px"),
    "roll_consistency": ("circular shift consistency", "κ"),
    "crop_consistency": ("shifted crop consistency", "κ"),
    "patch_shuffle_retained": ("accuracy left by shuffled patches", "share"),
    "receptive_field_rms": ("effective receptive field, RMS radius", "px"),
    "attention_distance": ("mean attention distance", "px"),
    "position_similarity_spearman": ("position similarity against distance", "ρ"),
    "low_frequency_share": ("low frequencies of first filters", "share"),
}
"""What the table tells, in words and unit, by the quantity of a reading."""

_LINES = "Lines: means over replicates; bands: 95% t-intervals, from three replicates up."
_ONE = "The first replicate at the largest size."


def probe_drawings(
    probes: ProbeAnswers, looks: Mapping[str, Look], frame: pd.DataFrame
) -> dict[str, tuple[Callable[[], Figure], str]]:
    """The figures by name, each with its caption; none that would be empty.

    Args:
        probes: of the study.
        looks: of the arms.
        frame: the table of records.
    """
    found: dict[str, tuple[Callable[[], Figure], str]] = {}
    known = set(probes.shown["quantity"])
    if "equivariance_error" in known:
        found["equivariance"] = (
            lambda: probe_figures.plot_equivariance(probes, looks, frame),
            "Translation equivariance error: how fast the part of a layer's output that tells images apart goes wrong "
            "as the image moves (Lie derivative by central differences, band-limited images); 0 where the layer moves "
            f"with the image. Left: by layer, at the largest size. {_LINES} Middle and right: of the features that the "
            "classifier reads; a dot per network. The panels share their scale. Compare arms at equal test error.",
        )
    if known & {"roll_consistency", "crop_consistency"}:
        found["shift_consistency"] = (
            lambda: probe_figures.plot_shift_consistency(probes, looks),
            "How well the classes of correctly classified images survive a shift, as Cohen's κ: 1 if all stay, 0 if as "
            f"many as chance would leave. At the largest size. {_LINES}",
        )
    if "patch_shuffle_retained" in known:
        found["patch_shuffle"] = (
            lambda: probe_figures.plot_patch_shuffle(probes, looks),
            "Accuracy above chance that is left when the patches of a grid are shuffled at test time, as a share of "
            f"that on whole images. At the largest size. {_LINES}",
        )
    if probe_maps.receptive_arrays(probes):
        found["receptive_field"] = (
            lambda: probe_maps.plot_receptive_fields(probes, looks),
            "Effective receptive fields: square root of the mean absolute gradient of the central place of a layer "
            "with respect to the pixels, each map scaled to its brightest; layers from left to right, under each the "
            f"name of its module. {_ONE}",
        )
    if "attention_distance" in known:
        found["attention_distance"] = (
            lambda: probe_figures.plot_attention_distance(probes, looks),
            "Mean attention distance by depth, a dot per head and replicate, lines through their means, at the largest "
            "size; class tokens left out. Dotted: attention to all patches alike. Dash-dotted: attention to the "
            "farthest patch alone, beyond which none can look.",
        )
    if probes.arrays_of("position_similarity", "position_similarity"):
        found["position_similarity"] = (
            lambda: probe_maps.plot_position_similarity(probes, looks),
            "Cosine similarity of the position embedding of each patch to those of all others: a small map per patch, "
            f"laid out as the patches lie in the image. {_ONE}",
        )
    if any(probes.arrays_of("first_layer", name) for name in ("components", "filters")):
        found["first_layer"] = (
            lambda: probe_maps.plot_first_layer(probes, looks),
            "First-layer filters: the leading principal components of patch embeddings, the kernels of convolutions; "
            f"of several channels the mean, of three the colours. {_ONE}",
        )
    if not probe_maps.size_similarities(probes).empty:
        found["representation_similarity"] = (
            lambda: probe_maps.plot_similarity_across_sizes(probes, looks),
            "Debiased linear CKA of the features of an arm trained on one size with those of the same arm and "
            "replicate trained on another; means over replicates. 1: the same up to rotation and scale.",
        )
    return found


def probe_tables(probes: ProbeAnswers, looks: Mapping[str, Look]) -> list[Table]:
    """What was measured before and after training, at the largest size of every arm; no table without readings."""
    rows: list[tuple[str, ...]] = []
    for name, (words, unit) in MEASURES.items():
        readings = _shown_in_table(probes, name)
        if readings.empty:
            continue
        changes = {row["arm"]: row for row in training_change(readings).to_dict("records")}
        for arm, look in looks.items():
            if arm not in changes:
                continue
            row = changes[arm]
            rows.append(
                (
                    f"{words} ({unit})",
                    look.label,
                    quantity(probes.x).number(row["size"]),
                    _number(row["initial"], row["initial_half_width"]),
                    _number(row["trained"], row["trained_half_width"]),
                    _number(row["change"], row["change_half_width"], signed=True),
                    str(row["num_replicates"]),
                )
            )
    if not rows:
        return []
    table = Table(
        name="probes",
        title="What was measured of the networks, before and after training",
        columns=("Measure", "Arm", quantity(probes.x).heading, "Before", "Trained", "Change", "Replicates"),
        rows=tuple(rows),
        note="Means over replicates ± half-width of the 95% t-interval, at the largest size of each arm; layers, heads "
        "and settings of a network are averaged first. Equivariance error (to translation) and receptive field are "
        "of the features that the classifier reads; the accuracy left is a share of that above chance; position "
        "similarity is its rank correlation with distance; first filters are those of the first layer. Change: "
        "trained less before, paired by replicate. A dash: not defined, as of an untrained classifier that is zero. "
        "All on validation images.",
        num_label_columns=2,
        wrapped=True,
    )
    return [table]


def probe_remarks(probes: ProbeAnswers) -> list[str]:
    """What must be known of the comparison."""
    told = [
        "Probes read validation images and the weights of the full budget, which need not be those of the branch that "
        "the curves read.",
        "Arms of one size differ in test error, and a better network may be more or less sensitive for that alone: the "
        "last panel of the equivariance figure has networks of different sizes by their errors.",
    ]
    single = probes.shown.groupby("arm")["replicate"].nunique()
    if len(single) and int(single.min()) < 3:
        told.append("Some arms were probed on fewer than three replicates: their intervals are wide or missing.")
    return told


def _shown_in_table(probes: ProbeAnswers, name: str) -> pd.DataFrame:
    readings = at_largest(probes.of(name))
    if name in ("equivariance_error", "receptive_field_rms"):
        return probe_figures.of_features(readings)
    if name == "patch_shuffle_retained":
        return readings[readings["setting"] > 1]  # a grid of 1 is the whole image
    return readings


def _number(mean: float, half_width: float, *, signed: bool = False) -> str:
    if math.isnan(mean):
        return "–"
    sign = "+" if signed else ""
    digits = 2 if abs(mean) < 10 else 1
    text = f"{mean:{sign}.{digits}f}".replace("-", "−")
    return text if math.isnan(half_width) else f"{text} ± {half_width:.{digits}f}"
