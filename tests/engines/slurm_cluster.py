"""A Slurm cluster of two nodes on this machine: real daemons where they are installed, stand-ins for them elsewhere."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
STAND_IN = Path(__file__).with_name("slurm_stand_in.py")
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=30
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not_real() -> str:
    """Why no daemons can be started here; empty if they can."""
    if missing := [name for name in DAEMONS if _found(name) is None]:
        return f"{missing[0]} is not installed (apt-get install slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "daemons of Slurm are started by root only"


@contextlib.contextmanager
def real_cluster() -> Iterator[None]:
    """Daemons of their own, whose commands the environment points to."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the name of a socket may have 108 letters
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    folder.chmod(0o755)
    ports = _free_ports(3)
    host = socket.gethostname().partition(".")[0]
    names = {"host": host, "folder": folder, "port": ports[0], "first": ports[1], "second": ports[2]}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**names))
    munged = [f"--{name}={folder}/munge.{end}" for name, end in MUNGE_FILES.items()]
    commands = [
        ["munged", "--foreground", "--force", *munged],
        ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        *(["slurmd", "-D", "-f", f"{folder}/slurm.conf", "-N", node] for node in ("node1", "node2")),
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch, (folder / "daemons.log").open("wb") as log:
        patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        try:
            for command in commands:
                path = _found(command[0])
                assert path is not None
                daemons.append(subprocess.Popen([path, *command[1:]], stdout=log, stderr=subprocess.STDOUT))
                if command[0] == "munged":
                    _wait_for(lambda: (folder / "munge.socket").exists(), log.name)
            _wait_for(lambda: _says(["sinfo", "-h", "-o", "%T %D"]) == "idle 2", log.name)
            yield
        finally:
            subprocess.run(["scancel", "--user=root"], check=False, timeout=20)
            with contextlib.suppress(AssertionError):
                _wait_for(lambda: not _says(["squeue", "-h"]), log.name)
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in reversed(daemons):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(timeout=20)
                daemon.kill()
                daemon.wait()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def stand_in_cluster() -> Iterator[None]:
    """Small programs under the names of Slurm's, which run the jobs here and at once."""
    folder = Path(tempfile.mkdtemp(prefix="stand-in-"))
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {name} "$@"\n')
        (folder / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        patch.setenv("STAND_IN_JOBS", str(folder))
        try:
            yield
        finally:
            for array in {path.name.split("_")[0] for path in folder.glob("*_*.state")}:
                subprocess.run([folder / "scancel", array], check=False)
            time.sleep(0.5)
            shutil.rmtree(folder, ignore_errors=True)


MUNGE_FILES = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}


def _found(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _says(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _wait_for(condition: object, log: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"the cluster did not come up: {Path(log).read_text()[-2000:]}")
        time.sleep(0.2)
