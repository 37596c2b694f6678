"""Small data sets written by the tests themselves, and a cache that belongs to one test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from written_files import encoded


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("INDUCTIVE_BIAS_CACHE", str(folder))
    return folder


@pytest.fixture
def pixels() -> np.ndarray:
    """Colour images `[30, 8, 8, 3]`; the first 20 for training."""
    return np.random.default_rng(0).integers(0, 256, size=(30, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def write_hub_folder(tmp_path: Path, pixels: np.ndarray) -> Callable[..., Path]:
    """Writes a folder in the hub's layout with three classes, features declared as `datasets` declares them."""

    def write(broken_row: int | None = None, **replace: object) -> Path:
        from datasets import ClassLabel, Dataset, Features, Value
        from datasets import Image as ImageFeature

        label = ClassLabel(names=["cat", "dog", "owl"])
        features = Features({"img": ImageFeature(), "label": replace.get("label", label), "id": Value("int64")})
        folder = tmp_path / "hub_folder"
        folder.mkdir(exist_ok=True)
        for split, rows in (("train", range(20)), ("test", range(20, 30))):
            images = [{"bytes": encoded(pixels[row]), "path": None} for row in rows]
            if broken_row is not None and split == "train":
                images[broken_row]["bytes"] = images[broken_row]["bytes"][:60]
            labels = replace.get(f"{split}_labels", [row % 3 for row in rows])
            columns = {"img": images, "label": labels, "id": list(rows)}
            Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
        return folder

    return write
