"""Trying things in other processes, where a crash, a hang or a flood of messages costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .finding import printable

MARK = "finding:"
PATIENCE_SECONDS = 180.0  # a first import of torch from a cold disk takes minutes


@dataclass(frozen=True)
class Answer:
    """What a child process told.

    Attributes:
        lines: what it told, as JSON, in order; all of it where it died.
        problem: how it ended, where it did not end well.
    """

    lines: tuple[Mapping[str, Any], ...]
    problem: str


def ask(program: str, *arguments: str, patience: float = PATIENCE_SECONDS) -> Answer:
    """Runs a program that prints lines of `MARK` and JSON.

    Args:
        program: Python; nothing of the working folder is imported by it.
        arguments: its own.
        patience: seconds after which it is killed.
    """
    command = [sys.executable, "-P", "-c", program, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    with process:
        try:
            out, err = process.communicate(timeout=patience)
            problem = _ending(process.returncode, err)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            problem = f"it did not end within {patience:g} s"
    told = [line.partition(MARK)[2] for line in out.splitlines() if MARK in line]
    return Answer(tuple(json.loads(line) for line in told), problem)


def _ending(code: int, err: str) -> str:
    if code == 0:
        return ""
    last = printable((err.strip().splitlines() or [""])[-1])
    return f"signal {-code}" if code < 0 else last or f"exit code {code}"
