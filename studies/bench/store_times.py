"""How long the verbs that read a store take, and how much memory: each in its own process, as a person calls it.

What a second process of a verb takes is counted: its time, and its peak as if it were at the same moment.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from .made_store import made_plan, make_store

LARGE, SMALL = "large", "small"
VERBS = ("status", "export", "report")
REPLICATES = 10
"""Of the small study, whose cells are cells of the large one too: 5 arms, 10 sizes."""

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
peak = own.ru_maxrss  # where a program replaced another, that one's too
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
except (OSError, StopIteration):
    pass
cpu_seconds = sum(one.ru_utime + one.ru_stime for one in (own, others))
told = dict(code=code, seconds=time.monotonic() - began, cpu_seconds=cpu_seconds)
print(json.dumps(told | dict(peak_bytes=1024 * (peak + others.ru_maxrss))), file=answer)
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
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    if told.pop("code"):
        raise RuntimeError(f"study {verb} {study} failed: {ended.stderr}")
    return told | {"seconds": time.monotonic() - began}  # with the start of the interpreter


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
