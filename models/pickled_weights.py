"""What `torch.save` wrote, read without running anything that it names.

A checkpoint of torch is a pickle, and a pickle is a program. It is first followed without being run: what it names or
calls besides tensors and plain values is refused by name, and so is what would not end. Then it is read by
``torch.load(weights_only=True)``. Archives are held against their own CRC-32 and against the sizes they declare.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import pickletools
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from models.unfolded import MOST_OPERATIONS, unfolded
from models.weights_error import WeightsError, shown, too_large

_MOST_NAMED = 5  # functions named in a refusal
_MOST_VALUES, _MOST_LEVELS = 2**24, 200
"""Values and levels of a pickle, far above those of weights with the state of their optimiser."""
_MOST_PICKLE_BYTES = 2**24
_LEGACY_PICKLES = 5  # one after another in a file older than torch's archives
_ARCHIVE_START = b"PK\x03\x04"  # by which torch takes a file for an archive


def unpickled(path: Path, content: bytes, largest_bytes: int) -> object:
    """What `torch.save` wrote, without calling anything that the pickle names but for tensors and plain values.

    Args:
        path: of the file, for messages.
        content: of the file.
        largest_bytes: its parts may not be larger together.

    Raises:
        WeightsError: it is damaged, no checkpoint, larger, names or calls more than weights need, or would not end.
    """
    if content.startswith(_ARCHIVE_START):
        _check_archive(path, content, largest_bytes)
        _check_pickles(path, _data_pickle(path, content), 1, len(content))
    else:
        _check_pickles(path, content, _LEGACY_PICKLES, len(content))
    # timm's trainings keep their settings in a Namespace, which is a bag of values.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a refused file is warned of is told below
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:
            raise _no_checkpoint(path, type(error).__name__) from error


def _check_archive(path: Path, content: bytes, largest_bytes: int) -> None:
    """Hold an archive's parts against their declared sizes and checksums; torch stores them uncompressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
            total = sum(part.file_size for part in parts)
            if total > largest_bytes:
                raise too_large(path, total, largest_bytes)
            for part in parts:
                if part.compress_type != zipfile.ZIP_STORED:
                    raise WeightsError(
                        f"{path}: refused: its part '{shown(part.filename)}' is compressed, and torch compresses none; "
                        "read it with torch where you trust it, and save it again; not loaded"
                    )
            if total > len(content):
                raise WeightsError(f"{path}: is damaged: its parts overlap; not loaded")
            damaged = archive.testzip()
    except WeightsError:
        raise
    except Exception as error:  # whatever a crafted archive provokes in the reader
        raise WeightsError(f"{path}: is damaged ({shown(str(error))}); not loaded") from error
    if damaged is not None:
        raise WeightsError(f"{path}: is damaged: the CRC-32 of its part '{shown(damaged)}' does not match; not loaded")


def _data_pickle(path: Path, content: bytes) -> bytes:
    """The pickle of an archive as torch finds it, whatever another reader of archives would find."""
    try:
        archive = torch._C.PyTorchFileReader(io.BytesIO(content))
        size = archive.get_record_size("data.pkl")
        if size <= _MOST_PICKLE_BYTES:
            return archive.get_record("data.pkl")
    except Exception as error:  # whatever a crafted archive provokes in the reader
        raise _no_checkpoint(path, type(error).__name__) from error
    raise WeightsError(
        f"{path}: refused: its pickle has {size:,} bytes, expected at most {_MOST_PICKLE_BYTES:,}; not loaded"
    )


def _check_pickles(path: Path, content: bytes, count: int, file_bytes: int) -> None:
    """Refuse pickles that ask for more than weights, or whose reading would not end; ``content`` begins with them."""
    file = io.BytesIO(content)
    for _ in range(count):
        found = unfolded(file)
        if found.refused:
            raise _code(path, found.refused)
        if found.values > _MOST_VALUES or found.depth > _MOST_LEVELS:
            raise WeightsError(
                f"{path}: refused: its pickle nests values in each other until they are more than {_MOST_VALUES:,}, or "
                f"more than {_MOST_LEVELS} levels deep, or takes more than {MOST_OPERATIONS:,} operations, which no "
                "weights need and reading would not end; not loaded"
            )
        if not found.whole:
            asked = _named_in_pickle(content)
            raise _code(path, asked) if asked else _no_checkpoint(path, "its pickle cannot be read")
        if found.storage_bytes > file_bytes:
            raise _no_checkpoint(path, f"it names {found.storage_bytes:,} bytes of tensors and has {file_bytes:,}")


def _code(path: Path, asked: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"{path}: refused: reading it would call {', '.join(map(shown, asked[:_MOST_NAMED]))}, and weights need no "
        "code; nothing of it was run. If you trust where it comes from, save its state dictionary alone, or as "
        "safetensors"
    )


def _no_checkpoint(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path}: is damaged or no checkpoint of torch ({reason}); not loaded")


def _named_in_pickle(content: bytes) -> list[str]:
    """What a pickle of a newer protocol names besides parts of tensors: module and name are the two strings before."""
    strings: list[str] = []
    named: list[str] = []
    with contextlib.suppress(Exception):  # a damaged pickle ends the reading, not the message
        for operation, argument, _ in itertools.islice(pickletools.genops(content), MOST_OPERATIONS):
            if operation.name == "STACK_GLOBAL":
                named.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return sorted({name for name in named if not name.startswith(("torch.", "collections."))})[:_MOST_NAMED]
