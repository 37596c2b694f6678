"""What a checkpoint may name and call: little more than tensors, and each only as `torch.save` writes it.

torch's own list for ``weights_only`` is longer, and calls on it can be made to run for ever: a counter counts the bytes
of an array of any length, a codec takes quadratic time, a set is filled from a tensor of a thousand million numbers.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import torch

_REBUILT = frozenset(
    {
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_meta_tensor_no_storage",
        "torch.nn.parameter Parameter",
    }
)
_ORDERED, _COUNTER, _BAG = "collections OrderedDict", "collections Counter", "argparse Namespace"
_BYTES = "_codecs encode"
_OF_BYTES = frozenset({_BYTES, "__builtin__ bytearray", "builtins bytearray"})
_OF_VALUES = frozenset({"torch device", "__builtin__ complex", "builtins complex"})
_OF_SEQUENCE = frozenset({"torch Size", "__builtin__ set", "builtins set"})
_CALLED = _REBUILT | _OF_BYTES | _OF_VALUES | _OF_SEQUENCE | {_ORDERED, _COUNTER, _BAG}
_TYPES = frozenset(f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_STORAGE = re.compile(r"torch(\.cuda|\.storage)? \w+Storage")
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"})
_SEQUENCES = _TUPLES | {"EMPTY_LIST"}
_PLAIN = frozenset({"VALUE", "GLOBAL"})


class Made(Protocol):
    """A value of a pickle.

    Attributes:
        made: the operation that made it; VALUE for texts, numbers and the like.
        said: a text, a number, or the name of what was looked up or called, as ``module name``.
        parts: what it holds; of a call, its arguments.
    """

    made: str
    said: Any

    @property
    def parts(self) -> list[Any]:
        """What it holds; read alone."""


def may_be_named(name: str) -> bool:
    """Whether a checkpoint may look this up, written as ``module name``."""
    return name in _CALLED or name in _TYPES or _STORAGE.fullmatch(name) is not None


def may_be_called(called: Made, given: Made) -> bool:
    """Whether this call is one that `torch.save` writes; ``given`` are all its arguments."""
    if called.made != "GLOBAL" or given.made not in _TUPLES:
        return False
    arguments: list[Made] = given.parts
    name, kinds = str(called.said), [argument.made for argument in arguments]
    if name in _REBUILT:
        return True
    if name in _OF_BYTES:
        if kinds == ["REDUCE"]:
            return name != _BYTES and arguments[0].said == _BYTES
        return not arguments or (kinds == ["VALUE"] * 2 and arguments[1].said in ("latin1", "latin-1"))
    if name in _OF_VALUES:
        return all(kind == "VALUE" for kind in kinds)
    if name in _OF_SEQUENCE:
        return len(kinds) <= 1 and all(kind in _SEQUENCES for kind in kinds)
    if name == _COUNTER:
        return kinds in ([], ["EMPTY_DICT"])
    if name == _ORDERED:  # Python 2 wrote its pairs as a list
        return not kinds or (kinds == ["EMPTY_LIST"] and all(pair.made in _SEQUENCES for pair in arguments[0].parts))
    return name == _BAG and not kinds


def may_be_filled(target: Made, operation: str) -> bool:
    """Whether ``operation`` adds values to what can take them."""
    if operation in ("APPEND", "APPENDS"):
        return target.made == "EMPTY_LIST"
    return target.made == "EMPTY_DICT" or (target.made == "REDUCE" and target.said in (_ORDERED, _COUNTER))


def may_be_given(target: Made, state: Made) -> bool:
    """Whether objects of its kind are given such attributes: any a namespace, ``_metadata`` a dictionary."""
    if state.made != "EMPTY_DICT" or target.made not in ("NEWOBJ", "REDUCE"):
        return False
    return target.said == _BAG or (
        target.said == _ORDERED and all(name.said == "_metadata" for name in state.parts[::2])
    )


def may_be_loaded(key: Made) -> bool:
    """Whether this is the key of a storage: plain values, and at the end those of a view."""
    return (
        key.made in _TUPLES
        and len(key.parts) >= 5
        and all(part.made in _PLAIN for part in key.parts[:5])
        and isinstance(key.parts[4].said, int)
        and all(part.made in _PLAIN | _TUPLES for part in key.parts[5:])
        and all(part.made in _PLAIN for view in key.parts[5:] for part in view.parts)
    )
