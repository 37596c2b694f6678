"""The state of a running study, told once a moment: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from .estimate import describe_seconds
from .grid import Plan
from .store import CellState, Store

PLAIN_SECONDS = 15.0  # between two plain lines


class StudyProgress:
    """Watches the store while an engine runs.

    Progress is counted in training FLOPs, so that a cell half done counts half and a costly one counts more.
    """

    def __init__(self, plan: Plan, store: Store, console: Console) -> None:
        self._plan, self._store, self._console = plan, store, console
        self._flops = {cell.id: cell.executed_flops for cell in plan.cells}
        self._settled: dict[str, CellState] = {}
        self._total = sum(self._flops.values())
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(plan.spec.name, total=self._total, counts="", left="")
        self._started, self._at_start = time.monotonic(), -1.0
        self._last_line = -PLAIN_SECONDS
        self._last_told = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, running: Sequence[str]) -> None:
        """Looks at the store; `running` are the cells of this launcher."""
        done = 0.0
        counts = Counter[str]()
        for cell_id, flops in self._flops.items():
            state = self._state(cell_id, running)
            counts[state] += 1
            if state in ("finished", "diverged", "invalid", "failed"):
                done += flops
            elif cell_id in running:
                progress = self._store.progress(cell_id)
                counts["starting"] += progress is None or progress.starting
                done += flops * progress.step / progress.total_steps if progress is not None else 0
        text = self._told(counts, len(running))
        left = self._time_left(done)
        self._bar.update(self._task, completed=done, counts=text, left=left)
        told = f"{text}, {done / self._total:.0%}"
        if not self._console.is_terminal and self._line_is_due(told):
            self._console.print(f"{self._plan.spec.name}: {told}{left and ', ' + left}")

    def _told(self, counts: Counter[str], num_running: int) -> str:
        """Cells by what is true of them; a diverged one is done, at chance."""
        done = f"{counts['finished'] + counts['diverged']}/{len(self._flops)} done"
        diverged = f" ({counts['diverged']} diverged)" if counts["diverged"] else ""
        starting = f" ({counts['starting']} starting)" if counts["starting"] else ""
        failed = counts["failed"] + counts["invalid"]
        return f"{done}{diverged}, {num_running} running{starting}, {failed} failed"

    def _state(self, cell_id: str, running: Sequence[str]) -> CellState:
        """A record is final, so a settled cell is read once; a running one is not read at all."""
        if cell_id in self._settled:
            return self._settled[cell_id]
        if cell_id in running:
            return "running"
        state: CellState = "waiting"
        if (self._store.cell_folder(cell_id) / "record.json").exists():
            state = self._settled[cell_id] = self._store.state(cell_id)
        return state

    def _time_left(self, done: float) -> str:
        if self._at_start < 0:
            self._at_start = done
        elapsed, progressed = time.monotonic() - self._started, done - self._at_start
        if elapsed < 5 or progressed <= 0:
            return ""
        return f"about {describe_seconds((self._total - done) / progressed * elapsed)} left"

    def _line_is_due(self, told: str) -> bool:
        now = time.monotonic()
        if told == self._last_told or now - self._last_line < PLAIN_SECONDS:
            return False
        self._last_told, self._last_line = told, now
        return True


class StagesProgress:
    """The stages or rounds of one command in turn: each is announced, then followed until the next begins."""

    def __init__(self, store: Store, console: Console) -> None:
        self._store, self._console = store, console
        self._open = ExitStack()
        self._followed: StudyProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self, stage: Plan, announcement: Iterable[RenderableType]) -> None:
        """Ends the bar of the stage before, prints what is to be said of this one, and follows it."""
        self._open.close()
        for part in announcement:
            self._console.print(part, markup=False)
        self._followed = self._open.enter_context(StudyProgress(stage, self._store, self._console))

    def update(self, running: Sequence[str]) -> None:
        """Looks at the store; `running` are the cells of this launcher."""
        if self._followed is not None:
            self._followed.update(running)
