"""Real processes: started as a shell starts them, waited for, and looked at through /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def start_run(*arguments: str) -> subprocess.Popen[bytes]:
    """`study run` in a session of its own."""
    command = [sys.executable, "-c", "from studies.__main__ import main; main()", "run", *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> str:
    """What a process printed, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()
    return output.decode()


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 300
) -> None:
    """Waits for something to happen, and no longer than `process` runs if there is one to do it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        if process is not None and process.poll() is not None:
            output, _ = process.communicate()
            raise AssertionError(f"the process ended first: {(output or b'').decode()}")
        time.sleep(0.005)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process of `start_run` and to all it started at once; returns when they have let go of their files.

    That they have closed what they print to says too little: a process frees its locks a moment later.
    """
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not members(process.pid))


def members(session: int) -> list[int]:
    """Running processes of a session: of one that was started with `start_new_session`, and of all it started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def is_deaf(process: int, number: int) -> bool:
    """Whether a process ignores or blocks a signal, or has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return True
    masks = {line.partition(":")[0]: line.partition(":")[2] for line in lines}
    return any(int(masks[name], 16) >> (number - 1) & 1 for name in ("SigBlk", "SigIgn"))
