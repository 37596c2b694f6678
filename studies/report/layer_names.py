"""The layers of a network as people call them: by their place among the others, not by the path of a module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WHOLE: Mapping[str, str] = {"features": "features", "logits": "logits"}
"""Layers that every network has, which are no module."""
_NUMBERED = re.compile(r"(?:.*\.)?(?:blocks|layers)\.\d+")
_LONGEST_PATH = 24


@dataclass(frozen=True)
class NamedLayer:
    """A layer in words.

    Attributes:
        place: `after block 3 of 12`, `before the blocks`, `between the blocks`, `after layer 2 of 4`, `features`,
            `logits`.
        path: end of the module's dotted name; empty where the layer is no module.
    """

    place: str
    path: str


def named_layers(names: Sequence[str]) -> list[NamedLayer]:
    """Layers of one network, in the order of depth.

    Blocks (a module `blocks.2`) are counted among blocks, what lies before, between or behind them among its like, and
    the layers of a network without blocks among all.

    Args:
        names: dotted names of modules, `features` and `logits`.
    """
    modules = [name for name in names if name not in _WHOLE]
    blocks = [name for name in modules if _NUMBERED.fullmatch(name)]
    return [
        NamedLayer(_WHOLE[name], "") if name in _WHOLE else NamedLayer(_place(name, modules, blocks), _path(name))
        for name in names
    ]


def _place(name: str, modules: Sequence[str], blocks: Sequence[str]) -> str:
    if not blocks:
        return f"after layer {modules.index(name) + 1} of {len(modules)}"
    if name in blocks:
        return f"after block {blocks.index(name) + 1} of {len(blocks)}"
    others = {other: _where(other, modules, blocks) for other in modules if other not in blocks}
    where = others[name]
    like = [other for other in others if others[other] == where]
    return where if len(like) == 1 else f"{where}, {like.index(name) + 1} of {len(like)}"


def _where(name: str, modules: Sequence[str], blocks: Sequence[str]) -> str:
    """Where a layer that is no block lies, such as the subsampling between two stages."""
    place = modules.index(name)
    if place < modules.index(blocks[0]):
        return "before the blocks"
    return "between the blocks" if place < modules.index(blocks[-1]) else "behind the blocks"


def _path(name: str) -> str:
    return name if len(name) <= _LONGEST_PATH else f"…{name[1 - _LONGEST_PATH :]}"
