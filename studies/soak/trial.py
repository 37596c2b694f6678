"""One trial: a study on a fresh store, under faults, its command repeated until it is done."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.errors import ExitCode
from studies.store import Store

from .faults import FAULTS, Scene, draw
from .processes import survivors
from .verdict import differences, is_done, leftovers, untruths
from .witness import Witness

LOOK_SECONDS = 0.03  # between two looks of the witness
END_LOOK_SECONDS = 0.2  # between two looks whether all have ended
END_SECONDS = 120.0  # in which every process has to be gone after its launcher; a busy machine ends them slowly
FIRST_LAUNCHERS = 2  # at once: each finds the cells of the other locked, from the first cell of every trial on
MOST_STARTS = 200  # of the command in one trial, after which it is given up
ENDS = frozenset({ExitCode.OK, ExitCode.INCOMPLETE})
"""Exit codes with which a launcher may end by itself: done, or a cell's worker has died too often under this call."""


@dataclass
class Trial:
    """What became of a study under faults.

    Attributes:
        faults: how often each was injected.
        kills: processes, or whole sessions, that were ended.
        launchers: how often the command was given.
        taken_up: how often a process began or continued a cell.
        looks: of the witness.
        problems: what should not be, a sentence each; none where all held.
    """

    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    launchers: int = 0
    taken_up: int = 0
    looks: int = 0
    problems: list[str] = field(default_factory=list)


def command(arguments: Sequence[str], store: Path) -> list[str]:
    """`study run` in this interpreter."""
    return [sys.executable, "-m", "studies", "run", *arguments, "--store", str(store)]


class _Launchers:
    """The launchers of one trial, each in a session of its own."""

    def __init__(self, arguments: Sequence[str], store: Path, outputs: Path) -> None:
        self._command, self._outputs = command(arguments, store), outputs
        self.all: dict[int, subprocess.Popen[bytes]] = {}
        self.signals: dict[int, list[int]] = defaultdict(list)
        self.running: list[int] = []
        outputs.mkdir(parents=True)

    def begin(self) -> int:
        """Starts one more."""
        with self.output_of(len(self.all)).open("wb") as output:
            process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.all[process.pid] = process
        self.running.append(process.pid)
        return process.pid

    def output_of(self, number: int) -> Path:
        return self._outputs / f"launcher-{number}.txt"

    def ended(self) -> list[tuple[int, str]]:
        """(exit code, problem or nothing) of those that have ended since the last call."""
        gone = [pid for pid in self.running if self.all[pid].poll() is not None]
        self.running = [pid for pid in self.running if pid not in gone]
        return [(self.all[pid].returncode, self._why_wrong(pid)) for pid in gone]

    def _why_wrong(self, pid: int) -> str:
        code, sent = self.all[pid].returncode, self.signals[pid]
        if code in ENDS or -code in sent or code - 128 in sent:  # before it can tell a signal, and afterwards
            return ""
        text = self.output_of(list(self.all).index(pid)).read_text(errors="replace")
        return f"a launcher ended with exit code {code}, sent were signals {sent}: {text[-3000:]}"

    def kill(self) -> None:
        """Ends whatever is left of them."""
        for pid in survivors(self.all):
            subprocess.run(["kill", "-KILL", str(pid)], capture_output=True, check=False)
        for process in self.all.values():
            process.wait()


def run_trial(
    arguments: Sequence[str],
    store: Path,
    expected: dict[str, list[dict[str, Any]]],
    chance: random.Random,
    *,
    num_faults: int,
    pace: float,
    on_fault: Callable[[str], None],
) -> Trial:
    """Repeats the study's command under faults until the study is done, then looks for everything that must not be.

    Args:
        expected: of `results`, of the study undisturbed.
        num_faults: after which it is left in peace.
        pace: mean seconds between two faults.
        on_fault: is told of each.
    """
    trial, witness = Trial(), Witness(store)
    launchers = _Launchers(arguments, store, store.with_name(f"{store.name}-output"))
    try:
        _until_done(trial, witness, launchers, store, chance, num_faults, pace, on_fault)
        _wait_for_the_end(launchers, trial)
    finally:
        launchers.kill()
    witness.look()
    trial.looks, trial.taken_up, trial.launchers = witness.looks, witness.num_begun(), len(launchers.all)
    trial.problems += [*witness.problems, *untruths(Store(store)), *differences(expected, Store(store))]
    trial.problems += leftovers(store)
    return trial


def _until_done(
    trial: Trial,
    witness: Witness,
    launchers: _Launchers,
    store: Path,
    chance: random.Random,
    num_faults: int,
    pace: float,
    on_fault: Callable[[str], None],
) -> None:
    """Begins the command twice, and again where all have ended; in between faults, and looks of the witness."""
    found, pending, due = Store(store), draw(chance), time.monotonic()
    scene = Scene(store, chance, launchers.running, launchers.signals, launchers.begin)
    for _ in range(FIRST_LAUNCHERS):
        launchers.begin()
    while True:
        codes = launchers.ended()
        trial.problems += [problem for _, problem in codes if problem]
        if any(code == ExitCode.OK for code, _ in codes) and not is_done(found):
            trial.problems.append("a launcher ended with exit code 0 where the study is not done")
        if not launchers.running:
            _wait_for_the_end(launchers, trial)
            trial.problems += untruths(found)
            if any(code == ExitCode.OK for code, _ in codes) or trial.problems:
                return
            if len(launchers.all) == MOST_STARTS:
                trial.problems.append(f"the study is not done after {MOST_STARTS} starts of its command")
                return
            launchers.begin()
        witness.look()
        scene.launchers = launchers.running
        if trial.faults.total() < num_faults and time.monotonic() >= due:
            done = FAULTS[pending].inject(scene)
            if done is not None:
                trial.faults[pending] += 1
                trial.kills = scene.kills
                on_fault(f"{pending}: {done}")
                pending, due = draw(chance), time.monotonic() + chance.expovariate(1 / pace)
        time.sleep(LOOK_SECONDS)


def _wait_for_the_end(launchers: _Launchers, trial: Trial) -> None:
    """Every process of launchers that have ended has to end too."""
    deadline = time.monotonic() + END_SECONDS
    ended = [pid for pid in launchers.all if pid not in launchers.running]
    while left := survivors(ended):
        if time.monotonic() > deadline:
            trial.problems.append(f"processes {left} outlive their launcher by {END_SECONDS:g} seconds")
            for pid in left:
                subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(pid)], capture_output=True, check=False)
            return
        time.sleep(END_LOOK_SECONDS)
