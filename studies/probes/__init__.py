"""What a network assumes, measured on it: symmetry, locality, attention and similarity, before and after training.

Names are loaded when first used: reading results needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .probe import Probed, ProbeError, Reading

_HOMES = {"ProbeError": "probe", "Probed": "probe", "Reading": "probe"}

__all__ = ["ProbeError", "Probed", "Reading"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute of any type
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
