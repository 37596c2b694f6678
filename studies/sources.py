"""Which code this is; asked where torch need not be loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

PACKAGES = ("models", "datamodules", "studies")


@cache
def code_version() -> str:
    """Version and a hash of the sources, such as `0.1.0+src.1a2b3c4d`, so that an edited checkout is told apart."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return f"{importlib.metadata.version('inductive-bias-study')}+src.{digest.hexdigest()[:8]}"
