"""Several processes that train one cell, each on a device of its own: its share of every batch, gradients averaged.

One leads: the process that was asked for the cell. It starts the others, which run the same program from the same
checkpoint and keep the same books, so that nobody tells anybody what to do next; what they exchange are gradients,
losses and counts. Only the leader writes files, reads the test split and speaks to people.

The averaging is Lightning's distributed data-parallel strategy. Lightning's own launchers are not used: they would
start processes anew for every fit, and a cell has a fit per segment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from torch import Tensor, distributed, nn

from .cell import Cell
from .engine_spec import EngineSpec
from .errors import ConfigError, StudyError
from .lifetime import end_with_parent
from .program import initial_network

FAREWELL_SECONDS = 60.0  # for a process to end by itself once its work is done or a companion of its is gone


@dataclass(frozen=True)
class Rank:
    """Which of the processes that train a cell this one is.

    Attributes:
        number: from 0, the leader.
        count: processes in all.
        port: where they meet, on this machine.
    """

    number: int = 0
    count: int = 1
    port: int = 0

    @property
    def leads(self) -> bool:
        """Whether it writes what comes out."""
        return self.number == 0

    def device(self, first: str) -> str:
        """The device of this process, where the leader has `first`: the GPUs of a team follow each other."""
        kind, _, index = first.partition(":")
        return f"{kind}:{int(index or 0) + self.number}" if kind == "cuda" else first

    def together(self, losses: Tensor, examples: int) -> tuple[Tensor, int]:
        """Mean losses over the whole batches, float32, and images counted over all processes."""
        if self.count == 1:
            return losses, examples
        sums = torch.cat([losses.double().flatten(), losses.new_tensor([examples], dtype=torch.float64)])
        distributed.all_reduce(sums)
        return (sums[:-1] / self.count).to(losses.dtype).view_as(losses), round(float(sums[-1]))


SOLO = Rank()


class TeamEnvironment(LightningEnvironment):
    """Tells Lightning that the processes of a team exist already, and which one this is."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank, self._main_port = rank, rank.port

    @property
    def creates_processes_externally(self) -> bool:
        """The team has started them."""
        return True

    @property
    def main_address(self) -> str:
        """This machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Where the processes meet."""
        return self._main_port

    def local_rank(self) -> int:
        """The number of this process."""
        return self._rank.number

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


def check_team(cells: Sequence[Cell], settings: EngineSpec, device: str) -> None:
    """Refuses cells that cannot be trained by several processes.

    Raises:
        ConfigError: says which field and what was expected.
    """
    count = settings.devices_per_cell
    if count == 1:
        return
    for size in sorted({cell.batch_size for cell in cells if cell.batch_size % count}):
        raise ConfigError(
            f"engine.devices_per_cell: {count} devices cannot share a batch of {size} images evenly; expected a "
            "divisor of budget.batch_size"
        )
    for cell in {(cell.family, cell.variant): cell for cell in cells}.values():
        norms = [one for one in initial_network(cell).modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        named = f"engine.devices_per_cell: {count} was asked for, but {cell.family} {cell.variant} has batch norm"
        if norms and not device.startswith("cuda"):
            raise ConfigError(
                f"{named}, whose statistics are taken over the whole batch only on GPUs; expected 1 on a CPU, or a "
                "form without it, such as resnet-gn"
            )
        if any(type(one) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) for one in norms):
            kinds = ", ".join(sorted({type(one).__name__ for one in norms}))
            raise ConfigError(
                f"{named} of its own kind ({kinds}), which cannot be taken over several devices; expected 1"
            )


@contextlib.contextmanager
def team(settings: EngineSpec, device: str, follow: Callable[..., None], *arguments: Any) -> Iterator[Rank]:  # noqa: ANN401
    """Starts the other processes of a team, and ends them with the context.

    Args:
        device: of the leader.
        follow: a function of a module, called in each of the others as `follow(rank, device, *arguments)`.
        arguments: picklable.

    Yields:
        The leader's rank.

    Raises:
        StudyError: another process ended before its work was done; the cell can be continued.
    """
    if settings.devices_per_cell == 1:
        yield SOLO
        return
    leader = Rank(0, settings.devices_per_cell, find_free_network_port())
    ranks = [Rank(number, leader.count, leader.port) for number in range(1, leader.count)]
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_join, args=(rank, rank.device(device), follow, arguments), name=f"rank {rank.number}")
        for rank in ranks
    ]
    over = threading.Event()
    try:
        for other in others:
            other.start()
        threading.Thread(target=_watch, args=(others, over), daemon=True, name="watch-team").start()
        yield leader
        _leave()  # first, since the others may wait for this one to leave
        for other in others:
            other.join(FAREWELL_SECONDS)
    except Exception as error:
        if not _is_lost_connection(error):
            raise
        raise StudyError(f"{_who_ended(others)}: the cell continues from its checkpoint ({error})") from error
    finally:
        over.set()
        for other in others:
            if other.pid is not None:
                other.kill()
                other.join()
        _leave()


def _join(rank: Rank, device: str, follow: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The whole life of another process."""
    end_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the leader saves, and ends it
    try:
        follow(rank, device, *arguments)
    finally:
        _leave()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _watch(others: Sequence[SpawnProcess], over: threading.Event) -> None:
    """Ends a worker whose companion has died while it waits for it on a GPU, where no error would ever come."""
    waiting = list(others)
    while waiting and not over.is_set():
        wait([other.sentinel for other in waiting], timeout=1.0)
        if any(other.exitcode for other in waiting) and multiprocessing.parent_process() is not None:
            if not over.wait(FAREWELL_SECONDS):
                os._exit(1)
            return
        waiting = [other for other in waiting if other.exitcode is None]


def _who_ended(others: Sequence[SpawnProcess]) -> str:
    for other in others:
        other.join(1.0)
    codes = [f"{other.name} with exit code {other.exitcode}" for other in others if other.exitcode]
    return f"of the processes that trained one cell ended {', '.join(codes) or 'none, but their connection'}"


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a companion could not be reached; gloo's errors have no class of their own."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
