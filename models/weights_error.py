"""Why a file cannot be the start of a training, in words that a terminal may print whatever the file holds."""

from __future__ import annotations

from pathlib import Path

LARGEST_SIZE = 2**20
"""No image has more pixels along a side, and none more channels."""
LONGEST_SHOWN = 80
"""Letters of a name from a file that a message repeats."""


class WeightsError(ValueError):
    """A file that cannot be the start of a training; the message says which and why."""


def too_large(path: Path, found: int, largest: int) -> WeightsError:
    """Of a file, or of tensors in it, of so many bytes."""
    return WeightsError(
        f"{path}: holds {found:,} bytes, more than the {largest:,} that weights of this network could need; not loaded"
    )


def shown(text: str, most: int = LONGEST_SHOWN) -> str:
    """Text from a file as a terminal may print it: control characters escaped, cut to so many letters."""
    escaped = repr(text[:most])[1:-1]
    return escaped if len(escaped) <= most and len(text) <= most else f"{escaped[: most - 3]}..."


def quoted(value: object) -> str:
    """A value from a file, written so that its kind is seen."""
    if isinstance(value, str):
        return f"'{shown(value)}'"
    if isinstance(value, int) and abs(value) > LARGEST_SIZE:
        return f"a number of {value.bit_length()} bits"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"
