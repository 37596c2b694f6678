"""Families of image classifiers whose forward FLOPs are matched, and the Lightning module around them.

Names are loaded when first used, so that importing this package, naming families and counting FLOPs need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoints import Origin, Weights, classifier_checkpoint, read_weights
    from models.classifier import ImageClassifier
    from models.counter import count_flops, count_forward_flops, count_training_flops
    from models.families import Family
    from models.flops import ForwardFlops
    from models.head import classifier_name, features
    from models.lanes import LaneAdamW, LaneNetwork, build_lanes, why_no_lanes, why_not_stacked
    from models.masked_patches import MaskedPatchNetwork, backbone_state, masked_patch_flops, why_no_masked_patches
    from models.optimizer import build_optimizer
    from models.registry import FAMILIES, build_network, family_names, forward_flops, label, layout_of, variants
    from models.resolution import resize_state
    from models.schedule import learning_rate_factor
    from models.start import LoadedStart, MisfitError, fit_weights, load_start
    from models.tiers import TIERS, Tier, split_variant
    from models.weights_error import WeightsError

__all__ = [
    "FAMILIES",
    "TIERS",
    "Family",
    "ForwardFlops",
    "ImageClassifier",
    "LaneAdamW",
    "LaneNetwork",
    "LoadedStart",
    "MaskedPatchNetwork",
    "MisfitError",
    "Origin",
    "Tier",
    "Weights",
    "WeightsError",
    "backbone_state",
    "build_lanes",
    "build_network",
    "build_optimizer",
    "classifier_checkpoint",
    "classifier_name",
    "count_flops",
    "count_forward_flops",
    "count_training_flops",
    "family_names",
    "features",
    "fit_weights",
    "forward_flops",
    "label",
    "layout_of",
    "learning_rate_factor",
    "load_start",
    "masked_patch_flops",
    "read_weights",
    "resize_state",
    "split_variant",
    "variants",
    "why_no_lanes",
    "why_no_masked_patches",
    "why_not_stacked",
]

_MODULES = {
    "models.checkpoints": ("Origin", "Weights", "classifier_checkpoint", "read_weights"),
    "models.classifier": ("ImageClassifier",),
    "models.counter": ("count_flops", "count_forward_flops", "count_training_flops"),
    "models.families": ("Family",),
    "models.flops": ("ForwardFlops",),
    "models.head": ("classifier_name", "features"),
    "models.lanes": ("LaneAdamW", "LaneNetwork", "build_lanes", "why_no_lanes", "why_not_stacked"),
    "models.masked_patches": (
        "MaskedPatchNetwork",
        "backbone_state",
        "masked_patch_flops",
        "why_no_masked_patches",
    ),
    "models.optimizer": ("build_optimizer",),
    "models.registry": ("FAMILIES", "build_network", "family_names", "forward_flops", "label", "layout_of", "variants"),
    "models.resolution": ("resize_state",),
    "models.schedule": ("learning_rate_factor",),
    "models.start": ("LoadedStart", "MisfitError", "fit_weights", "load_start"),
    "models.tiers": ("TIERS", "Tier", "split_variant"),
    "models.weights_error": ("WeightsError",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the types are those of the block above
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
