"""A study of one cell, and its result where nothing went wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from held import SETTINGS
from training import train

from studies.grid import Plan
from studies.records import DETERMINISTIC_COLUMNS, Record, records_frame
from studies.store import Store


@dataclasses.dataclass(frozen=True)
class Small:
    """A plan of one cell, and its record where nothing disturbed it."""

    plan: Plan
    record: Record

    def train(self, folder: Path) -> Record:
        """Trains the cell, or continues it."""
        with Store(folder).lock(self.plan.cells[0].id) as mine:
            assert mine, "somebody has its lock"
            return train(self.plan.cells[0], self.plan, folder, SETTINGS)

    def assert_same(self, record: Record) -> None:
        """That a record is, column by column, that of the undisturbed run, its predictions too."""
        assert deterministic(record) == deterministic(self.record)
        assert record.train_losses == self.record.train_losses
        assert record.predictions_sha256 == self.record.predictions_sha256


def deterministic(record: Record) -> list[dict[Any, Any]]:
    """Its rows, of all that is a function of the cell."""
    frame = records_frame([record])[list(DETERMINISTIC_COLUMNS)]
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
