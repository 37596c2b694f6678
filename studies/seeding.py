"""Seeds for places in a run: what is drawn there is then a function of the place alone, however the run came to it."""

from __future__ import annotations

import hashlib


def seed_of(place: tuple[int | str, ...]) -> int:
    """A 63-bit seed for a place: the same on every machine, different for different places."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "little") >> 1
