"""A folder of image files, one sub-folder per class: `root/train/cat/1.png`, `root/test/dog/7.jpg`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from datamodules.contents import content_hash
from datamodules.decoded import DecodedSource, Examples
from datamodules.info import DataError, DataInfo
from datamodules.source import LABEL_PATTERN, Split, fingerprint

_FORMAT = "folder-1"  # part of the fingerprint: a change of the decoding must change it
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class FolderData(DecodedSource):
    """Image files sorted into class folders.

    Classes are the sub-folders of the training folder in alphabetical order; images are read in order of their names.

    Attributes:
        kind: "folder".
        root: The folder that holds the splits.
        train_folder: Sub-folder of the training split.
        test_folder: Sub-folder of the test split.
        label: Short name for figures and cache folders; the name of `root` if None.
    """

    kind: Literal["folder"] = "folder"
    root: Path
    train_folder: str = "train"
    test_folder: str = "test"
    label: str | None = Field(default=None, pattern=LABEL_PATTERN)

    def describe(self) -> DataInfo:
        """Facts from the listing, the contents' hash, and the header of the first image."""
        class_names = self._class_names("train")
        unknown = sorted(set(self._class_names("test")) - set(class_names))
        if unknown:
            raise DataError(f"{self._folder('test')} has class folders that training lacks: {', '.join(unknown)}")
        train, test = self._files("train"), self._files("test")
        first = train[0][0]
        image_size, in_channels = self.size_and_channels(first.read_bytes(), str(first))
        return DataInfo(
            name=self.label or self.root.resolve().name.lower(),
            num_train=len(train),
            num_test=len(test),
            image_size=image_size,
            in_channels=in_channels,
            num_classes=len(class_names),
            class_names=class_names,
            fingerprint=fingerprint(
                format=_FORMAT,
                splits=(self.train_folder, self.test_folder),
                pixels=(image_size, in_channels, self.resize),
                contents=content_hash(self.root, [path for path, _ in (*train, *test)]),
            ),
        )

    def examples(self, split: Split) -> Examples:
        """Reads the files one by one."""
        for path, label in self._files(split):
            yield str(path), path.read_bytes(), label

    def _folder(self, split: Split) -> Path:
        return self.root / (self.train_folder if split == "train" else self.test_folder)

    def _class_names(self, split: Split) -> tuple[str, ...]:
        folder = self._folder(split)
        if not folder.is_dir():
            raise DataError(
                f"data.root: there is no folder {folder} (a split holds one sub-folder of images per class)"
            )
        names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
        if len(names) < 2:
            raise DataError(f"data.root: {folder} needs at least two class folders, it has {len(names)}")
        return names

    def _files(self, split: Split) -> list[tuple[Path, int]]:
        folder = self._folder(split)
        classes = {name: code for code, name in enumerate(self._class_names("train"))}
        files = [
            (path, classes[name])
            for name in self._class_names(split)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        if not files:
            raise DataError(
                f"data.root: the class folders of {folder} hold no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        return files
