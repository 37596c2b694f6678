"""A table of the command line in which names stay whole, however narrow the terminal is."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table


class NameTable(Table):
    """A table that cuts no name: a name is what one types next.

    Where the terminal is too narrow, columns that can be missed are left out first; the others are then wrapped,
    between words as long as that suffices. Only names that do not fit by themselves are broken.

    Args:
        headers: of all columns.
        names: the headers of those that hold names.
        expendable: the headers of those that may be left out, the first one first.
        title: above the table.
        title_justify: where it stands.
    """

    def __init__(
        self,
        *headers: str,
        names: Sequence[str] = ("arm",),
        expendable: Sequence[str] = (),
        title: str | None = None,
        title_justify: str = "center",
    ) -> None:
        columns = [Column(header, overflow="fold", no_wrap=header in names) for header in headers]
        super().__init__(*columns, title=title, title_justify=title_justify)  # type: ignore[arg-type]
        self.names, self.expendable = tuple(names), tuple(expendable)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Fits the table into the width there is."""
        fitted = copy.copy(self)
        fitted.columns = [copy.copy(column) for column in self.columns]
        for header in self.expendable:
            if sum(one.minimum for one in fitted._measured(console, options)) <= fitted._room(options):
                break
            fitted.columns = [column for column in fitted.columns if column.header != header]
        measured, room = fitted._measured(console, options), fitted._room(options)
        if sum(one.maximum for one in measured) > room:
            for column, width in zip(fitted.columns, fitted._widths(measured, room), strict=True):
                column.width = width
        yield from super(NameTable, fitted).__rich_console__(console, options)

    def _room(self, options: ConsoleOptions) -> int:
        """Characters for the content of all columns, with their padding."""
        return options.max_width - self._extra_width

    def _measured(self, console: Console, options: ConsoleOptions) -> list[Measurement]:
        return [self._measure_column(console, options, column) for column in self.columns]

    def _widths(self, measured: Sequence[Measurement], room: int) -> list[int]:
        """Widths of the content of columns: names in full, and of the others at least their longest word."""
        padding = 2
        named = [column.header in self.names for column in self.columns]
        least = [one.maximum if name else one.minimum for one, name in zip(measured, named, strict=True)]
        spare = room - sum(least)
        if spare >= 0:
            wanted = [one.maximum - own for one, own in zip(measured, least, strict=True)]
            return [
                own + spare * more // max(1, sum(wanted)) - padding for own, more in zip(least, wanted, strict=True)
            ]
        others = sum(own for own, name in zip(least, named, strict=True) if not name)
        left = max(0, room - (sum(least) - others))
        return [
            max(1, (own if name else own * left // others) - padding) for own, name in zip(least, named, strict=True)
        ]
