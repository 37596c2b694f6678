"""A local folder in the Hugging Face hub's parquet layout, read as far as planning needs and no further."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.info import DataError


@dataclass(frozen=True)
class ParquetSplit:
    """The parquet files of one split.

    Attributes:
        folder: The data set's folder.
        name: The split's name in file names.
        files: Its files in row order.
    """

    folder: Path
    name: str
    files: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path, name: str, config_name: str | None) -> "ParquetSplit":
        """Finds `train.parquet`, `train-00000-of-00002.parquet` or `train/*.parquet`, at the top, in `data/` or the
        folder of the configuration.

        Raises:
            DataError: The folder or the split is not there.
        """
        if not folder.is_dir():
            raise DataError(f"data.name: there is no folder {folder}")
        places = [folder / config_name] if config_name else []
        for place in [*places, folder, folder / "data"]:
            for pattern in (f"{name}.parquet", f"{name}-*.parquet", f"{name}/*.parquet"):
                files = sorted(place.glob(pattern))
                if files:
                    return cls(folder, name, tuple(files))
        found = ", ".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))[:8]) or "none"
        raise DataError(
            f"{folder} has no parquet files of split {name!r} ({name}.parquet or data/{name}-*.parquet); parquet files "
            f"there: {found}; set data.train_split and data.test_split to the names used"
        )

    @cached_property
    def num_rows(self) -> int:
        """Rows in all files, from their footers."""
        return sum(_footer(path).metadata.num_rows for path in self.files)

    @cached_property
    def features(self) -> dict[str, Any]:
        """The hub's feature description in the first file's metadata, empty if there is none."""
        metadata = _footer(self.files[0]).schema_arrow.metadata or {}
        description = json.loads(metadata.get(b"huggingface", b"{}"))
        features = description.get("info", {}).get("features", {})
        return features if isinstance(features, dict) else {}

    def require_columns(self, **columns: str) -> None:
        """Raises DataError if a column, given by the field that names it, is missing in any file."""
        for path in self.files:
            present = _footer(path).schema_arrow.names
            for field, column in columns.items():
                if column not in present:
                    raise DataError(
                        f"data.{field}: {path} has no column {column!r}; its columns are {', '.join(present)}"
                    )

    def class_names(self, label_column: str) -> tuple[str, ...]:
        """Names from the feature description, empty if the label column is not declared as classes."""
        feature = self.features.get(label_column, {})
        return tuple(str(name) for name in feature.get("names", ())) if isinstance(feature, dict) else ()

    def labels(self, label_column: str) -> list[Any]:
        """The label column of all files."""
        return [
            value
            for path in self.files
            for value in pq.read_table(path, columns=[label_column])[label_column].to_pylist()
        ]

    def first_image(self, image_column: str) -> bytes:
        """The encoded bytes of the first row's image."""
        for batch in _footer(self.files[0]).iter_batches(batch_size=1, columns=[image_column]):
            value = batch.column(0)[0].as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            if isinstance(content, bytes):
                return content
            break
        raise DataError(
            f"data.image_column: column {image_column!r} of {self.files[0]} holds no encoded images (bytes)"
        )


def _footer(path: Path) -> pq.ParquetFile:
    """Opens a parquet file, which reads its footer."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a whole parquet file ({error}); fetch it again") from error
