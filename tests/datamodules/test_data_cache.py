"""The cache of decoded splits is whole or absent, decoded once, and notices damage."""

import errno
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError, ImageSplit
from datamodules import cache as cache_module
from datamodules.cache import SplitShape, cached_split

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


@pytest.mark.parametrize("file", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["byte", "truncated"])
def test_damage_is_noticed_and_says_what_to_delete(tmp_path: Path, file: str, damage: str) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    path = tmp_path / "train" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # the map of the first load stays valid
    path.write_bytes(content if damage == "byte" else content[:-8])
    cache_module._verified.clear()  # as in a new process
    with pytest.raises(DataError, match=rf"{path.parent}.* damaged .*; delete {path.parent}"):
        cached_split(tmp_path / "train", SHAPE, decode)


def test_a_replaced_file_is_verified_again_in_the_same_process(tmp_path: Path) -> None:
    cached_split(tmp_path / "train", SHAPE, decode)
    path = tmp_path / "train" / "images.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256"):
        cached_split(tmp_path / "train", SHAPE, decode)


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
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "counter").read_text() == "decoded\n"
