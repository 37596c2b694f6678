"""Images that stay on disk reach the network as those in memory do, read ahead by a thread that harms nobody."""

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError, ImageSplit, PixelPermutation, StepBatches, residency
from datamodules import pixels as pixels_module
from datamodules.cache import SplitShape, cached_split
from datamodules.images import Int64Array, UInt8Array
from datamodules.pixels import PixelStream
from datamodules.residency import available_memory, evaluation_batch_size, fits

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(1).integers(0, 256, size=(40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ImageSplit:
    shape = SplitShape(40, 8, 3, ("a", "b", "c", "d"))
    return cached_split(tmp_path_factory.mktemp("cache") / "train", shape, lambda: [(IMAGES, LABELS)])


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-images")]


def ended() -> bool:
    for _ in range(100):
        gc.collect()
        if not readers():
            return True
        time.sleep(0.02)
    return False


class Slow(ImageSplit):
    """A split on a slow disk that counts what is read."""

    seconds = 0.05
    reads: ClassVar[list[tuple[str, list[int]]]] = []

    def read(self, rows: Int64Array, out: UInt8Array) -> None:
        self.reads.append((threading.current_thread().name, rows.tolist()))
        time.sleep(self.seconds)
        super().read(rows, out)


def slow() -> Slow:
    Slow.reads.clear()
    return Slow(IMAGES, LABELS, ("a", "b", "c", "d"), "")


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.integers(0, 9), min_size=1, max_size=12), world=st.sampled_from([1, 2, 4]), data=st.data())
def test_any_order_of_steps_gives_the_bits_of_images_in_memory(
    split: ImageSplit, steps: list[int], world: int, data: st.DataObject
) -> None:
    arguments = {
        "batch_size": 12,
        "order_seed": 3,
        "augmentation_seed": 5,
        "augmentation": ("crop", "flip"),
        "permutation": PixelPermutation("pixels", 8),
    }
    rows = np.arange(4, 35)
    inside = StepBatches(split, rows, resident=True, **arguments)  # type: ignore[arg-type]
    outside = StepBatches(split, rows, resident=False, **arguments)  # type: ignore[arg-type]
    for step in steps:
        share = {"rank": data.draw(st.integers(0, world - 1)), "world_size": world}
        for expected, found in zip(inside.batch_at(step, **share), outside.batch_at(step, **share), strict=True):
            assert torch.equal(expected, found)


def test_a_batch_is_read_by_the_thread_while_the_network_works() -> None:
    split = slow()
    batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
    batches.batch_at(0)
    time.sleep(3 * Slow.seconds)  # the network at work
    started = time.perf_counter()
    batches.batch_at(1)
    assert time.perf_counter() - started < Slow.seconds / 2
    batches.close()
    assert [rows for _, rows in split.reads][:2] == [batches.indices_at(step).tolist() for step in (0, 1)]
    assert {name for name, _ in split.reads} == {"read-images_0"}


def test_a_batch_asked_for_twice_is_read_once() -> None:
    split = slow()
    batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
    for step in (4, 4, 4, 5, 5):
        batches.batch_at(step)
    batches.close()
    assert [rows for _, rows in split.reads][:2] == [batches.indices_at(step).tolist() for step in (4, 5)]
    assert len(split.reads) <= 3


def test_the_thread_ends_with_its_batches(split: ImageSplit) -> None:
    assert ended()
    batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
    assert not readers(), "no thread before the first batch"
    batches.batch_at(0)
    assert len(readers()) == 1
    del batches
    assert ended()
    batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
    batches.batch_at(0)
    batches.close()
    assert ended()
    assert torch.equal(batches.batch_at(1)[1], torch.from_numpy(split.labels[batches.indices_at(1)])), "it starts anew"


def test_a_process_ends_while_its_thread_reads() -> None:
    script = """
import time
import numpy as np
from datamodules import ImageSplit, StepBatches
class Slow(ImageSplit):
    def read(self, rows, out):
        time.sleep(0.3)
split = Slow(np.zeros((40, 8, 8, 3), dtype=np.uint8), np.zeros(40, dtype=np.int64), ("a",), "")
StepBatches(split, batch_size=8, order_seed=0, resident=False).batch_at(0)
batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
batches.batch_at(0)
print("done")
"""
    command = [sys.executable, "-c", script]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "done\n", "")


def test_what_the_thread_meets_reaches_the_caller_and_the_next_batch_is_read() -> None:
    class Broken(ImageSplit):
        def read(self, rows: Int64Array, out: UInt8Array) -> None:
            if 7 in rows:
                raise OSError(5, "Input/output error")
            super().read(rows, out)

    split = Broken(IMAGES, LABELS, ("a", "b", "c", "d"), "", folder=Path("/data/train"))
    batches = StepBatches(split, batch_size=8, order_seed=0, resident=False)
    has_it = [7 in batches.indices_at(step) for step in range(20)]
    bad = has_it.index(True)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"batch {bad} could not be read from /data/train \(.*Input/output error"):
            batches.batch_at(bad)
    for good in (step for step in range(20) if not has_it[step]):  # some are followed by one that nobody asks for
        assert torch.equal(batches.batch_at(good)[1], torch.from_numpy(LABELS[batches.indices_at(good)]))


@pytest.mark.parametrize("permutation", ["none", "pixels"])
def test_evaluation_from_disk_equals_evaluation_from_memory(
    split: ImageSplit, permutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrambled = PixelPermutation(permutation, 8)  # type: ignore[arg-type]
    batches = StepBatches(split, batch_size=8, order_seed=0, permutation=scrambled, resident=True)
    rows = np.random.default_rng(0).permutation(40)[:33]
    expected = [(images.clone(), labels) for images, labels in batches.evaluation_batches(rows, batch_size=10)]
    assert [len(labels) for _, labels in expected] == [10, 10, 10, 3]
    monkeypatch.setattr("datamodules.batches.fits", lambda num_bytes, device: False)
    fresh = StepBatches(split, batch_size=8, order_seed=0, permutation=scrambled)
    assert not fresh.resident
    for _ in range(2):
        for (images, labels), (same, same_labels) in zip(
            expected, fresh.evaluation_batches(rows, batch_size=10), strict=True
        ):
            assert torch.equal(images, same)
            assert torch.equal(labels, same_labels)
    assert ended()


def test_an_evaluation_set_is_prepared_once_for_all_branches() -> None:
    test = slow()
    batches = StepBatches(ImageSplit.from_arrays(IMAGES, LABELS, test.class_names), batch_size=8, order_seed=0)
    first = torch.cat([images for images, _ in batches.evaluation_batches(split=test)])
    for size in (None, 7):
        again = torch.cat([images for images, _ in batches.evaluation_batches(split=test, batch_size=size)])
        assert torch.equal(first, again)
        list(batches.evaluation_batches(np.arange(5)))  # the validation set in between
    assert len(test.reads) == 1
    list(batches.evaluation_batches(np.arange(5), split=test))
    assert len(test.reads) == 2, "other rows of the same split are other images"


def test_images_stay_on_disk_where_memory_is_short(split: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "available_memory", lambda: 2 * 100 * 192)
    monkeypatch.setattr(residency.os, "sched_getaffinity", lambda _: range(5))
    assert StepBatches(split, np.arange(20), batch_size=8, order_seed=0).resident  # a fifth of half of it
    assert not StepBatches(split, np.arange(21), batch_size=8, order_seed=0).resident


def test_a_gpu_is_asked_how_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80_000_000_000))
    gpu = torch.device("cuda:1")
    assert fits(500, gpu)
    assert not fits(501, gpu)
    assert evaluation_batch_size(gpu, 32 * 32 * 3) == 8192
    assert evaluation_batch_size(gpu, 224 * 224 * 3) == 256
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8_000_000_000))
    assert evaluation_batch_size(gpu, 224 * 224 * 3) == 32


def test_memory_is_what_the_machine_and_its_container_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemFree:  5 kB\nMemAvailable:   700 kB\n")
    monkeypatch.setattr(residency, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(residency, "_CGROUP", tmp_path)
    assert available_memory() == 700 * 1024
    for name, content in {
        "memory.max": "max",
        "memory.current": "90000",
        "memory.stat": "anon 5\ninactive_file 800",
    }.items():
        (tmp_path / name).write_text(content + "\n")
    assert available_memory() == 700 * 1024
    (tmp_path / "memory.max").write_text("100000\n")
    assert available_memory() == 10_800
    monkeypatch.setattr(residency, "_MEMINFO", tmp_path / "absent")
    assert available_memory() == 10_800


@pytest.mark.parametrize(
    ("values", "size"), [(64, 256), (256, 256), (784, 256), (3072, 128), (12_288, 32), (150_528, 32)]
)
def test_evaluation_batches_suit_a_core(values: int, size: int) -> None:
    assert evaluation_batch_size(CPU, values) == size


def test_on_a_gpu_copies_and_work_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays what the two streams are told: nothing is overwritten in use, nothing used before it is there."""
    log: list[tuple[str, str, str]] = []
    lock = threading.Lock()

    class Event:
        count = 0

        def __init__(self, blocking: bool = False) -> None:
            self.name = f"{'copied' if blocking else 'used'}{Event.count // 2}"
            Event.count += 1

        def record(self, stream: SimpleNamespace) -> None:
            log.append(("record", stream.name, self.name))

        def synchronize(self) -> None:
            log.append(("synchronize", "thread", self.name))

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, device=CPU, wait_event=lambda event: log.append(("wait", name, event.name)))

    compute, copies = stream("compute"), stream("copies")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda chosen: lock)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, chosen: None)
    copy = torch.Tensor.copy_

    def copying(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        assert lock.locked(), "copied on the stream of copies"
        log.append(("copy", "copies", ""))
        return copy(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copying)
    monkeypatch.setattr(pixels_module, "torch", _cuda_tensors_on_cpu())
    pixels = PixelStream(
        ImageSplit.from_arrays(IMAGES, LABELS, ("a",)),
        lambda step: np.arange(step, step + 4),
        4,
        torch.device("cuda"),
        num_batches=3,
    )
    for step in range(3):
        found = pixels.at(step)
        np.testing.assert_array_equal(found.numpy(), IMAGES[step : step + 4].reshape(4, 64, 3).transpose(0, 2, 1))
    pixels.close()
    fill = [("synchronize", "thread"), ("wait", "copies"), ("record", "copies")]
    use = [("wait", "compute"), ("record", "compute")]
    expected = {"0": [*use[1:], *fill, *use], "1": [*use[1:], *fill, *use, *fill, *use[:1]]}  # batch 1; batches 0 and 2
    for buffer, events in expected.items():
        assert [(verb, where) for verb, where, event in log if event.endswith(buffer)] == events
    assert sum(verb == "copy" for verb, *_ in log) == 3
    for place, (verb, *_) in enumerate(log):
        if verb == "copy":  # after the work on the old content, before the event that the work on the new waits for
            before = [entry for entry in log[:place] if entry[1] == "copies"]
            after = [entry for entry in log[place + 1 :] if entry[1] == "copies"]
            assert before[-1][0] == "wait"
            assert before[-1][2].startswith("used")
            assert after[0][0] == "record"
            assert after[0][2] == before[-1][2].replace("used", "copied")


def _cuda_tensors_on_cpu() -> SimpleNamespace:
    def empty(shape: tuple[int, ...], dtype: torch.dtype, device: object = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    return SimpleNamespace(empty=empty, uint8=torch.uint8, cuda=torch.cuda, Tensor=torch.Tensor, device=torch.device)
