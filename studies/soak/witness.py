"""What must never be seen while a study runs under faults: looked for many times a second, from outside."""

from __future__ import annotations

import re
from pathlib import Path

from studies.engines.worker import TAKES_UP

from .processes import holds_open

BEGUN = re.compile(rf"process (\d+) {TAKES_UP} ")


class Witness:
    """Watches a store.

    Attributes:
        looks: how often it has looked.
        problems: what it has seen, a sentence each.
    """

    def __init__(self, store: Path) -> None:
        self._cells = store.resolve() / "cells"
        self._sizes: dict[Path, int] = {}
        self._begun: dict[Path, list[int]] = {}
        self._records: dict[Path, tuple[int, int, int]] = {}
        self.looks = 0
        self.problems: list[str] = []

    def look(self) -> None:
        """Notes every record and every process that has taken a cell up, and whether two of them have it now."""
        self.looks += 1
        if not self._cells.is_dir():
            return
        for folder in self._cells.iterdir():
            self._look_at_record(folder / "record.json")
            self._look_at_trainers(folder)

    def num_begun(self) -> int:
        """How often a process took a cell up."""
        return sum(len(pids) for pids in self._begun.values())

    def _look_at_record(self, path: Path) -> None:
        try:
            found = path.stat()
        except FileNotFoundError:
            if self._records.pop(path, None) is not None:
                self.problems.append(f"the record of cell {path.parent.name} was there and is gone")
            return
        now = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._records.setdefault(path, now) != now:
            self.problems.append(f"the finished record of cell {path.parent.name} was written again")
            self._records[path] = now

    def _look_at_trainers(self, folder: Path) -> None:
        """A process trains a cell from the line in the log that says so for as long as it has the cell's lock open.

        An ending process lets go of the file before the lock is free, so two at once are two that train it.
        """
        log = folder / "log.txt"
        try:
            size = log.stat().st_size
        except FileNotFoundError:
            return
        if self._sizes.get(log) != size:
            self._sizes[log] = size
            self._begun[folder] = [int(pid) for pid in BEGUN.findall(log.read_text(errors="replace"))]
        if (folder / "record.json").exists():
            return
        training = [pid for pid in dict.fromkeys(self._begun.get(folder, ())) if holds_open(pid, folder / "lock")]
        if len(training) > 1:
            self.problems.append(f"processes {', '.join(map(str, training))} trained cell {folder.name} at once")
