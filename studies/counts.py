"""Counts as people write them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 cell`, `1,200 cells`; of nouns whose plural is regular."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
