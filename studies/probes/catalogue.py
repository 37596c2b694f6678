"""The probes there are, by name: what each is asked, how it is set, and which of its numbers a table shows.

How a probe is applied to a network is `studies.probes.applied`; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from studies.errors import ConfigError


@dataclass(frozen=True)
class Shown:
    """One column of the table that is printed of a probe.

    Attributes:
        quantity: of which readings.
        over: what becomes of several layers, heads and settings: their `mean`, or the `last` layer alone (its mean over
            heads and settings).
        setting: only readings with this setting; None: all.
    """

    quantity: str
    over: Literal["mean", "last"] = "mean"
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
    """

    name: str
    title: str
    version: int
    settings: Mapping[str, Any]
    shown: tuple[Shown, ...]
    across_sizes: bool = False
    reads_test: bool = False


_KINDS = (
    ProbeKind(
        "shift_consistency",
        "does the class survive a shift",
        1,
        {"num_images": 500, "max_shift": 4, "seed": 0},
        (Shown("roll_consistency"), Shown("crop_consistency")),
    ),
    ProbeKind(
        "equivariance",
        "how far layers are from moving with the image",
        1,
        {"num_images": 64},
        (Shown("equivariance_error"),),
    ),
    ProbeKind(
        "patch_shuffle",
        "how much accuracy survives shuffled patches",
        1,
        {"num_images": 500, "seed": 0},
        (Shown("patch_shuffle"),),
    ),
    ProbeKind(
        "receptive_field",
        "how far a position sees",
        1,
        {"num_images": 64},
        (Shown("receptive_field_radius", "last"),),
    ),
    ProbeKind(
        "attention_distance",
        "how far attention looks",
        1,
        {"num_images": 128},
        (Shown("attention_distance"),),
    ),
    ProbeKind(
        "position_similarity",
        "do position embeddings know the grid",
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
        "how alike the features are that an arm learns from different sizes",
        1,
        {"num_images": 500, "batch_size": 100},
        (Shown("representation_similarity"),),
        across_sizes=True,
    ),
    ProbeKind(
        "few_shot",
        "how much k images per class make of frozen features",
        1,
        {"shots": [5, 10], "draws": 5},
        (Shown("few_shot_error", setting=10),),
        reads_test=True,
    ),
)
KINDS: Mapping[str, ProbeKind] = {kind.name: kind for kind in _KINDS}
"""Every probe by its name, in the order they are told of."""


def chosen(names: Sequence[str] = ()) -> tuple[ProbeKind, ...]:
    """Probes by name, in the order of `KINDS`; all where none is named.

    Raises:
        ConfigError: there is no such probe; says which there are.
    """
    if unknown := [name for name in names if name not in KINDS]:
        raise ConfigError(f"--probes: there is no probe {unknown[0]!r}; expected some of {', '.join(KINDS)}")
    return tuple(kind for kind in _KINDS if not names or kind.name in names)
