"""What lies in a store: whether every entry is one that this package makes, and none a link or a device."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from studies.counts import counted

from .finding import Finding, broken, fine, some, warning

Kind = Literal["cells", "studies", "starts", "few_shot", "probes", "again"]
KINDS: tuple[Kind, ...] = ("cells", "studies", "starts", "few_shot", "probes", "again")
ID = re.compile(r"[0-9a-f]{16}")
STUDY_ID = re.compile(r"[\w-]+\.[0-9a-f]{8}")
START = re.compile(r"[0-9a-f]{64}\.json|\..*\.tmp")
OF_CELL = re.compile(
    r"record\.json|predictions\.npz|lock|log\.txt|progress\.json|checkpoint\..*|weights-.*|record\..+-\d+\.json|\..*\.tmp"
)
OF_RESULT = re.compile(r"result\.json|arrays\.npz|lock|result\..+-\d+\.json|\..*\.tmp")
OF_STUDY = re.compile(r"plan\.json|report|wandb|tuning\.yaml|slurm|witnesses|\..*\.tmp")
NAMES: dict[str, re.Pattern[str]] = {
    "cells": ID,
    "few_shot": ID,
    "probes": ID,
    "studies": STUDY_ID,
    "starts": START,
}
INSIDE: dict[str, re.Pattern[str]] = {
    "cells": OF_CELL,
    "few_shot": OF_RESULT,
    "probes": OF_RESULT,
    "studies": OF_STUDY,
}
ASIDE = re.compile(r"(record|result)\..+-\d+\.json")


@dataclass
class Inventory:
    """Names of what was found, as paths below the store.

    Attributes:
        strange: links, pipes, sockets and devices.
        unknown: files and folders that nothing here makes.
        aside: records and results that were set aside.
        temporary: temporary files; those of a running process too.
        cells: ids of cells whose folder and record can be opened without harm.
    """

    strange: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    results: dict[str, list[str]] = field(default_factory=dict)
    studies: list[str] = field(default_factory=list)


def inventory(root: Path) -> Inventory:
    """Looks at every name of a store and opens none of its files."""
    found = Inventory()
    for entry in _entries(root):
        if _is_strange(entry, found, root):
            continue
        if entry.name not in KINDS or not entry.is_dir(follow_symlinks=False):
            found.unknown.append(entry.name)
        elif entry.name != "again":  # `study probe --train-again` works there, and links to the cells it begins from
            _look_into(entry.name, Path(entry.path), found, root)
    return found


def _look_into(kind: str, folder: Path, found: Inventory, root: Path) -> None:
    for entry in _entries(folder):
        if _is_strange(entry, found, root):
            continue
        name = os.path.relpath(entry.path, root)
        expected = entry.is_dir(follow_symlinks=False) == (kind != "starts")
        if not expected or not NAMES[kind].fullmatch(entry.name):
            found.unknown.append(name)
            continue
        if kind == "starts":
            _book(entry.name, name, found)
            continue
        if _opens_safely(kind, Path(entry.path), found, root):
            own = {"cells": found.cells, "studies": found.studies}.get(kind)
            (found.results.setdefault(kind, []) if own is None else own).append(entry.name)


def _opens_safely(kind: str, folder: Path, found: Inventory, root: Path) -> bool:
    """Books what lies in one folder; false where reading it would follow a link or wait for a pipe."""
    safe = True
    for entry in _entries(folder):
        if _is_strange(entry, found, root):
            safe = False
            continue
        name = os.path.relpath(entry.path, root)
        if INSIDE[kind].fullmatch(entry.name):
            _book(entry.name, name, found)
        else:
            found.unknown.append(name)
    return safe


def _book(own: str, name: str, found: Inventory) -> None:
    if own.endswith(".tmp"):
        found.temporary.append(name)
    elif ASIDE.fullmatch(own):
        found.aside.append(name)


def _is_strange(entry: os.DirEntry[str], found: Inventory, root: Path) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return False
    what = "link" if stat.S_ISLNK(mode) else "pipe" if stat.S_ISFIFO(mode) else "socket or device"
    found.strange.append(f"{os.path.relpath(entry.path, root)} ({what})")
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:  # another process has removed it meanwhile
        return []


def entries(found: Inventory) -> Iterator[Finding]:
    """What is told of links, unknown names and what was set aside."""
    if found.strange:
        yield broken(
            "store: links and devices",
            some(found.strange),
            "a store is made of files and folders alone: find out who put them there, then remove them",
        )
    else:
        yield fine("store: links and devices", "none")
    if found.unknown:
        told = f"{counted(len(found.unknown), 'name')} that no command makes: {some(found.unknown)}"
        yield warning("store: unknown entries", told, "they are never read; move them elsewhere")
    else:
        yield fine("store: unknown entries", "none")
    if found.aside:
        yield fine(
            "store: set aside",
            f"{counted(len(found.aside), 'file')}: {some(found.aside)}",
            "kept for you to look at; delete what you do not need",
        )
