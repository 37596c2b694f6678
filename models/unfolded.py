"""How much a pickle holds once what it shares is counted as often as it is referred to; found without unpickling it.

A few hundred bytes can refer to one tuple twice, to that pair twice, and so on. In memory this is small, but whoever
hashes it as the key of a dictionary, or prints it in a message, takes 2^70 steps at seventy levels, and a hash a
million levels deep overflows the stack. So the pickle is read as `pickletools.dis` reads it, with a number in the
place of every value, as far as it can be read: there torch's unpickler ends as well. It knows protocol 2 alone.
"""

from __future__ import annotations

import contextlib
import math
import pickletools
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import IO

_PLAIN = 0
"""The number of every value that holds no other."""
_GROW = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_CAP = 2**62  # larger counts are not told apart


@dataclass(frozen=True)
class Unfolded:
    """The size of a pickle.

    Attributes:
        values: in all its containers together, each with what it holds at any depth; infinite where one holds itself.
        depth: of the deepest container.
    """

    values: float
    depth: float


def unfolded(file: IO[bytes]) -> Unfolded:
    """The size of the pickle that begins where the file stands; afterwards the file stands behind it."""
    parts = _parts(file)
    values, depth = [0] * len(parts), [0] * len(parts)
    try:
        for value in TopologicalSorter(dict(enumerate(parts))).static_order():
            values[value] = min(_CAP, 1 + sum(values[part] for part in parts[value]))
            depth[value] = 1 + max((depth[part] for part in parts[value]), default=0)
    except CycleError:
        return Unfolded(math.inf, math.inf)
    return Unfolded(sum(values), max(depth))


def _parts(file: IO[bytes]) -> list[list[int]]:
    """What every value holds, by their numbers."""
    parts: list[list[int]] = [[]]
    stacks: list[list[int]] = [[]]  # one more for every mark, as in torch's unpickler
    memo: dict[object, int] = {}
    with contextlib.suppress(Exception):  # whatever a crafted pickle provokes: here it cannot be read on
        for operation, argument, _ in pickletools.genops(file):
            name, taken = operation.name, _taken(stacks, operation)
            if name == "MARK":
                stacks.append([])
            elif name.endswith("PUT"):
                memo[argument] = stacks[-1][-1]
            elif name.endswith("GET"):
                stacks[-1].append(memo[argument])
            elif name in _GROW:
                parts[taken[0]].extend(taken[1:])
                stacks[-1].append(taken[0])
            elif operation.stack_after and (taken or name.startswith("EMPTY")):
                parts.append(taken)
                stacks[-1].append(len(parts) - 1)
            elif operation.stack_after:
                stacks[-1].append(_PLAIN)
    return parts


def _taken(stacks: list[list[int]], operation: pickletools.OpcodeInfo) -> list[int]:
    """What an operation takes from the stack, the lowest first."""
    before, above = operation.stack_before, list[int]()
    if pickletools.markobject in before:
        above = stacks.pop()
        before = before[: before.index(pickletools.markobject)]
    below = [stacks[-1].pop() for _ in before]
    return [*reversed(below), *above]
