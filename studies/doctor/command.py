"""`study doctor`: what stands between this machine and a study, in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from studies.console import JsonOption, StoreOption, out, print_json
from studies.counts import counted
from studies.errors import ExitCode

from .engines import EngineName
from .examination import examine
from .finding import Finding, Level

STYLES: dict[Level, str] = {"fine": "green", "warning": "yellow", "broken": "bold red"}


def doctor(
    store: StoreOption = Path("results"),
    engine: Annotated[EngineName, typer.Option(help="Engine to look after as well.")] = "local",
    as_json: JsonOption = False,
) -> None:
    """Check machine, installation, store, data cache and W&B settings, and say what to do.

    Nothing is trained, changed or sent. Exit code 0 where all is fine or has a warning, 3 where something is broken.
    """
    found = list(examine(store, engine))
    counts = Counter(one.level for one in found)
    if as_json:
        print_json({"counts": counts, "findings": [one.to_json() for one in found]})
    else:
        out.print(_table(found))
        told = f"{counted(counts['warning'], 'warning')}, {counts['broken']} broken"
        out.print(Text(f"{counted(len(found), 'finding')}: {told}", style="bold red" if counts["broken"] else "bold"))
    raise SystemExit(ExitCode.INCOMPLETE if counts["broken"] else ExitCode.OK)


def _table(found: Sequence[Finding]) -> Table:
    table = Table("check", "", "finding", "what to do")
    table.columns[2].overflow = table.columns[3].overflow = "fold"
    for one in found:
        table.add_row(one.check, Text(one.level, style=STYLES[one.level]), Text(one.found), Text(one.advice))
    return table
