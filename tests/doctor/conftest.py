"""Makes the records and plans of `tests/studies` importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "studies"))
