"""The cache of decoded splits is whole or absent, decoded once, and notices damage."""

import errno
import multiprocessing
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError, ImageSplit, StepBatches
from datamodules import cache as cache_module
from datamodules.cache import SplitShape, cached_split
from datamodules.images import row_hashes

IMAGES = np.random.default_rng(0).integers(0, 256, size=(10, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(10) % 2
SHAPE = SplitShape(10, 4, 3, ("a", "b"))


def decode() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield IMAGES[:6], LABELS[:6]
    yield IMAGES[6:], LABELS[6:]


def test_a_split_is_decoded_once_and_mapped_read_only(tmp_path: Path) -> None:
    first = cached_split(tmp_path / "train", SHAPE, decode)
    second = cached_split(tmp_path / "train", SHAPE, lambda: pytest.fail("decoded twice"))
    for split in (first, second):
        np.testing.assert_array_equal(split.images, IMAGES)
        np.testing.assert_array_equal(split.labels, LABELS)
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable
        assert split.class_names == ("a", "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.lock"]


def test_the_stored_checksum_and_statistics_are_those_of_the_arrays(tmp_path: Path) -> None:
    cached = cached_split(tmp_path / "train", SHAPE, decode)
    plain = ImageSplit.from_arrays(IMAGES, LABELS, ("a", "b"))
    assert cached.checksum == plain.checksum
    assert cached.channel_statistics() == plain.channel_statistics()
    assert plain.checksum != ImageSplit.from_arrays(IMAGES, LABELS[::-1].copy(), ("a", "b")).checksum


def damage(path: Path, place: int) -> None:
    """Replaces a file by one with one bit flipped; a map of the old one stays valid."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.unlink()
    path.write_bytes(content)


def read(split: ImageSplit, rows: list[int]) -> np.ndarray:
    out = np.empty((len(rows), 3, 16), dtype=np.uint8)
    split.read(np.array(rows), out)
    return out


@pytest.mark.parametrize("file", ["labels.npy", "row_hashes.npy", "split.json"])
def test_damage_beside_the_pixels_is_noticed_at_once(tmp_path: Path, file: str) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    damage(tmp_path / "train" / file, -2)
    with pytest.raises(DataError, match=rf"{tmp_path}/train are damaged .*; delete {tmp_path}/train"):
        cached_split(tmp_path / "train", SHAPE, decode)


def test_damaged_statistics_are_noticed_at_once(tmp_path: Path) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    path = tmp_path / "train" / "split.json"
    path.write_text(path.read_text().replace('"histogram": [[', '"histogram": [[1', 1))
    with pytest.raises(DataError, match=r"split\.json does not match its checksum"):
        cached_split(tmp_path / "train", SHAPE, decode)


def test_a_truncated_file_is_noticed_at_once(tmp_path: Path) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    path = tmp_path / "train" / "images.npy"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match="damaged"):
        cached_split(tmp_path / "train", SHAPE, decode)


@pytest.mark.parametrize("row", range(10))
def test_a_damaged_pixel_is_noticed_when_its_image_is_read_and_named(tmp_path: Path, row: int) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    damage(tmp_path / "train" / "images.npy", -1 - 48 * (9 - row) - (row * 5) % 48)
    split = cached_split(tmp_path / "train", SHAPE, decode)
    others = [other for other in (7, 3, 9, 0, 1, 2, 4, 5, 6, 8) if other != row]
    np.testing.assert_array_equal(read(split, others), IMAGES[others].reshape(9, 16, 3).transpose(0, 2, 1))
    message = rf"row {row} of {tmp_path}/train/images.npy is damaged; delete {tmp_path}/train"
    with pytest.raises(DataError, match=message):
        read(split, [*others, row])
    with pytest.raises(DataError, match=message):
        StepBatches(split, batch_size=4, order_seed=0)
    with pytest.raises(DataError, match=message):
        list(StepBatches(split, others, batch_size=4, order_seed=0).evaluation_batches(split=split))
    streamed = StepBatches(split, batch_size=10, order_seed=0, resident=False)
    with pytest.raises(DataError, match=message):
        streamed.batch_at(0)
    with pytest.raises(DataError, match=rf"{tmp_path}/train: damaged \(SHA-256 is .*delete {tmp_path}/train"):
        split.verify()


def test_a_whole_split_verifies(tmp_path: Path) -> None:
    cached_split(tmp_path / "train", SHAPE, decode).verify()
    ImageSplit.from_arrays(IMAGES, LABELS, ("a", "b")).verify()


def test_the_hash_of_an_image_sees_every_bit_and_every_exchange() -> None:
    for size in (1, 2, 3, 7, 8):  # of 3, 12, 27, 147, 192 bytes: whole words and not
        image = np.random.default_rng(size).integers(0, 256, size=(1, size, size, 3), dtype=np.uint8)
        changed = np.repeat(image, 8 * image.size + 1, axis=0).reshape(8 * image.size + 1, -1)
        for bit in range(8 * image.size):
            changed[bit, bit // 8] ^= 1 << bit % 8
        hashes = row_hashes(changed)
        assert len(set(hashes.tolist())) == len(changed)
        assert row_hashes(image)[0] == hashes[-1]  # whatever lies beside it, whatever its shape
    halves = np.arange(16, dtype=np.uint8).reshape(1, 2, 8)
    assert row_hashes(halves) != row_hashes(halves[:, ::-1])
    top = np.zeros((2, 16), dtype=np.uint8)
    top[1, [7, 15]] = 128  # the same bit in two words, which a sum could cancel
    assert row_hashes(top)[0] != row_hashes(top)[1]


def test_a_failed_decode_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield IMAGES[:6], LABELS[:6]
        raise DataError("row 6 is broken")

    with pytest.raises(DataError, match="row 6 is broken"):
        cached_split(tmp_path / "train", SHAPE, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]
    assert len(cached_split(tmp_path / "train", SHAPE, decode)) == 10


def test_a_half_written_split_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".train.killed").mkdir()
    (tmp_path / ".train.killed" / "images.npy").write_bytes(b"half")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "images.npy").write_bytes(b"half")
    np.testing.assert_array_equal(cached_split(tmp_path / "train", SHAPE, decode).images, IMAGES)
    assert not (tmp_path / ".train.killed").exists()


def test_a_disk_too_small_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"full: 0\.0 MB are needed.*INDUCTIVE_BIAS_CACHE"):
        cached_split(tmp_path / "train", SHAPE, lambda: pytest.fail("decoded"))


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_sync", full)
    with pytest.raises(DataError, match="is full"):
        cached_split(tmp_path / "train", SHAPE, decode)
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]


def test_a_limit_on_the_size_of_files_is_told_as_such(tmp_path: Path) -> None:
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(DataError, match=r"takes no file of 0\.0 MB, by a limit.*ulimit -f.*INDUCTIVE_BIAS_CACHE"):
            cached_split(tmp_path / "train", SHAPE, decode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(IMAGES[:6], LABELS[:6])], "6 images were read where 10 were announced"),
        ([(IMAGES[:, :3], LABELS)], r"\[10, 3, 4, 3\] uint8 .* came where"),
        ([(IMAGES, LABELS - 1)], "row 0 has label -1"),
        ([(IMAGES, LABELS * 2)], "row 1 has label 2; with 2 classes"),
    ],
)
def test_chunks_other_than_announced_are_refused(tmp_path: Path, chunks: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        cached_split(tmp_path / "train", SHAPE, lambda: iter(chunks))  # type: ignore[arg-type]
    assert not (tmp_path / "train").exists()


def test_a_cache_that_cannot_be_made_says_which_variable_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="INDUCTIVE_BIAS_CACHE"):
        cached_split(tmp_path / "file" / "train", SHAPE, decode)


def _open_and_count(folder: Path, start: Event, counter: Path) -> None:
    def slow() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with counter.open("a") as file:
            file.write("decoded\n")
        time.sleep(0.3)
        yield from decode()

    start.wait()
    assert cached_split(folder, SHAPE, slow).labels.sum() == LABELS.sum()


def test_two_processes_decode_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    arguments = (tmp_path / "train", start, tmp_path / "counter")
    processes = [context.Process(target=_open_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "counter").read_text() == "decoded\n"
