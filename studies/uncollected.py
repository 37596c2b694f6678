"""Reading many records without Python's cycle collector, which would look through all of them again and again.

Records, rows and sums hold no cycles: what is dropped is freed at once, by its reference count. The collector, which
seeks cycles, runs whenever enough objects were made, and parsing is making objects: for 20,000 records it took two
thirds of the time. What a verb makes in cycles (figures) stays until it ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No cycle is sought as long as the context lasts; afterwards it is as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
