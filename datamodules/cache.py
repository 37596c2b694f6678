"""The folder of decoded splits: written once and atomically, checksummed, memory-mapped afterwards.

One split is a folder `<cache>/<name>-<fingerprint>/<split>/` with `images.npy`, `labels.npy`, `row_hashes.npy` and
`split.json`. It is written under a temporary name and renamed when complete, so a split is either whole or absent; a
file lock keeps two processes from decoding the same split twice.

Opening verifies everything but the pixels, which takes a millisecond. Pixels are verified as they are read, image by
image (`ImageSplit.read`), so that no result rests on an image nobody verified, and none waits for images it never sees.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.images import ImageSplit, Int64Array, UInt8Array, UInt32Array, channel_histogram, row_hashes
from datamodules.info import DataError
from datamodules.source import fingerprint

CACHE_VARIABLE = "INDUCTIVE_BIAS_CACHE"

Chunks = Iterable[tuple[UInt8Array, Int64Array]]

_DESCRIPTION = "split.json"


class CacheUnavailableError(DataError):
    """The cache folder cannot be written; what is in it stays readable."""


def cache_folder(folder: Path | None = None) -> Path:
    """The cache folder: the argument, else `$INDUCTIVE_BIAS_CACHE`, else `~/.cache/inductive-bias-study`."""
    if folder is not None:
        return folder
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "inductive-bias-study"


@dataclass(frozen=True)
class SplitShape:
    """What a split to be decoded will hold: `num_images` images of `[image_size, image_size, in_channels]`."""

    num_images: int
    image_size: int
    in_channels: int
    class_names: tuple[str, ...]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return self.num_images * self.image_size**2 * self.in_channels


def cached_split(folder: Path, shape: SplitShape, decode: Callable[[], Chunks]) -> ImageSplit:
    """Opens a decoded split, decoding it first if it is not there.

    Args:
        folder: The split's own folder.
        shape: What it must hold.
        decode: Yields consecutive `(images, labels)` chunks of the split; called at most once, and by one process only.

    Returns:
        The split with its images memory-mapped read-only.

    Raises:
        CacheUnavailableError: The disk is full or the folder cannot be written.
        DataError: The chunks do not have the promised shape, or the cached files are damaged.
    """
    if not (folder / _DESCRIPTION).exists():
        with _lock(folder):
            if not (folder / _DESCRIPTION).exists():
                _write(folder, shape, decode)
    return _open(folder)


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file so that a reader sees either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cached_numbers(path: Path, compute: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    """Numbers that are a function of what the name of `path` says: those kept there, else computed and kept.

    A file that is damaged is written anew; where the folder cannot be written they are computed every time.
    """
    try:
        kept = json.loads(path.read_bytes())
        if kept["sha256"] == fingerprint(numbers=kept["numbers"]):
            return tuple(kept["numbers"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    numbers = compute()
    with suppress(OSError):
        write_atomically(path, json.dumps({"numbers": numbers, "sha256": fingerprint(numbers=numbers)}))
    return numbers


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the split's file lock; the system frees it when the process ends, however it ends."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise CacheUnavailableError(
            f"the cache folder {path.parent} cannot be written or locked ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder that can"
        ) from error
    with file:
        yield


def _write(folder: Path, shape: SplitShape, decode: Callable[[], Chunks]) -> None:
    """Decodes into a temporary folder beside `folder` and renames it when everything is on disk."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process killed while decoding; the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    needed = shape.pixel_bytes + 12 * shape.num_images
    if needed > free:
        raise _disk_full(folder, needed, free)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_files(temporary, shape, decode())
        if folder.exists():  # without a description: not a whole split
            shutil.rmtree(folder)
        temporary.replace(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(folder, needed, shutil.disk_usage(folder.parent).free) from error
        if error.errno == errno.EFBIG:
            raise CacheUnavailableError(
                f"{folder.parent} takes no file of {needed / 1e6:.1f} MB, by a limit on the size of files (ulimit -f) "
                f"or by its file system; raise the limit, or set {CACHE_VARIABLE} to a folder elsewhere"
            ) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_files(folder: Path, shape: SplitShape, chunks: Chunks) -> None:
    """Streams chunks to `images.npy`; labels, histogram, hashes and checksum are gathered on the way."""
    size = (shape.image_size, shape.image_size, shape.in_channels)
    digest = hashlib.sha256()
    histogram = np.zeros((shape.in_channels, 256), dtype=np.int64)
    all_labels: list[Int64Array] = []
    all_hashes: list[UInt32Array] = []
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (shape.num_images, *size)}
        np.lib.format.write_array_header_1_0(file, header)
        for images, labels in chunks:
            if images.shape[1:] != size or images.dtype != np.uint8 or len(images) != len(labels):
                raise DataError(
                    f"images of {list(images.shape)} {images.dtype} with {len(labels)} labels came where "
                    f"uint8 [n, {size[0]}, {size[1]}, {size[2]}] was announced"
                )
            pixels = np.ascontiguousarray(images)
            file.write(pixels.data)
            digest.update(pixels.data)
            histogram += channel_histogram(pixels)
            all_labels.append(np.asarray(labels, dtype=np.int64))
            all_hashes.append(row_hashes(pixels))
        _sync(file.fileno())
    labels = np.concatenate(all_labels) if all_labels else np.zeros(0, dtype=np.int64)
    if len(labels) != shape.num_images:
        raise DataError(f"{len(labels)} images were read where {shape.num_images} were announced")
    outside = np.flatnonzero((labels < 0) | (labels >= len(shape.class_names)))
    if len(outside):
        raise DataError(
            f"row {outside[0]} has label {labels[outside[0]]}; with {len(shape.class_names)} classes labels must lie "
            f"in 0 .. {len(shape.class_names) - 1} (unlabelled rows, often -1, belong to no split used here)"
        )
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    tables: dict[str, Int64Array | UInt32Array] = {"labels.npy": labels, "row_hashes.npy": np.concatenate(all_hashes)}
    for name, table in tables.items():
        with (folder / name).open("wb") as file:
            np.save(file, table)
            _sync(file.fileno())
    description = {
        "num_images": shape.num_images,
        "class_names": list(shape.class_names),
        "sha256": digest.hexdigest(),
        "histogram": histogram.tolist(),
        "tables_sha256": {name: _table_digest(table) for name, table in tables.items()},
    }
    content = {"split": description, "sha256": fingerprint(**description)}
    write_atomically(folder / _DESCRIPTION, json.dumps(content))


def _open(folder: Path) -> ImageSplit:
    """Memory-maps a split; labels, hashes and statistics are verified."""
    try:
        content = json.loads((folder / _DESCRIPTION).read_text())
        description = content["split"]
        if content["sha256"] != fingerprint(**description):
            raise ValueError(f"{_DESCRIPTION} does not match its checksum")
        tables = {name: np.load(folder / name) for name in description["tables_sha256"]}
        for name, expected in description["tables_sha256"].items():
            if _table_digest(tables[name]) != expected:
                raise ValueError(f"{name} does not match its SHA-256")
        images = np.load(folder / "images.npy", mmap_mode="r")
        if len(images) != description["num_images"]:
            raise ValueError(f"{len(images)} images where {description['num_images']} were written")
        return ImageSplit(
            images,
            tables["labels.npy"],
            tuple(description["class_names"]),
            description["sha256"],
            np.asarray(description["histogram"], dtype=np.int64),
            tables["row_hashes.npy"],
            folder,
        )
    # NumPy reads the header of a table as Python: what is damaged there can be any error of its parser.
    except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise DataError(
            f"the decoded images in {folder} are damaged ({error}); delete {folder}, they are decoded again"
        ) from error


def _table_digest(table: Int64Array | UInt32Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(table).data).hexdigest()


def _disk_full(folder: Path, needed: int, free: int) -> CacheUnavailableError:
    return CacheUnavailableError(
        f"the disk of {folder} is full: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free; "
        f"make room, or set {CACHE_VARIABLE} to a folder elsewhere"
    )


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
