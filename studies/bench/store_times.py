"""How long the verbs that read a store take, and how much memory: each in its own process, as a person calls it.

What a second process of a verb takes is counted: its time, and its memory at the same moment. Memory is what the
processes hold, a page that several share counted once (PSS), looked up twice a second.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.table import Table

from .made_store import made_plan, make_store

LARGE, SMALL = "large", "small"
VERBS = ("status", "export", "report")
REPLICATES = 10
"""Of the small study, whose cells are cells of the large one too: 5 arms, 10 sizes."""

LOOK_SECONDS = 0.5  # each look takes some hundredths itself

_MEASURED = """
import json, os, resource, sys, time
began = time.monotonic()
answer, sys.argv = os.fdopen(os.dup(1), "w"), ["study", *sys.argv[1:]]
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
from studies.__main__ import main
code = 0
try:
    main()
except SystemExit as ended:
    code = int(ended.code or 0)
own, others = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu_seconds = sum(one.ru_utime + one.ru_stime for one in (own, others))
print(json.dumps(dict(code=code, seconds=time.monotonic() - began, cpu_seconds=cpu_seconds)), file=answer)
"""


def time_store(
    num_records: int,
    folder: Path,
    *,
    studies: Sequence[str] = (SMALL, LARGE),
    verbs: Sequence[str] = VERBS,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Makes a store and times every verb on a study of some of its records, and on one of all.

    Args:
        num_records: made; a multiple of 80.
        folder: for the store and what is exported.
        studies: of which size the studies are that are read.
        verbs: of the command line.
        report: called with what is being done.

    Raises:
        ValueError: the number of records is no multiple of 80.
    """
    if num_records % 80 or not num_records:
        raise ValueError(f"{num_records} records: expected a multiple of 80 (8 arms at 10 sizes)")
    report(f"making {num_records:,} records")
    store = make_store(folder / "store", made_plan(LARGE, arms=8, sizes=10, replicates=num_records // 80))
    small = made_plan(SMALL, arms=5, sizes=10, replicates=min(REPLICATES, num_records // 80))
    store.lock_plan(small)
    cells = {LARGE: num_records, SMALL: len(small.cells)}
    measured: list[dict[str, Any]] = []
    for study in studies:
        for verb in verbs:
            one: dict[str, Any] = {
                "study": study,
                "cells": cells[study],
                "verb": verb,
                **_timed(verb, study, store.root, folder),
            }
            report(f"{verb} of {cells[study]:,} cells: {one['seconds']:.1f} s, {one['peak_bytes'] / 1e6:.0f} MB")
            measured.append(one)
    return {
        "records": num_records,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "measured": measured,
    }


def _timed(verb: str, study: str, store: Path, folder: Path) -> Mapping[str, float]:
    more = ["--output", str(folder / "exported")] if verb == "export" else []
    command = [sys.executable, "-c", _MEASURED, verb, study, "--store", str(store), *more]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as verbal:
        with _peak_of(verbal.pid) as peak:
            printed, complaint = verbal.communicate()
        seconds = time.monotonic() - began  # with the start of the interpreter
    told: dict[str, float] = json.loads(printed.splitlines()[-1]) if printed else {"code": verbal.returncode}
    if told.pop("code"):
        raise RuntimeError(f"study {verb} {study} failed: {complaint}")
    return told | {"seconds": seconds, "peak_bytes": peak[0]}


@contextmanager
def _peak_of(process: int) -> Iterator[list[int]]:
    """The most bytes that a process and all it began held at one moment while the context lasted."""
    peak, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            peak[0] = max(peak[0], sum(map(_held_by, _family_of(process))))

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()


def _family_of(process: int) -> Iterator[int]:
    yield process
    with suppress(OSError):  # it has ended
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield from _family_of(int(child))


def _held_by(process: int) -> int:
    """Bytes in memory; of what several processes share, this one's part."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def time_in_scratch(num_records: int, folder: Path | None, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """As `time_store`, in a folder that is removed afterwards where none is given."""
    if folder is not None:
        return time_store(num_records, folder, **options)
    with tempfile.TemporaryDirectory(prefix="study-bench-store-") as scratch:
        return time_store(num_records, Path(scratch), **options)


def store_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """The same for people."""
    title = (
        f"a store of {result['records']:,} records, {result['cores']} cores, load average "
        f"{result['load_average']:.1f} at the end"
    )
    table = Table("cells", "verb", "seconds", "CPU seconds", "peak memory, MB", title=title)
    for one in result["measured"]:
        numbers = f"{one['seconds']:.1f}", f"{one['cpu_seconds']:.1f}", f"{one['peak_bytes'] / 1e6:,.0f}"
        table.add_row(f"{one['cells']:,}", one["verb"], *numbers)
    yield table
