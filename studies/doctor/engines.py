"""What an engine needs beyond this machine: its library, its commands and an answer from its controller."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..counts import counted
from .finding import Finding, broken, fine, first_line, warning
from .folder import IN_MEMORY, mount_of, nearest

EngineName = Literal["local", "slurm", "ray"]
SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scancel")
PATIENCE_SECONDS = 20.0


def engine(kind: EngineName, root: Path) -> Iterator[Finding]:
    """What stands between an engine and its first job.

    Args:
        kind: of the engine.
        root: of the store, which all machines must see.
    """
    if kind == "slurm":
        yield from _library("slurm", "submitit")
        yield from _slurm()
        yield from _shared(root, kind)
    elif kind == "ray":
        yield from _library("ray", "ray")
        address = os.environ.get("RAY_ADDRESS")
        yield fine("engine: cluster", f"RAY_ADDRESS is {address}" if address else "RAY_ADDRESS is not set")
        yield from _shared(root, kind)


def _library(extra: str, name: str) -> Iterator[Finding]:
    check = f"engine: {name}"
    try:
        yield fine(check, f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        yield broken(check, f"{name} is not installed", f"pip install -e '.[{extra}]' in the checkout")


def _slurm() -> Iterator[Finding]:
    check = "engine: controller"
    if missing := [name for name in SLURM_COMMANDS if shutil.which(name) is None]:
        yield broken(check, f"not on PATH: {', '.join(missing)}", "run this on a node that may submit jobs")
        return
    command = ["sinfo", "--noheader", "--format", "%P %a %D %t"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        yield broken(check, f"sinfo fails ({first_line(error.stderr)})", "ask whoever runs the cluster")
    except (OSError, subprocess.TimeoutExpired) as error:
        yield broken(check, f"sinfo does not answer ({first_line(error)})", "is the controller running?")
    else:
        yield fine(check, f"it answers; {counted(len(answer.stdout.splitlines()), 'group')} of nodes")


def _shared(root: Path, kind: EngineName) -> Iterator[Finding]:
    check, mount = "engine: store", mount_of(nearest(root))
    if mount.kind in IN_MEMORY:
        told = f"the store is on {mount.kind} at {mount.point}, which other machines do not see"
        yield warning(check, told, f"{kind} needs a folder that all of its machines share, unless it has only this one")
    else:
        yield fine(check, f"on {mount.kind} at {mount.point}", "every machine must see it under the same path")
