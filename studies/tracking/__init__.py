"""The W&B mirror of a study: rebuilt from records, offline by default, and never in the way of training.

W&B is a mirror of the store and not a part of it. Its client is imported by `client` alone, which runs in a process of
its own under a hard time limit; whatever happens there comes back as a result with a message.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .live import LiveMirror, LiveResult
    from .mirror import MirrorResult, SyncResult, mirror_study, sync_study
    from .settings import Decision, TrackingSpec, decide

__all__ = [
    "Decision",
    "LiveMirror",
    "LiveResult",
    "MirrorResult",
    "SyncResult",
    "TrackingSpec",
    "decide",
    "mirror_study",
    "sync_study",
]

_HOMES = {
    "LiveMirror": "live",
    "LiveResult": "live",
    "MirrorResult": "mirror",
    "SyncResult": "mirror",
    "mirror_study": "mirror",
    "sync_study": "mirror",
    "Decision": "settings",
    "TrackingSpec": "settings",
    "decide": "settings",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute of any type
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
