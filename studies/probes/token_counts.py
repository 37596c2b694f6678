"""How many tokens a network makes of an image, seen on what its modules read and give.

Attention says over how many things it runs, not over which: channels that attend to channels (El-Nouby et al.
2106.09681) may be as many as a square of patches. Tokens pass through modules as `[B, T, C]` or as a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .wrapping import declaring


class TokenCounts:
    """Numbers of tokens met so far.

    Args:
        images: that are shown.
        prefixes: numbers of tokens without a place that the network may put before those of a map.
    """

    def __init__(self, images: torch.Tensor, prefixes: tuple[int, ...]) -> None:
        self._images = images
        self._prefixes = prefixes
        self._met: set[int] = set()

    def may_be_tokens(self, number: int) -> bool:
        """Whether so many things can be tokens; anything can be where no module has read or given any."""
        return not self._met or any(number - prefix in self._met for prefix in self._prefixes)

    def see(self, module: nn.Module, value: object) -> None:
        """Notes what a module reads or gives."""
        if isinstance(value, tuple | list):
            for part in value:
                self.see(module, part)
        if not isinstance(value, torch.Tensor) or value.ndim not in (3, 4) or value is self._images:
            return
        shape, num_images = list(value.shape), len(self._images)
        if value.ndim == 4:
            if shape[0] == num_images:  # the channels lie first or last
                self._met |= {shape[2] * shape[3], shape[1] * shape[2]}
        elif isinstance(module, nn.Conv1d | nn.BatchNorm1d):
            self._met.add(shape[2])
        else:
            self._met |= {shape[1 - axis] for axis in (0, 1) if shape[axis] == num_images}


@contextmanager
def counting_tokens(network: nn.Module, images: torch.Tensor) -> Iterator[TokenCounts]:
    """Counts tokens on the modules inside a network while it runs on these images; hooks are removed at the end."""
    declared = getattr(declaring(network)[1], "num_prefix_tokens", None)
    counts = TokenCounts(images, (0, 1, *([declared] if isinstance(declared, int) else [])))

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        counts.see(module, given)

    def after(module: nn.Module, given: object, gave: object) -> None:
        del given
        counts.see(module, gave)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name:
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield counts
