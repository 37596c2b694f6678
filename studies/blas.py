"""numpy's linear algebra on one thread, where its matrices are small: more threads wait for each other, and take the
cores that a second process computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "OPENBLAS_NUM_THREADS"
"""What numpy's libraries read as they are loaded."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """For processes begun, and for numpy where it is first loaded, as long as the context lasts.

    A number that somebody has set stays.
    """
    added = VARIABLE not in os.environ
    os.environ.setdefault(VARIABLE, "1")
    try:
        yield
    finally:
        if added:
            os.environ.pop(VARIABLE, None)
