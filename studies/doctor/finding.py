"""One finding: what was looked at, what is true of it, and what a person should do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["fine", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: subject and what was looked at, such as `store: locks`.
        level: `broken`: studies cannot run, or results are lost or wrong; `warning`: they can, with a loss.
        found: what is true.
        advice: what to do; empty where nothing is to do.
    """

    check: str
    level: Level
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"check": self.check, "level": self.level, "finding": self.found, "advice": self.advice}


Findings = Iterable[Finding]
Check = Callable[[], Findings]


def fine(check: str, found: str, advice: str = "") -> Finding:
    """Nothing has to be done."""
    return Finding(check, "fine", found, advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """A study runs, but slower, less safely or with something missing."""
    return Finding(check, "warning", found, advice)


def broken(check: str, found: str, advice: str) -> Finding:
    """A study cannot run, or something it left is damaged."""
    return Finding(check, "broken", found, advice)


def carried_out(name: str, check: Check) -> list[Finding]:
    """What a check finds; one that fails itself is a finding too.

    Args:
        name: what stands in the column of checks if it fails.
        check: a function without arguments.
    """
    found: list[Finding] = []
    try:
        found.extend(check())
    except (Exception, SystemExit) as error:  # a library that is broken may raise anything
        told = f"this could not be checked ({type(error).__name__}: {first_line(error)})"
        found.append(broken(name, told, "mend what the message names; other findings may say why"))
    return found


def first_line(error: BaseException | str) -> str:
    """The first line of a message, whatever it is; printable."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else "no message"


def printable(name: object) -> str:
    """A name from disk or a message of a library, without anything that moves a terminal's cursor."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(name))


def some(names: list[str], most: int = 3) -> str:
    """The first few of many names."""
    shown = ", ".join(map(printable, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
