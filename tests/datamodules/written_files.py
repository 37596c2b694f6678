"""Files that tests write and damage."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(image: np.ndarray) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def rewrite_parquet(path: Path, drop: str) -> None:
    """Removes a column from a parquet file."""
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([drop]).replace_schema_metadata(None), path)


def strip_features(path: Path) -> None:
    """Removes the hub's feature description from a parquet file."""
    table: pa.Table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(None), path)
