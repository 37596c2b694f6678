"""The help of a verb: paragraphs that fill the terminal, whatever its width."""

from __future__ import annotations

import inspect

from typer import Typer


def fill_paragraphs(app: Typer) -> None:
    """Gives every verb of a command line, and of those within it, help whose lines end where the terminal does.

    Docstrings have their lines broken for the width of the source, and typer keeps that but in a first paragraph.
    """
    for verb in app.registered_commands:
        text = verb.help or inspect.getdoc(verb.callback) or ""
        verb.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            fill_paragraphs(group.typer_instance)
