"""The parent's side of the measured processes: start them, tell them what to do, weigh them, end them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.engines.settings import THREADS, worker_environment
from studies.errors import StudyError

ANSWER_SECONDS = 900.0
"""Longest wait for one answer where no deadline is given."""


class Child:
    """One process of `studies.bench.child`.

    Args:
        job: its contender, workload, device and threads.
        deadline: on the monotonic clock; the process is ended when it is reached, and asking raises.
    """

    def __init__(self, job: Mapping[str, Any], deadline: float | None = None) -> None:
        self.job, self._deadline, self._ended = job, deadline, False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        environment = os.environ | (worker_environment() if job["contender"] == "study" else {})
        environment |= dict.fromkeys(THREADS, str(job["threads"]))
        self.launched = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "studies.bench.child", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,  # so that its loader workers can be ended with it
        )

    def tell(self, do: str, **arguments: Any) -> None:  # noqa: ANN401  # JSON
        """Sends a command without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StudyError(self._obituary()) from None

    def answer(self) -> dict[str, Any]:
        """The answer to the last command.

        Raises:
            StudyError: the process died or is too slow; with the last line it wrote.
        """
        assert self._process.stdout is not None
        left = ANSWER_SECONDS if self._deadline is None else self._deadline - time.monotonic()
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
        if not ready:
            self.end()
            raise StudyError(f"{self._name} gave no answer within {max(0.0, left):.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise StudyError(self._obituary())
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
        """Sends a command and waits for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def peak_memory(self) -> int:
        """Bytes: the sum over the process and its descendants of the most that each had resident."""
        return sum(map(_high_water_mark, _tree(self._process.pid)))

    def end(self) -> None:
        """Ends the process and its workers; once is enough."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):  # what was not read any more
                assert stream is not None
                stream.close()

    @property
    def _name(self) -> str:
        arm = self.job.get("workload", {}).get("arm", "")
        return f"the measurement of {self.job['contender']} {arm}".rstrip()

    def _obituary(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{self._name} ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"


class Crew:
    """Equal processes that train at the same time, as a study's workers do; one of them is a crew too."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]], deadline: float | None = None) -> None:
        self.children = [Child(job, deadline) for job in jobs]

    def steps(self, count: int) -> dict[str, float]:
        """Every process takes `count` steps; images of all, from the first start to the last stop."""
        for child in self.children:
            child.tell("steps", count=count)
        spans = [child.answer() for child in self.children]
        start, stop = min(span["start"] for span in spans), max(span["stop"] for span in spans)
        images = sum(span["images"] for span in spans)
        return {"images": images, "seconds": stop - start, "stop": stop, "loss": spans[0]["loss"]}

    def start_up(self) -> float:
        """Seconds from the launch to the end of the first step of the last process."""
        return self.steps(1)["stop"] - self.children[0].launched

    def peak_memory(self) -> int:
        """Bytes of all processes."""
        return sum(child.peak_memory() for child in self.children)

    def end(self) -> None:
        """Ends all processes."""
        for child in self.children:
            child.end()


@contextlib.contextmanager
def running(jobs: Sequence[Mapping[str, Any]], deadline: float | None = None) -> Iterator[Crew]:
    """A crew that is ended whatever happens."""
    crew = Crew(jobs, deadline)
    try:
        yield crew
    finally:
        crew.end()


def _tree(pid: int) -> list[int]:
    """A process and its descendants, as /proc knows them; the process alone where there is no /proc."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _high_water_mark(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
