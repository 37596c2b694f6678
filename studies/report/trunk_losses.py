"""Training losses of the trunks of a study, gathered record by record: of thousands the records need not be kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from studies.records import Record, arm_of, size_of


@dataclass(frozen=True)
class _Trace:
    """What one cell adds: its labels, and its losses [n] at training FLOPs [n]."""

    arm: str
    family: str
    variant: str
    size: int
    train_flops: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


class TrunkLosses:
    """Finite losses before any cooldown, by cell.

    Args:
        tier: the study's, which the names of arms do not mention.
        x: which size tells the cells apart.
    """

    def __init__(self, tier: str | None = None, x: str = "num_train") -> None:
        self._tier, self._x = tier, x
        self._traces: dict[str, _Trace] = {}

    def __len__(self) -> int:
        """Cells that have any."""
        return len(self._traces)

    @classmethod
    def joined(cls, parts: Iterable[TrunkLosses]) -> TrunkLosses:
        """Those of all parts."""
        every = cls()
        for part in parts:
            every._traces |= part._traces
        return every

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records one by one, each looked at on its way."""
        for record in records:
            self.add(record)
            yield record

    def add(self, record: Record) -> None:
        """Takes up what a record says of its trunk."""
        entries = [entry for entry in record.train_losses if entry.branch == 0 and math.isfinite(entry.loss)]
        if entries:
            self._traces[record.cell_id] = _Trace(
                arm_of(record.cell, self._tier),
                record.cell["family"],
                record.cell["variant"],
                size_of(record.cell, self._x),
                np.array([entry.train_flops for entry in entries], dtype=float),
                np.array([entry.loss for entry in entries], dtype=float),
            )

    def frame(self, cell_ids: Set[str]) -> pd.DataFrame:
        """`arm`, `family`, `variant`, `size`, `train_flops` and `loss`; a row per entry of the given cells."""
        traces = [self._traces[cell_id] for cell_id in sorted(self._traces) if cell_id in cell_ids]
        lengths = [len(trace.loss) for trace in traces]
        empty = [np.zeros(0)]
        return pd.DataFrame(
            {
                "arm": _labels([trace.arm for trace in traces], lengths),
                "family": _labels([trace.family for trace in traces], lengths),
                "variant": _labels([trace.variant for trace in traces], lengths),
                "size": np.repeat(np.array([trace.size for trace in traces], dtype=np.int64), lengths),
                "train_flops": np.concatenate([trace.train_flops for trace in traces] or empty),
                "loss": np.concatenate([trace.loss for trace in traces] or empty),
            }
        )


def _labels(labels: list[str], lengths: list[int]) -> pd.Categorical:
    codes, names = pd.factorize(np.array(labels, dtype=object))
    return pd.Categorical.from_codes(np.repeat(codes, lengths), categories=pd.Index(names))
