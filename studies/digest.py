"""What an identity is made of: the hash of content written in one way only."""

from __future__ import annotations

import hashlib
import json


def digest(content: object) -> str:
    """SHA-256, in hexadecimal digits, of content as JSON with sorted keys and no spaces.

    Raises:
        ValueError: the content holds a number that JSON has no word for, such as NaN.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
