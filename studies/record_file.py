"""The file of a record: its content, a checksum of that, and one of the very bytes, which is quick to verify.

    {"record": {...}, "sha256": "<of the record as `digest` writes it>",
     "bytes_sha256": "<of everything above, closed by a brace>"}

A reader that finds the bytes as they were written need not write the content anew to know that it is whole; so
thousands of records are read in seconds. Files from before there was the second checksum, and files that somebody has
reformatted, are verified by the first.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from .digest import digest
from .records import Record
from .strict import Strict

_CLOSING = b"\n}"
_SEAL = b',\n "bytes_sha256": "'
_SEALED = len(_SEAL) + 64 + len(b'"') + len(_CLOSING)
"""Bytes of the second checksum, at the end of a file."""


class _Content(Strict):
    record: Record
    sha256: str
    bytes_sha256: str


def record_text(record: Record) -> bytes:
    """What a record's file holds."""
    payload = record.model_dump(mode="json")
    text = json.dumps({"record": payload, "sha256": digest(payload, allow_nan=True)}, indent=1).encode()
    return text.removesuffix(_CLOSING) + _SEAL + hashlib.sha256(text).hexdigest().encode() + b'"' + _CLOSING


def read_record(text: bytes) -> Record:
    """The record in a file.

    Raises:
        ValueError: a checksum does not match, or it is no record; KeyError or TypeError where it is not even alike.
    """
    if _is_as_written(text):
        try:
            return _Content.model_validate_json(text).record
        except ValidationError:  # told below, in the words of the field
            pass
    content = from_json(text)
    payload: dict[str, Any] = content["record"]
    if content["sha256"] != digest(payload, allow_nan=True):
        raise ValueError("its checksum does not match")
    return Record.model_validate(payload)


def _is_as_written(text: bytes) -> bool:
    """Whether the bytes are those that their own checksum is of."""
    before, seal = text[:-_SEALED], text[-_SEALED:]
    if not seal.startswith(_SEAL) or not seal.endswith(b'"' + _CLOSING):
        return False
    found = hashlib.sha256(before)
    found.update(_CLOSING)
    return seal[len(_SEAL) :][:64] == found.hexdigest().encode()
