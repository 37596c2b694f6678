"""Help is read in terminals of any width: its paragraphs are wrapped there, not where the source has its line ends."""

from __future__ import annotations

import itertools
import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from studies.cli import app

COMMANDS = [
    *(path for path in sorted(get_command(app).commands) if path != "bench"),  # type: ignore[attr-defined]
    *(f"bench {name}" for name in sorted(get_command(app).commands["bench"].commands)),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_paragraphs_fill_the_terminal(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word that begins a line would have had room on the line before."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)  # which is asked for once, when it is first loaded
    printed = CliRunner().invoke(app, [*command.split(), "--help"]).output
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed).partition("╭")[0]
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip() and "Usage:" not in part]
    assert paragraphs
    for part in paragraphs:
        for line, following in itertools.pairwise(part.splitlines()):
            assert len(line.rstrip()) + 1 + len(following.split()[0]) > width - 2, (line, following)
