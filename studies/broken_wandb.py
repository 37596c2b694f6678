"""A wandb that is installed and broken costs a study its mirror, and nothing else.

timm imports wandb wherever it is installed, for a logger of its own, and allows for its absence alone (`ImportError`).
One whose import fails otherwise (a protobuf of another version raises `TypeError`) would end every command that builds
a network, with a mirror or without. Here such a fault becomes an `ImportError`; a wandb that works is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_problem = ""


def why_broken() -> str:
    """Why the wandb of this process cannot be imported, and what to do; empty where it can, or nobody has tried."""
    return _problem


class _Loader(Loader):
    """That of wandb, but what it raises is an `ImportError`."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._own.exec_module(module)
        except ImportError:
            raise
        except Exception as error:
            global _problem
            first = (str(error).strip().splitlines() or [""])[0]
            _problem = (
                f"wandb is installed but cannot be imported ({type(error).__name__}: {first}); training is not "
                "affected: install another version of it (pip install --upgrade wandb), or set tracking=off"
            )
            raise ImportError(_problem, name="wandb") from error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - sources and data of the package, of any type
        return getattr(self._own, name)


class _Finder(MetaPathFinder):
    """Finds wandb where Python would."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(fullname, path, target) if fullname == "wandb" else None
        if found is not None and found.loader is not None:
            found.loader = _Loader(found.loader)
        return found


def allow_for_broken_wandb() -> None:
    """From now on, in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
