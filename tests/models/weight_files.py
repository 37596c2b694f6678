"""What files of weights hold in tests, and how they are written and compared."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

STATE = {"body.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}
NETWORK: dict[str, Any] = {"family": "vit", "variant": "nano", "image_size": 16, "in_channels": 1}


def digest_beside(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(digest)
    return digest


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = STATE) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def raw_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))
