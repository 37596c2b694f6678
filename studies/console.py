"""Where the command line writes to, and the options that several of its verbs share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

# Tables are as wide as the terminal; in a file or a pipe, wide enough for all of their columns.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True, highlight=False)

StoreOption = Annotated[Path, typer.Option(help="Results folder.", envvar="INDUCTIVE_BIAS_STORE")]
ConfigDirOption = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads this form
    typer.Option(help="Folder with your own study/, data/, ... files, laid out as configs/."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def print_json(content: object) -> None:
    """Plain values, to standard output."""
    print(json.dumps(content, indent=2, default=str))
