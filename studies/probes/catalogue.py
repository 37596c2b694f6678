"""The probes there are, by name: what each is asked, how it is set, and which of its numbers a table shows.

How a probe is applied to a network is `studies.probes.applied`; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.errors import ConfigError


@dataclass(frozen=True)
class Shown:
    """One column of the table that is printed of a probe; heads and settings are averaged.

    Attributes:
        quantity: of which readings.
        layer: only readings of this layer; None: the mean over all.
        setting: only readings with this setting; None: all.
    """

    quantity: str
    layer: str | None = None
    setting: float | None = None

    @property
    def name(self) -> str:
        """The quantity, with its setting where one is chosen."""
        return self.quantity if self.setting is None else f"{self.quantity}@{self.setting:g}"


@dataclass(frozen=True)
class ProbeKind:
    """A probe as a study applies it.

    Attributes:
        title: what it says of a network, in a few words.
        version: changes whenever the same network and images would be measured otherwise.
        settings: what it is set to; part of the identity of its results.
        shown: columns of its table.
        across_sizes: whether it is of all networks of an arm and replicate at once, from the smallest size to the
            largest, instead of one by one.
        reads_test: whether it reads the test split.
        by_layer: whether it reads the layers of `studies.probes.layers`, the logits among them.
    """

    name: str
    title: str
    version: int
    settings: Mapping[str, Any]
    shown: tuple[Shown, ...]
    across_sizes: bool = False
    reads_test: bool = False
    by_layer: bool = False


_KINDS = (
    ProbeKind(
        "shift_consistency",
        "do the classes stay when the image is shifted, of those told right",
        1,
        {"largest_shift": 4, "padding": "reflect", "num_images": 512, "seed": 0},
        (Shown("roll_consistency"), Shown("crop_consistency")),
    ),
    ProbeKind(
        "equivariance",
        "how far layers are from moving with the image; error of the features that the classifier reads",
        1,
        {"band": 0.5, "step": 0.1, "num_images": 64},
        (Shown("equivariance_error", "features"), Shown("equivariance_ratio")),
        by_layer=True,
    ),
    ProbeKind(
        "patch_shuffle",
        "how much of the accuracy above chance is left when patches are shuffled",
        1,
        {"grids": [1, 2, 4, 8], "num_images": 512, "seed": 0},
        tuple(Shown("patch_shuffle_retained", setting=float(grid)) for grid in (2, 4, 8)),
    ),
    ProbeKind(
        "receptive_field",
        "which part of the image the features that the classifier reads depend on",
        1,
        {"num_images": 32, "seed": 0},
        (Shown("receptive_field_rms", "features"), Shown("receptive_field_90", "features")),
        by_layer=True,
    ),
    ProbeKind(
        "attention_distance",
        "how far attention looks, averaged over layers and heads",
        1,
        {"num_images": 256},
        (Shown("attention_distance"), Shown("attention_entropy")),
    ),
    ProbeKind(
        "position_similarity",
        "do position embeddings know the grid; rank correlation with distance",
        1,
        {},
        (Shown("position_similarity_spearman"), Shown("position_bias_spearman")),
    ),
    ProbeKind(
        "first_layer",
        "what the first layer looks for",
        1,
        {"num_components": 28},
        (Shown("low_frequency_share"), Shown("filter_radius")),
    ),
    ProbeKind(
        "representation_similarity",
        "how alike the features are that an arm learns from different sizes, averaged over the other sizes",
        1,
        {"num_images": 512, "batch_size": 128},
        (Shown("representation_similarity"),),
        across_sizes=True,
    ),
    ProbeKind(
        "few_shot",
        "test error of ridge regression on frozen features, from k images per class",
        1,
        {"shots": [5, 10], "draws": 5},
        (Shown("few_shot_error", setting=5), Shown("few_shot_error", setting=10)),
        reads_test=True,
    ),
)
KINDS: Mapping[str, ProbeKind] = {kind.name: kind for kind in _KINDS}
"""Every probe by its name, in the order they are told of."""


def chosen(names: Sequence[str] = ()) -> tuple[ProbeKind, ...]:
    """Probes by name, in the order of `KINDS`; where none is named, all that leave the test split alone.

    Raises:
        ConfigError: there is no such probe; says which there are.
    """
    if unknown := [name for name in names if name not in KINDS]:
        raise ConfigError(f"--probes: there is no probe {unknown[0]!r}; expected some of {', '.join(KINDS)}")
    return tuple(kind for kind in _KINDS if (kind.name in names if names else not kind.reads_test))
