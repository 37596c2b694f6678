"""All checks, in the order in which they are told; those that wait for other processes run at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from . import cache, engines, graphics, libraries, machine, mirror, packages, store
from .engines import EngineName
from .finding import Check, Finding, carried_out

WAITING = ("machine: bf16 on the CPU", "machine: GPUs", "installation: imports")
"""Checks that wait for processes of their own, seconds each."""


def checks(root: Path, engine: EngineName) -> Mapping[str, Check]:
    """Every check by the name that it has if it fails itself.

    Args:
        root: of the store.
        engine: the engine to look after.
    """
    return {
        "machine: cores": machine.cores,
        "machine: memory": machine.memory,
        "machine: instruction sets": machine.instruction_sets,
        "machine: bf16 on the CPU": machine.bf16,
        "machine: huge pages": machine.huge_pages,
        "machine: GPUs": graphics.gpus,
        "installation: malicious releases": packages.security,
        "installation: versions": packages.versions,
        "installation: libraries that fit": packages.agreement,
        "installation: leftovers of upgrades": packages.doubles,
        "installation: package names": packages.names,
        "installation: imports": libraries.libraries,
        "store": partial(store.place, root),
        "store: content": partial(store.content, root),
        "data cache": cache.data_cache,
        "W&B: settings": mirror.mirror,
        "engine": partial(engines.engine, engine, root),
    }


def examine(root: Path | str = "results", engine: EngineName = "local") -> Iterator[Finding]:
    """Carries out every check and tells what it finds; never raises.

    Args:
        root: of the store, which need not be there.
        engine: the engine to look after.
    """
    asked = checks(Path(root), engine)
    with ThreadPoolExecutor(len(WAITING)) as pool:
        waited = {name: pool.submit(carried_out, name, asked[name]) for name in WAITING}
        # The others load libraries, which one thread alone should do.
        told = {name: carried_out(name, check) for name, check in asked.items() if name not in waited}
        for name in asked:
            yield from told[name] if name in told else waited[name].result()
