"""Ctrl-C, at whatever moment, is one message and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import is_deaf, members

from studies.interruption import MESSAGE, told_once

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")

STUDY = (
    "data_scaling",
    "name=interrupted",
    "data.num_train=1200",
    "data.num_test=500",
    "families=[mlp]",
    "num_train=[64]",
    "num_validation=100",
    "replicates=2",
    "primary_pair=null",
    "budget.steps=400000",
    "budget.batch_size=64",
    "recipe.tuning=null",
    "tracking=off",
    "engine.workers=1",
)
# A process begun in the background, as by a shell's &, would ignore Ctrl-C.
BEGIN = """
import signal
from studies.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begun", flush=True)
main()
"""
# Holds still where a module is about to be loaded: a moment that is the same on every machine.
BEGIN_AND_HOLD = """
import signal, sys, time

class Holding:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            print("begun", flush=True)
            time.sleep(600)

MODULE = sys.argv.pop(1)
from studies.__main__ import main
assert MODULE not in sys.modules
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Holding())
main()
"""


def interrupted(folder: Path, program: Sequence[str], verb: str, moment: float = 0.0) -> tuple[int, str]:
    """Exit code and standard error of a verb whose terminal sends Ctrl-C.

    Args:
        folder: of the results.
        program: `BEGIN` or `BEGIN_AND_HOLD` with what it takes.
        verb: of `study`.
        moment: seconds between what the program says and Ctrl-C.
    """
    command = [sys.executable, "-c", *program, verb, *STUDY, "--store", str(folder)]
    with (folder / "stderr.txt").open("w+") as stderr:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(moment)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(timeout=600)
            assert all(is_deaf(one, signal.SIGINT) for one in members(process.pid)), "it prints a traceback of its own"
        finally:
            if members(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()
        stderr.seek(0)
        return code, stderr.read()


@pytest.mark.parametrize(("verb", "moment"), [("run", 0.1), ("run", 0.4), ("run", 0.8), ("tune", 1.2), ("run", 2.0)])
def test_at_any_moment_it_is_one_message(verb: str, moment: float, tmp_path: Path) -> None:
    """Run and tune last minutes on any machine (400,000 steps a cell), so that every such moment is within them."""
    assert interrupted(tmp_path, [BEGIN], verb, moment) == (130, MESSAGE + "\n")


@pytest.mark.parametrize("module", ["studies.cli", "hydra.utils", "studies.planning", "torch"])
def test_a_plan_is_interrupted_at_any_of_its_steps(module: str, tmp_path: Path) -> None:
    """A plan may be over within half a second: its moments are those at which it loads what its next step needs."""
    assert interrupted(tmp_path, [BEGIN_AND_HOLD, module], "plan") == (130, MESSAGE + "\n")


WITHIN_TYPER = """
import signal, sys
from typer.core import TyperGroup
from studies.__main__ import main

def interrupted(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)

setattr(TyperGroup, sys.argv.pop(1), interrupted)
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize("method", ["make_context", "invoke"])
def test_typer_does_not_swallow_it(method: str) -> None:
    command = [sys.executable, "-c", WITHIN_TYPER, method, "list"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (ended.returncode, ended.stderr) == (130, MESSAGE + "\n")


WARMING_UP = f"""
import signal, sys
from multiprocessing import forkserver
sys.path.insert(0, {str(Path(__file__).parent)!r})
from processes import is_deaf
from studies.engines import local

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    local.PRELOADED = "json"
    local.warm_up()
    assert is_deaf(forkserver._forkserver._forkserver_pid, signal.SIGINT)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), "the launcher hears it as before"
    signal.raise_signal(signal.SIGINT)
"""


def test_the_process_that_imports_for_the_workers_never_hears_it(tmp_path: Path) -> None:
    """From its first moment on, while it imports too: what it prints would be a second message."""
    (tmp_path / "program.py").write_text(WARMING_UP)
    command = [sys.executable, tmp_path / "program.py"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.stderr.endswith("KeyboardInterrupt\n"), outcome.stderr


SWALLOWED = """
from studies.interruption import told_once

class Leaving:
    def __del__(self):
        raise KeyboardInterrupt

with told_once():
    Leaving()
    print("went on")
"""


def test_where_no_exception_comes_out_it_is_told_all_the_same() -> None:
    outcome = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", MESSAGE + "\n")


def test_a_signal_within_such_a_callback_is_told_too() -> None:
    begun = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program = begun + SWALLOWED.replace("raise KeyboardInterrupt", "signal.raise_signal(signal.SIGINT)")
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", MESSAGE + "\n")


def test_code_that_goes_on_after_every_exception_does_not_go_on() -> None:
    program = """
import signal
from studies.interruption import told_once
signal.signal(signal.SIGINT, signal.default_int_handler)
with told_once():
    try:
        signal.raise_signal(signal.SIGINT)
    except Exception:
        print("went on")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", MESSAGE + "\n")


WRAPPED = """
import signal
from studies.interruption import told_once
signal.signal(signal.SIGINT, signal.default_int_handler)
with told_once():
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException as error:
        raise SystemError("returned a result with an exception set") from error
"""


def test_what_compiled_code_makes_of_it_is_told_as_what_it_was() -> None:
    outcome = subprocess.run([sys.executable, "-c", WRAPPED], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", MESSAGE + "\n")
    of_another = WRAPPED.replace("signal.raise_signal(signal.SIGINT)", "raise ArithmeticError")
    outcome = subprocess.run([sys.executable, "-c", of_another], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "SystemError: returned a result" in outcome.stderr


def test_other_faults_that_cannot_come_out_are_printed_as_ever() -> None:
    program = SWALLOWED.replace("raise KeyboardInterrupt", "raise ArithmeticError")
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (0, "went on\n")
    assert "ArithmeticError" in outcome.stderr


def test_a_second_one_ends_it_at_once() -> None:
    program = """
import os, signal, time
from studies.interruption import told_once
try:
    with told_once():
        raise KeyboardInterrupt
finally:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600)
    assert (outcome.returncode, outcome.stderr) == (-signal.SIGINT, MESSAGE + "\n")


def test_afterwards_all_is_as_it_was() -> None:
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with told_once():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            assert sys.unraisablehook is not hook
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert sys.unraisablehook is hook
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with told_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "somebody wants it otherwise"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
