"""The report of a study: figures, tables and one self-contained page, from records alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import StudyCard
    from .curve_figures import plot_curves, plot_fits
    from .write import ReportPaths, write_report

__all__ = ["ReportPaths", "StudyCard", "plot_curves", "plot_fits", "write_report"]

_HOMES = {
    "ReportPaths": "write",
    "StudyCard": "card",
    "plot_curves": "curve_figures",
    "plot_fits": "curve_figures",
    "write_report": "write",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute of any type
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
