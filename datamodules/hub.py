"""Data sets of the Hugging Face hub, by name or from a local folder in the hub's layout, through one code path."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from datamodules.contents import content_hash
from datamodules.decoded import DecodedSource, Examples
from datamodules.info import DataError, DataInfo
from datamodules.parquet import ParquetSplit
from datamodules.source import LABEL_PATTERN, Split, fingerprint

_FORMAT = "hub-1"  # part of the fingerprint: a change of the decoding must change it
_HUB_TIMEOUT_SECONDS = 10.0


class HubData(DecodedSource):
    """A data set read by `datasets.load_dataset`.

    For a folder, the facts come from its parquet files. For a hub name they are declared in the configuration, so that
    planning needs no network, and are verified when the images are first loaded.

    Attributes:
        kind: "hub".
        name: Hub name (`owner/name`) or path of a folder with `train.parquet`, `data/train-*.parquet` or the like.
        label: Short name for figures and cache folders; the last part of `name` if None.
        revision: Commit, tag or branch on the hub; None for the newest. Ignored for a folder, which is hashed.
        config_name: The data set's configuration on the hub, if it has several.
        image_column: Column of encoded images.
        label_column: Column of labels: integers from 0, or strings.
        train_split: Name of the training split.
        test_split: Name of the test split.
        num_train: Training images; declared for a hub name.
        num_test: Test images before exclusion; declared for a hub name.
        num_classes: Number of classes; declared for a hub name.
        exclude_test_rows: Rows of the test split to leave out, such as known copies of training images.
    """

    kind: Literal["hub"] = "hub"
    name: str
    label: str | None = Field(default=None, pattern=LABEL_PATTERN)
    revision: str | None = None
    config_name: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    num_train: int | None = Field(default=None, ge=1)
    num_test: int | None = Field(default=None, ge=1)
    num_classes: int | None = Field(default=None, ge=2)
    exclude_test_rows: tuple[int, ...] = ()

    @property
    def folder(self) -> Path | None:
        """The local folder if `name` is one, or is written like a path; None for a hub name."""
        path = Path(self.name).expanduser()
        written_like_path = path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1
        return path if written_like_path or path.is_dir() else None

    def describe(self) -> DataInfo:
        """Facts from the parquet footers of a folder, or as declared for a hub name."""
        return self._describe_hub() if self.folder is None else self._describe_folder(self.folder)

    def examples(self, split: Split) -> Examples:
        """Reads the split through `datasets`, undecoded, so that a broken image can be named."""
        dataset, source = self._open(split)
        info = self.describe()
        codes: Mapping[Any, int] = {name: code for code, name in enumerate(info.class_names)}
        excluded = set(self.exclude_test_rows) if split == "test" else set()
        for row, example in enumerate(_readable(dataset, source)):
            if row in excluded:
                continue
            where = f"{source} row {row}"
            content = (example[self.image_column] or {}).get("bytes")
            if not content:
                raise DataError(f"{where}: column {self.image_column!r} holds no image; repair or remove the row")
            label = example[self.label_column]
            code = codes.get(label) if isinstance(label, str) else label
            if not isinstance(code, int):
                raise DataError(f"{where}: column {self.label_column!r} holds {label!r}, which is no class")
            yield where, content, code

    def _describe_folder(self, folder: Path) -> DataInfo:
        train = ParquetSplit.find(folder, self.train_split, self.config_name)
        test = ParquetSplit.find(folder, self.test_split, self.config_name)
        for part in (train, test):
            part.require_columns(image_column=self.image_column, label_column=self.label_column)
        class_names = train.class_names(self.label_column) or self._names_from_labels(train)
        first = f"{train.files[0]} row 0"
        image_size, in_channels = self.size_and_channels(train.first_image(self.image_column), first)
        contents = content_hash(folder, [*train.files, *test.files])
        return DataInfo(
            name=self._label(),
            num_train=train.num_rows,
            num_test=self._num_kept(test.num_rows),
            image_size=image_size,
            in_channels=in_channels,
            num_classes=len(class_names),
            class_names=class_names,
            fingerprint=self._fingerprint(image_size, in_channels, contents=contents),
        )

    def _names_from_labels(self, train: ParquetSplit) -> tuple[str, ...]:
        labels = set(train.labels(self.label_column))
        if all(isinstance(label, str) for label in labels):
            return tuple(sorted(labels))
        if all(isinstance(label, int) and label >= 0 for label in labels):
            return tuple(str(label) for label in range(max(labels) + 1))
        examples = ", ".join(repr(label) for label in list(labels)[:3])
        raise DataError(
            f"data.label_column: column {self.label_column!r} of {train.files[0]} must hold strings or integers from "
            f"0, it holds {examples}"
        )

    def _describe_hub(self) -> DataInfo:
        fields = ("num_train", "num_test", "num_classes", "image_size", "in_channels")
        declared: dict[str, int] = {field: value for field in fields if (value := getattr(self, field)) is not None}
        missing = [f"data.{field}" for field in fields if field not in declared]
        if missing:
            raise DataError(
                f"data.name {self.name!r} is no folder here, so it is taken for a name on the hub, and planning needs "
                f"{', '.join(missing)} declared; or set data.name to a folder in the hub's layout"
            )
        return DataInfo(
            name=self._label(),
            num_train=declared["num_train"],
            num_test=self._num_kept(declared["num_test"]),
            image_size=declared["image_size"],
            in_channels=declared["in_channels"],
            num_classes=declared["num_classes"],
            class_names=tuple(str(code) for code in range(declared["num_classes"])),
            fingerprint=self._fingerprint(
                declared["image_size"],
                declared["in_channels"],
                hub=self.name,
                revision=self.revision,
                counts=declared,
            ),
        )

    def _open(self, split: Split) -> tuple[Iterable[dict[str, Any]], str]:
        """Opens a split with images undecoded; also returns how to name it in messages."""
        from datasets import Image, load_dataset
        from datasets.exceptions import DatasetsError

        name = self.train_split if split == "train" else self.test_split
        if self.folder is not None:
            part = ParquetSplit.find(self.folder, name, self.config_name)
            files = {name: [str(path.relative_to(self.folder)) for path in part.files]}
            # Streaming reads the parquet files in place; otherwise `datasets` first copies them all into its own cache.
            dataset = load_dataset(str(self.folder), data_files=files, split=name, streaming=True)
            return dataset.cast_column(self.image_column, Image(decode=False)), f"{self.folder} split {name}"
        _require_hub(self.name, self.revision)
        try:
            dataset = load_dataset(self.name, self.config_name, split=name, revision=self.revision)
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            raise _unreadable(self.name, error) from error
        info = self.describe()
        expected = info.num_train if split == "train" else self.num_test
        if dataset.num_rows != expected:
            raise DataError(
                f"data.num_{split}: split {name!r} of {self.name} has {dataset.num_rows} rows, {expected} were declared"
            )
        for field, column in (("image_column", self.image_column), ("label_column", self.label_column)):
            if column not in dataset.column_names:
                raise DataError(
                    f"data.{field}: {self.name} has no column {column!r}; its columns are "
                    f"{', '.join(dataset.column_names)}"
                )
        feature = dataset.features[self.label_column]
        if getattr(feature, "num_classes", info.num_classes) != info.num_classes:
            raise DataError(
                f"data.num_classes: {self.name} has {feature.num_classes} classes, {info.num_classes} were declared"
            )
        return dataset.cast_column(self.image_column, Image(decode=False)), f"{self.name} split {name}"

    def _num_kept(self, num_test: int) -> int:
        excluded = set(self.exclude_test_rows)
        if excluded and not 0 <= min(excluded) <= max(excluded) < num_test:
            raise DataError(f"data.exclude_test_rows names rows outside the test split's 0 .. {num_test - 1}")
        return num_test - len(excluded)

    def _label(self) -> str:
        return self.label or Path(self.name).name.lower().replace("-", "_")

    def _fingerprint(self, image_size: int, in_channels: int, **origin: object) -> str:
        return fingerprint(
            format=_FORMAT,
            columns=(self.image_column, self.label_column),
            splits=(self.config_name, self.train_split, self.test_split),
            pixels=(image_size, in_channels, self.resize),
            excluded=sorted(set(self.exclude_test_rows)),
            **origin,
        )


def _readable(dataset: Iterable[dict[str, Any]], source: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set; a damaged file is reported by its source and the rows read before."""
    rows = 0
    try:
        for example in dataset:
            yield example
            rows += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source} cannot be read after row {rows} ({error}); fetch the file again") from error


def _require_hub(name: str, revision: str | None) -> None:
    """Fails at once, with advice, if the hub cannot be asked for a data set; `load_dataset` would retry for long."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return  # load_dataset then reads its own download cache or says so at once
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, revision=revision, timeout=_HUB_TIMEOUT_SECONDS)
    except Exception as error:  # the HTTP library below raises its own, changing types
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return DataError(
        f"data.name: {name} could not be read from the hub ({type(error).__name__}: {reason}); check the name and the "
        "network, or set data.name to a local folder in the hub's layout (HF_HUB_OFFLINE=1 uses earlier downloads)"
    )
