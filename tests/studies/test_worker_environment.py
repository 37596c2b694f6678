"""What workers inherit: one thread, and memory that is kept between steps."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, multiprocessing, os, resource
from studies.engines import local

def child(connection):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GLIBC_TUNABLES")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        touched = b"x" * (64 << 20)
        del touched
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    connection.send({name: os.environ.get(name) for name in names} | {"faults": faults})

if __name__ == "__main__":
    local.PRELOADED = "json"
    before = dict(os.environ)
    local.warm_up()
    assert dict(os.environ) == before
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(theirs,))
    process.start()
    print(json.dumps(ours.recv()))
    process.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's allocator")
def test_workers_have_one_thread_and_keep_their_memory(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    own = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=dict(os.environ) | own, timeout=120
    )
    seen = json.loads(result.stdout)
    assert {seen[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS")} == {"1"}
    assert seen["GLIBC_TUNABLES"].endswith(":glibc.malloc.arena_max=2")  # the user's own setting has the last word
    assert seen["faults"] < 1000  # 16,384 pages are touched; memory that was handed back faults on each
