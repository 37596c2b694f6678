"""One job: several cells trained together, so that a fault costs only the cell whose fault it is.

Where a program fails as a whole, its cells go on from their checkpoints: in halves where memory was short, else one by
one, and a cell whose own program fails goes on without one.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from studies.cell import Cell
from studies.records import Record

CPU_IS_FULL = "can't allocate memory"
"""What torch's allocator on the CPU says, in a `RuntimeError` without a class of its own."""

Answer = Callable[[Cell, Record | Exception], None]


class Train(Protocol):
    """Trains cells and yields what became of each; raises what is no single cell's fault."""

    def __call__(self, cells: Sequence[Cell], *, in_lanes: bool) -> Iterator[tuple[str, Record | Exception]]:
        """`in_lanes`: as one program; else by the plain loop."""


def run_job(
    cells: Sequence[Cell], train: Train, answer: Answer, warn: Callable[[str], None], *, in_lanes: bool
) -> None:
    """Trains cells and answers once for each.

    Args:
        answer: called with a cell and its record, or with the fault that it met by itself.
        warn: called with what a person should know.
        in_lanes: whether to try a program (`lane_width.takes_lanes`).

    Raises:
        Exception: the device can no longer be used: the process has to end, and every cell not answered for continues
            in another.
    """
    left = {cell.id: cell for cell in cells}
    memory_was_short = False
    results = train(cells, in_lanes=in_lanes)
    while left:
        try:
            cell_id, result = next(results)
        except Exception as error:
            if _device_is_lost():
                raise
            if not in_lanes:
                for cell in left.values():
                    answer(cell, error)
                return
            traceback.print_exc()
            memory_was_short = is_out_of_memory(error)
            break
        answer(left.pop(cell_id), result)
    if not left:
        return
    del results
    free_memory()
    rest = list(left.values())
    if memory_was_short and len(rest) > 1:
        half = (len(rest) + 1) // 2
        warn(f"{len(rest)} lanes of {rest[0].family} {rest[0].variant} did not fit into memory: trained {half} at once")
        for part in (rest[:half], rest[half:]):
            run_job(part, train, answer, warn, in_lanes=True)
    else:
        for cell in rest:  # as lone programs, which give the bits that the lanes would have; and if need be without
            run_job([cell], train, answer, warn, in_lanes=len(rest) > 1)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device or the machine ran out of memory, be it while something else was being tidied up."""
    import torch

    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_IS_FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _device_is_lost() -> bool:
    """Whether CUDA answers every call with an error, as it does after an illegal access until the process ends."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def free_memory() -> None:
    """Lets go of programs that have ended: a Trainer and its module hold each other, and through it the program."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
