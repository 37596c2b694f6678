"""What a pickle would call, and how much it holds once what it shares is counted as often as it is referred to.

A few hundred bytes can refer to one tuple twice, to that pair twice, and so on. In memory this is small, but whoever
hashes it as the key of a dictionary, or prints it in a message, takes 2^70 steps at seventy levels, and a hash a
million levels deep overflows the stack. So the pickle is read as `pickletools.dis` reads it, with a note in the place
of every value, without unpickling it: only operations that torch's unpickler knows, at most `MOST_OPERATIONS`.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from models.checkpoint_calls import may_be_called, may_be_filled, may_be_given, may_be_loaded, may_be_named

MOST_OPERATIONS = 2**20
"""Some forty are written for each tensor."""
_VALUES = frozenset({"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}) | {
    "BINUNICODE",
    "SHORT_BINSTRING",
}
_CONTAINERS = frozenset(["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"])
_FILLED = frozenset(["APPEND", "APPENDS", "SETITEM", "SETITEMS"])
_LONG_INT = 2**10
"""Values that a number beyond 64 bits counts for: such numbers can share one hash, and n of them take n^2 steps."""
_CAP = 2**62  # larger counts are not told apart
_ON_THE_WAY = -1


@dataclass(frozen=True)
class Unfolded:
    """The size of a pickle, and what it asks for.

    Attributes:
        values: in all its containers together, each with what it holds at any depth, a text as many as it has letters;
            infinite where a container holds itself or the operations are too many.
        depth: of the deepest container.
        refused: what it names, or calls in a way, that no checkpoint needs, sorted.
        whole: it was read to its end. Otherwise the rest is unknown, and it must not be unpickled.
        storage_bytes: that the storages it names have at least.
    """

    values: float
    depth: float
    refused: tuple[str, ...]
    whole: bool
    storage_bytes: int


@dataclass(eq=False, slots=True)
class _Value:
    """What an operation made, as `checkpoint_calls.Made` has it; ``size`` and ``depth`` are 0 while unknown."""

    made: str
    said: Any = None
    parts: list[_Value] = field(default_factory=list)
    size: int = 0
    depth: int = 0


def unfolded(file: IO[bytes]) -> Unfolded:
    """Read the pickle that begins where the file stands; afterwards the file stands behind it if it is whole."""
    reading = _Reading()
    whole = endless = False
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            endless = count >= MOST_OPERATIONS
            if endless or not reading.step(operation, argument):
                break
            whole = operation.name == "STOP"
    except Exception:  # whatever a crafted pickle provokes: it cannot be read on
        whole = False
    refused = tuple(sorted(reading.refused))
    storage_bytes = sum(reading.storages.values())
    if endless or not _measured(reading.containers):
        return Unfolded(math.inf, math.inf, refused, whole, storage_bytes)
    values = 1 + sum(value.size for value in reading.containers)
    depth = max((value.depth for value in reading.containers), default=1)
    return Unfolded(values, depth, refused, whole, storage_bytes)


class _Reading:
    """A pickle as far as it has been read."""

    def __init__(self) -> None:
        self.containers: list[_Value] = []
        self.stacks: list[list[_Value]] = [[]]  # one more for every mark, as in torch's unpickler
        self.memo: dict[object, _Value] = {}
        self.refused: set[str] = set()
        self.storages: dict[object, int] = {}

    def step(self, operation: pickletools.OpcodeInfo, argument: Any) -> bool:  # noqa: ANN401
        """Follow one operation; False where torch's unpickler would not."""
        name, taken = operation.name, _taken(self.stacks, operation)
        if name == "MARK":
            self.stacks.append([])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stacks[-1][-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stacks[-1].append(self.memo[argument])
        elif name in _VALUES:
            self.stacks[-1].append(_Value("VALUE", argument, size=_size_of(argument), depth=1))
        elif name in _CONTAINERS:
            self._make(name, None, taken)
        elif name in _FILLED or name == "BUILD":
            return self._fill(name, *taken)
        elif name == "GLOBAL":
            self._ask(argument.replace(" ", ".", 1), may_be_named(argument))
            self.stacks[-1].append(_Value(name, argument, size=1, depth=1))
        elif name in ("REDUCE", "NEWOBJ"):
            called, given = taken
            self._ask(f"{_said(called)} as torch.save never does", may_be_called(called, given))
            self._make(name, called.said, [given])
        elif name == "BINPERSID":
            return self._load(taken[0])
        else:
            return name in ("PROTO", "STOP")
        return True

    def _make(self, name: str, said: object, parts: list[_Value]) -> None:
        made = _Value(name, said, parts)
        self.containers.append(made)
        self.stacks[-1].append(made)

    def _ask(self, what: str, allowed: bool) -> None:
        if not allowed:
            self.refused.add(what)

    def _fill(self, name: str, target: _Value, *more: _Value) -> bool:
        if name == "BUILD":
            self._ask(f"{_said(target)}.__setstate__", may_be_given(target, more[0]))
        elif not may_be_filled(target, name):
            return False
        target.parts.extend(more)
        self.stacks[-1].append(target)
        return True

    def _load(self, key: _Value) -> bool:
        if not may_be_loaded(key):
            return False
        name, numbers = key.parts[2].said, key.parts[4].said
        self.storages[name] = max(numbers, self.storages.get(name, 0))
        self._make("BINPERSID", None, [key])
        return True


def _said(value: _Value) -> str:
    """The function or class of a value, or of what made it."""
    return value.said.replace(" ", ".", 1) if value.made == "GLOBAL" else f"a value of {value.made}"


def _size_of(argument: object) -> int:
    if isinstance(argument, str):
        return max(1, len(argument))
    return _LONG_INT if isinstance(argument, int) and argument.bit_length() > 64 else 1


def _measured(containers: list[_Value]) -> bool:
    """Give every container its size and depth; False where one holds itself."""
    path: list[tuple[_Value, Iterator[_Value]]] = []
    for start in containers:
        below: _Value | None = start if start.depth == 0 else None
        while below is not None or path:
            if below is not None and below.depth == _ON_THE_WAY:
                return False
            if below is not None and below.depth == 0:
                below.depth = _ON_THE_WAY
                path.append((below, iter(below.parts)))
            top, rest = path[-1]
            below = next(rest, None)
            if below is None:
                path.pop()
                top.size = min(_CAP, 1 + sum(part.size for part in top.parts))
                top.depth = 1 + max((part.depth for part in top.parts), default=0)
    return True


def _taken(stacks: list[list[_Value]], operation: pickletools.OpcodeInfo) -> list[_Value]:
    """What an operation takes from the stack, the lowest first."""
    before, above = operation.stack_before, list[_Value]()
    if pickletools.markobject in before:
        above = stacks.pop()
        before = before[: before.index(pickletools.markobject)]
    below = [stacks[-1].pop() for _ in before]
    return [*reversed(below), *above]
