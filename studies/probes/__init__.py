"""What a network assumes, measured on it: symmetry, locality, attention and similarity, before and after training.

Names are loaded when first used: reading results needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalogue import KINDS, ProbeKind
    from .probe import Probed, ProbeError, Reading
    from .probe_results import PROBE_COLUMNS, probe_arrays, probe_frame
    from .summary import probe_summary

_MODULES = {
    "catalogue": ("KINDS", "ProbeKind"),
    "probe": ("ProbeError", "Probed", "Reading"),
    "probe_results": ("PROBE_COLUMNS", "probe_arrays", "probe_frame"),
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
    "probe_arrays",
    "probe_frame",
    "probe_summary",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute of any type
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
