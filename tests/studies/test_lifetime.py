"""A process that ends with its parent does so even where nobody could tell it to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import multiprocessing, os, time
from studies.lifetime import end_with_parent

def stay(name):
    end_with_parent()
    with open(name, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    import sys
    process = multiprocessing.get_context("spawn").Process(target=stay, args=(sys.argv[1],))
    process.start()
    process.join()
"""


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, note = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(note)])
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = Path("/proc") / note.read_text()
    assert child.exists()
    parent.kill()
    parent.wait()
    try:
        deadline = time.monotonic() + 20
        while child.exists() and child.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, "it stays behind"
            time.sleep(0.05)
    finally:
        if child.exists():
            os.kill(int(child.name), signal.SIGKILL)
