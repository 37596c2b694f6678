"""There is one array of a study in the queue, wherever the launcher that submits it is killed."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from processes import wait_until
from slurm_launcher import array_id, cancel, engine, run_all, states

from studies.engines import slurm_array
from studies.errors import StoreError
from studies.store import Store

pytestmark = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")

LAUNCHER = """
import sys
sys.path[:0] = sys.argv[2:]
from slurm_launcher import engine, run_all
from studies.store import Store
run_all(engine(Store(sys.argv[1])))
"""
AFTERWARDS = '{sbatch} "$@" > {folder}/said; kill -9 $PPID'
MEANWHILE = 'kill -9 $PPID; while [ ! -e {folder}/go ]; do sleep 0.02; done; {sbatch} "$@" > {folder}/said'


def killed_by_sbatch(store: Store, how: str, folder: Path) -> None:
    """Runs a launcher that is killed with -9 by the `sbatch` it has called.

    Args:
        how: shell commands in the place of `sbatch`.
    """
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text("#!/bin/sh\n" + how.format(sbatch=shutil.which("sbatch"), folder=folder))
    script.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    here = Path(__file__).parent
    nowhere = subprocess.DEVNULL  # what stands for `sbatch` outlives the launcher, and would hold a pipe open
    command = [sys.executable, "-c", LAUNCHER, str(store.root), str(here), str(here.parent / "studies")]
    ended = subprocess.run(command, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_killed_once_the_array_is_submitted_and_before_it_is_noted(either: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    killed_by_sbatch(store, AFTERWARDS, tmp_path / "bin")
    again = engine(store, detach=True)
    run_all(again)
    submitted = (tmp_path / "bin" / "said").read_text().split()[-1]
    assert again.told[0] == f"Slurm array {submitted} of this study is queued or running: no other is submitted"
    assert states(store) == {f"{submitted}_0": "PENDING", f"{submitted}_1": "PENDING"}
    cancel(store)


def asks_again(waits: threading.Event) -> Callable[[IO[bytes], int], None]:
    """A `flock` that tells when it has to wait."""
    flock = fcntl.flock

    def asked(file: IO[bytes], how: int) -> None:
        while True:
            try:
                return flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                waits.set()
                time.sleep(0.01)

    return asked


def test_killed_while_the_array_is_submitted_the_next_launcher_waits_for_it(
    either: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "bin"
    killed_by_sbatch(store, MEANWHILE, folder)
    waits, again = threading.Event(), engine(store, detach=True)
    monkeypatch.setattr(slurm_array.fcntl, "flock", asks_again(waits))
    with ThreadPoolExecutor() as threads:
        run = threads.submit(run_all, again)
        try:
            wait_until(lambda: waits.is_set() or run.done())
        finally:
            (folder / "go").touch()
        run.result()
    assert "no other is submitted" in again.told[0]
    assert array_id(store) == (folder / "said").read_text().split()[-1]
    cancel(store)


def test_an_array_that_nobody_knows_of_any_more_is_not_waited_for(either: str, tmp_path: Path) -> None:
    """Killed before `sbatch` did anything; and after an array whose jobs have ended since."""
    store = Store(tmp_path / "store")
    killed_by_sbatch(store, "kill -9 $PPID", tmp_path / "bin")
    for _ in range(2):
        again = engine(store, detach=True)
        run_all(again)
        assert "2 tasks submitted" in again.told[0]
        cancel(store)
        wait_until(lambda: set(states(store).values()) == {"CANCELLED"})


@pytest.mark.parametrize("content", ["", "[]", "7", '"submitting_as"', '{"array_id": "7"}'])
def test_a_note_that_says_nothing_is_refused(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    made = engine(Store(tmp_path))
    note = made._folder / "array.json"
    note.parent.mkdir(parents=True)
    note.write_text(content)
    with pytest.raises(StoreError, match=r"array.json does not say which jobs .* then remove the file"):
        run_all(made)


def test_nothing_is_submitted_where_its_name_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        assert "submitting_as" in json.loads(text)
        raise StoreError("no space left")

    monkeypatch.setattr("studies.engines.slurm.check_slurm", lambda store: None)
    monkeypatch.setattr(slurm_array, "write_text", full)
    monkeypatch.setattr(slurm_array.StudyArray, "_submitted", lambda self, tasks, name: pytest.fail("submitted"))
    with pytest.raises(StoreError, match="no space left"):
        run_all(engine(Store(tmp_path)))
