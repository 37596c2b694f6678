"""The results folder as a whole: first whether it can be used at all, then what lies in it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from .entries import entries, inventory
from .finding import Finding, broken, fine, printable
from .folder import file_system, nearest, space, writable
from .lock_trial import locks

OTHER = "choose another folder with --store"


def place(root: Path) -> Iterator[Finding]:
    """Whether results can be written, locked and kept where the store is, or would be made."""
    there = nearest(root)
    named = printable(root.absolute())
    if not there.is_dir():
        kind = "a link that leads nowhere" if stat.S_ISLNK(there.lstat().st_mode) else "no folder"
        yield broken("store: folder", f"{printable(there)} is {kind}", OTHER)
        return
    if there == root.absolute():
        yield fine("store: folder", named)
    else:
        yield fine("store: folder", f"{named} is not there yet: the first run makes it")
    tried = list(writable("store: writing", there, OTHER))
    yield from tried
    yield from space("store: free space", there, OTHER)
    yield from file_system("store: file system", there, OTHER)
    if all(one.level == "fine" for one in tried):
        yield from locks(there)


def content(root: Path) -> Iterator[Finding]:
    """What lies in a store that is there."""
    if not root.is_dir():
        return
    from studies.store import Store

    from .cells import leftovers, records, running, survey
    from .plans import plans, results

    there, store = inventory(root), Store(root)
    yield from entries(there)
    cells = survey(store, there.cells)
    yield from records(cells)
    yield from running(cells)
    yield from leftovers(store, there, cells)
    yield from plans(store, there)
    yield from results(store, there)
