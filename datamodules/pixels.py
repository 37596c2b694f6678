"""How images reach the device: all at once where they fit, else batch by batch, read one batch ahead of the network.

Both ways give the same bytes for the same rows, uint8 with channels first.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from datamodules.images import ImageSplit, Int64Array, UInt8Array
from datamodules.info import DataError

_COPIED_BYTES = 1 << 26  # read on the CPU before they are copied to another device

RowsAt = Callable[[int], Int64Array]


def pixels_of(split: ImageSplit, rows: Int64Array, device: torch.device) -> Tensor:
    """Rows of a split as uint8 `[n, C, H * W]` on a device, verified as they are read.

    Raises:
        DataError: An image is damaged.
    """
    if device.type == "cpu":
        return torch.from_numpy(_read(split, rows))
    pixels = torch.empty((len(rows), *_image_shape(split)), dtype=torch.uint8, device=device)
    step = max(1, _COPIED_BYTES // max(1, split.images[:1].nbytes))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        pixels[start : start + len(part)].copy_(torch.from_numpy(_read(split, part)))
    return pixels


class PixelStream:
    """Batches of a split that stays where it is, on disk for instance: read by a thread one batch ahead.

    There are two buffers: while the network works on one, the thread reads the next batch into the other. Any batch may
    be asked for at any time, by one thread; those in order are ready when they are wanted.

    On CUDA the buffers are pinned and copied on a stream of their own. Events hold the order: the copy of a batch waits
    for the work that was queued on the previous content of its buffer, and the work on it for the copy.

    Args:
        split: Where the images are.
        rows_at: Rows of a batch, in order; called from the thread.
        most_rows: Images in the largest batch.
        device: Where batches are wanted.
        num_batches: Batches there are; None without end.
    """

    def __init__(
        self, split: ImageSplit, rows_at: RowsAt, most_rows: int, device: torch.device, num_batches: int | None = None
    ) -> None:
        self._split, self._rows_at, self._num_batches = split, rows_at, num_batches
        shape = (most_rows, *_image_shape(split))
        self._buffers: tuple[_Buffer, _Buffer]
        if device.type == "cuda":
            copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._buffers = _CudaBuffer(shape, copies), _CudaBuffer(shape, copies)
        else:
            self._buffers = _Buffer(shape), _Buffer(shape)
        self._shown: int | None = None  # number of the batch that the caller has
        self._side = 0  # the buffer it lies in
        self._ahead: tuple[int, Future[None]] | None = None  # what is read into the other
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-images")  # ends with this object

    def at(self, number: int) -> Tensor:
        """Images of a batch, uint8 `[b, C, H * W]` on the device, which hold until the next call.

        Raises:
            DataError: They could not be read, or are damaged.
        """
        if number != self._shown:
            other = 1 - self._side
            if self._ahead is None or self._ahead[0] != number:
                self._ahead = self._read(number, other)
            reading, self._ahead = self._ahead[1], None
            self._finish(number, reading)
            if self._shown is not None:
                self._buffers[self._side].release()
            self._shown, self._side = number, other
            if self._num_batches is None or number + 1 < self._num_batches:
                self._ahead = self._read(number + 1, 1 - other)
        return self._buffers[self._side].take()

    def close(self) -> None:
        """Ends the thread once it has read what it is at; dropping the object does the same."""
        self._thread.shutdown(cancel_futures=True)

    def _read(self, number: int, side: int) -> tuple[int, Future[None]]:
        """Has the thread read a batch; it does one after the other, so that an unwanted one is simply overwritten."""
        return number, self._thread.submit(_fill, self._buffers[side], self._split, self._rows_at, number)

    def _finish(self, number: int, reading: Future[None]) -> None:
        """Waits for a batch."""
        try:
            reading.result()
        except (DataError, MemoryError):
            raise
        except Exception as error:
            where = self._split.folder or "memory"
            raise DataError(f"the images of batch {number} could not be read from {where} ({error})") from error


class _Buffer:
    """Room for a batch on the CPU: filled by the thread, taken and released by the caller."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._host = torch.empty(shape, dtype=torch.uint8)
        self._count = 0

    def fill(self, split: ImageSplit, rows: Int64Array) -> None:
        """Reads a batch; nobody uses the old one any more."""
        split.read(rows, self._host[: len(rows)].numpy())
        self._count = len(rows)

    def take(self) -> Tensor:
        """The batch, for work that is queued from now on."""
        return self._host[: self._count]

    def release(self) -> None:
        """Says that no more work on the batch will be queued."""


class _CudaBuffer(_Buffer):
    """Room for a batch in pinned memory and on a GPU."""

    def __init__(self, shape: tuple[int, int, int], copies: torch.cuda.Stream) -> None:
        super().__init__(shape)
        self._host = self._host.pin_memory()
        self._copies = copies
        self._pixels = torch.empty(shape, dtype=torch.uint8, device=copies.device)
        self._pixels.record_stream(copies)  # its memory is not reused while a copy is under way
        # The thread sleeps where it waits.
        self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._used = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # The allocator may hand out memory that work queued earlier still uses.
        self._used.record(torch.cuda.current_stream(copies.device))

    def fill(self, split: ImageSplit, rows: Int64Array) -> None:
        """Reads a batch and starts its copy."""
        self._copied.synchronize()  # the last copy has left the pinned memory
        super().fill(split, rows)
        self._copies.wait_event(self._used)
        with torch.cuda.stream(self._copies):
            self._pixels[: self._count].copy_(self._host[: self._count], non_blocking=True)
        self._copied.record(self._copies)

    def take(self) -> Tensor:
        """The batch; work on the caller's stream waits for its copy, the caller does not."""
        torch.cuda.current_stream(self._pixels.device).wait_event(self._copied)
        return self._pixels[: self._count]

    def release(self) -> None:
        """Marks the end of the work on the batch."""
        self._used.record(torch.cuda.current_stream(self._pixels.device))


def _fill(buffer: _Buffer, split: ImageSplit, rows_at: RowsAt, number: int) -> None:
    """What the thread does; a function, so that the thread does not keep its stream of pixels alive."""
    buffer.fill(split, rows_at(number))


def _read(split: ImageSplit, rows: Int64Array) -> UInt8Array:
    out = np.empty((len(rows), *_image_shape(split)), dtype=np.uint8)
    split.read(rows, out)
    return out


def _image_shape(split: ImageSplit) -> tuple[int, int]:
    size, channels = split.images.shape[1], split.images.shape[3]
    return channels, size * size
