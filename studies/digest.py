"""What an identity is made of: the hash of content written in one way only."""

from __future__ import annotations

import hashlib
import json


def digest(content: object, *, allow_nan: bool = False) -> str:
    """SHA-256, in hexadecimal digits, of content as JSON with sorted keys and no spaces.

    Args:
        content: plain values.
        allow_nan: write NaN and infinities as Python does: a checksum must cover what a file holds, an identity must
            not hold what is not equal to itself.

    Raises:
        ValueError: the content holds such a number, and none is allowed.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)
    return hashlib.sha256(canonical.encode()).hexdigest()
