"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """`os.fsync` returns at once: it guards against a power cut, which no test makes, and costs 10 ms and more a file.

    A killed process loses nothing that it has written. That content is flushed, and before what, is shown by the tests
    of `studies.files`, which put their own `fsync` in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
