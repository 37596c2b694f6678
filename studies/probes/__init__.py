"""What a network assumes, measured on it: symmetry, locality, attention and similarity, before and after training.

Every measure is a function of any `torch.nn.Module` and of batches of images and labels, such as a `DataLoader`, and
gives `Probed`: readings and small arrays. `study probe` applies them to the networks of a study. Names are loaded when
first used: reading results needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import (
        attention_distance,
        attention_distance_change,
        largest_attention_distance,
        uniform_attention_distance,
    )
    from .catalogue import KINDS, ProbeKind
    from .changes import change
    from .filters import first_layer
    from .lie_derivative import equivariance
    from .position_embeddings import position_similarity, position_similarity_change
    from .probe import Probed, ProbeError, Reading
    from .probe_results import PROBE_COLUMNS, probe_arrays, probe_frame
    from .receptive_fields import receptive_field
    from .shifts import shift_consistency
    from .shuffled_patches import patch_shuffle
    from .similarity import Similarity, feature_similarity, representation_similarity
    from .summary import probe_summary

_MODULES = {
    "attention": (
        "attention_distance",
        "attention_distance_change",
        "largest_attention_distance",
        "uniform_attention_distance",
    ),
    "catalogue": ("KINDS", "ProbeKind"),
    "changes": ("change",),
    "filters": ("first_layer",),
    "lie_derivative": ("equivariance",),
    "position_embeddings": ("position_similarity", "position_similarity_change"),
    "probe": ("ProbeError", "Probed", "Reading"),
    "probe_results": ("PROBE_COLUMNS", "probe_arrays", "probe_frame"),
    "receptive_fields": ("receptive_field",),
    "shifts": ("shift_consistency",),
    "shuffled_patches": ("patch_shuffle",),
    "similarity": ("Similarity", "feature_similarity", "representation_similarity"),
    "summary": ("probe_summary",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "KINDS",
    "PROBE_COLUMNS",
    "ProbeError",
    "ProbeKind",
    "Probed",
    "Reading",
    "Similarity",
    "attention_distance",
    "attention_distance_change",
    "change",
    "equivariance",
    "feature_similarity",
    "first_layer",
    "largest_attention_distance",
    "patch_shuffle",
    "position_similarity",
    "position_similarity_change",
    "probe_arrays",
    "probe_frame",
    "probe_summary",
    "receptive_field",
    "representation_similarity",
    "shift_consistency",
    "uniform_attention_distance",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute of any type
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
