"""All weights of a lane in one row: one kernel updates every weight of every lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

_ALIGNMENT = 64  # elements; matrix products want their operands on 128-byte borders


@dataclass(frozen=True)
class Place:
    """Where a parameter of a solo network lies in a row: its first column, shape and strides."""

    start: int
    shape: torch.Size
    strides: tuple[int, ...]


class RowLayout:
    """Places of named parameters in rows ``[L, columns]``, one row for each lane, with gaps that keep them aligned.

    Args:
        parameters: name -> one lane's parameter, in the order of the columns; its memory format is kept.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.places: dict[str, Place] = {}
        self.num_columns = 0
        for name, parameter in parameters:
            strides = torch.empty_like(parameter, device="meta", memory_format=torch.preserve_format).stride()
            self.places[name] = Place(self.num_columns, parameter.shape, strides)
            self.num_columns += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT

    def of_lane(self, rows: torch.Tensor, name: str, lane: int) -> torch.Tensor:
        """View of a parameter in the row of one lane, in the solo network's shape."""
        place = self.places[name]
        return rows.as_strided(place.shape, place.strides, lane * rows.stride(0) + place.start)

    def of_all(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        """View of a parameter in all rows, ``[L, ...]``."""
        place = self.places[name]
        return rows.as_strided((len(rows), *place.shape), (rows.stride(0), *place.strides), place.start)

    def view(self, rows: torch.Tensor, name: str, lane: int | None) -> torch.Tensor:
        """View of a parameter in one row, or in all rows for lane None."""
        return self.of_all(rows, name) if lane is None else self.of_lane(rows, name, lane)

    def lane_views(self, rows: torch.Tensor, lane: int) -> Mapping[str, torch.Tensor]:
        """Every parameter of one lane by name."""
        return {name: self.of_lane(rows, name, lane) for name in self.places}
