"""The folder of decoded and generated images: where it is, how large, and whether it can grow."""

from __future__ import annotations

import os
from collections.abc import Iterator

from studies.counts import counted

from .finding import Finding, broken, fine, printable, warning
from .folder import nearest, space, writable


def data_cache() -> Iterator[Finding]:
    """The folder that the environment names, or the usual one."""
    from datamodules.cache import CACHE_VARIABLE, cache_folder
    from studies.estimate import describe_bytes

    folder = cache_folder()
    other = f"set {CACHE_VARIABLE} to another folder"
    named = os.environ.get(CACHE_VARIABLE)
    how = f"named by {CACHE_VARIABLE}" if named else f"{CACHE_VARIABLE} is not set"
    there = nearest(folder)
    if not there.is_dir():
        yield broken("data cache: folder", f"{printable(there)} is no folder ({how})", other)
        return
    if named and not folder.is_absolute():
        told = f"{printable(folder)}, {how}: another folder wherever you start"
        yield warning("data cache: folder", told, f"set {CACHE_VARIABLE} to an absolute path")
    elif not folder.exists():
        yield fine("data cache: folder", f"{printable(folder)} is not there yet ({how})")
    else:
        splits = [path.parent for path in folder.glob("*/*/split.json")]
        size = sum(file.stat().st_size for path in splits for file in path.iterdir() if file.is_file())
        told = f"{printable(folder)} ({how}): {counted(len(splits), 'split')}, {describe_bytes(size)}"
        yield fine("data cache: folder", told)
        if dead := [path for path in folder.glob("*/.*") if path.is_dir()]:
            held = sum(file.stat().st_size for path in dead for file in path.rglob("*") if file.is_file())
            told = f"{counted(len(dead), 'folder')} ({describe_bytes(held)}): {printable(dead[0])}"
            advice = "removed when the same images are decoded again; delete them while nothing runs"
            yield fine("data cache: leftovers of killed processes", told, advice)
    yield from writable("data cache: writing", there, other)
    yield from space("data cache: free space", there, other)
