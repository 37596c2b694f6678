"""What a report takes from the records of a study: their rows, and the training losses of their trunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pandas as pd

from studies.records import ONE_ORDER, Record, joined_rows, record_rows, records_frame

from .card import StudyCard
from .trunk_losses import TrunkLosses


@dataclass(frozen=True)
class Gathered:
    """Of all records of a study so far, failed cells included.

    Attributes:
        frame: `studies.records.records_frame`, in an order of its own.
        losses: of the trunks.
        predictions: SHA-256 of predictions by cell id, of the records that state one.
        unreadable: ids of cells whose records are there but damaged.
    """

    frame: pd.DataFrame
    losses: TrunkLosses
    predictions: dict[str, str] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The same of some records, whose rows are not yet put together.

    Attributes:
        rows: of `studies.records.record_rows`.
    """

    rows: tuple[pd.DataFrame, ...]
    losses: TrunkLosses
    predictions: dict[str, str]
    unreadable: tuple[str, ...]


def gather(records: Iterable[Record], card: StudyCard) -> Gathered:
    """Goes through the records once, and keeps none."""
    losses = TrunkLosses(card.tier, card.x)
    frame = records_frame(losses.passing(records), card.tier)
    return Gathered(joined_rows([frame], ONE_ORDER), losses)


def gather_part(records: Iterable[Record], tier: str, x: str, unreadable: list[str]) -> Part:
    """The same of some of the records.

    Args:
        records: those of cells in `unreadable` are not among them once all are read.
        tier: the study's.
        x: what its curves run over.
        unreadable: ids of cells.
    """
    losses, predictions = TrunkLosses(tier, x), dict[str, str]()
    rows = tuple(record_rows(losses.passing(_noted(records, predictions)), tier))
    return Part(rows, losses, predictions, tuple(unreadable))


def _noted(records: Iterable[Record], predictions: dict[str, str]) -> Iterator[Record]:
    """The records as they are; what each states of its predictions is known once it has passed."""
    for record in records:
        if record.predictions_sha256:
            predictions[record.cell_id] = record.predictions_sha256
        yield record


def together(parts: Iterable[Part]) -> Gathered:
    """What `gather` gives of the records of all parts; the parts are used up."""
    parts = list(parts)
    return Gathered(
        joined_rows([rows for part in parts for rows in part.rows], ONE_ORDER),
        TrunkLosses.joined([part.losses for part in parts]),
        {cell_id: stated for part in parts for cell_id, stated in part.predictions.items()},
        tuple(cell_id for part in parts for cell_id in part.unreadable),
    )
