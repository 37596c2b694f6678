"""A process that trains one contender: `python -m studies.bench.child JOB`, then commands on standard input.

JOB is JSON: `contender`, `workload`, `device`, `threads` and what that contender takes besides. Commands and answers
are one JSON object per line. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .workload import Workload

CONTENDERS = ("study", "lightning", "timm")


def main() -> None:
    """Builds what the job names, then answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    _hide_wandb()
    try:
        import torch

        torch.set_num_threads(job["threads"])
        _serve(_worker(job), answers)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # loader workers and idle threads are not waited for


def _serve(worker: Any, answers: TextIO) -> None:  # noqa: ANN401  # any class below
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Trainer:
    """Answers for a training loop."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        from .workload import Workload

        self._job = job
        self._workload = Workload.from_json(job["workload"])
        self._loop = build_loop(job["contender"], self._workload, job["device"], job.get("lanes", 0), job.get("flags"))

    def steps(self, count: int) -> dict[str, float]:
        span = self._loop.steps(count)
        return {"start": span.start, "stop": span.stop, "images": span.images, "loss": span.loss}

    def choose(self, seconds: float, worker_counts: list[int], compiled: list[str]) -> dict[str, Any]:
        from .timm_loop import fastest_flags

        _, tried = fastest_flags(self._loop, seconds, tuple(worker_counts), tuple(compiled))
        return {"tried": tried}

    def try_flags(self, flags: dict[str, Any], seconds: float) -> dict[str, Any]:
        from .timm_loop import TimmFlags, brief_rate

        self._loop.set_flags(TimmFlags(**flags))
        return {"images_per_second": brief_rate(self._loop, seconds)}

    def facts(self) -> dict[str, Any]:
        import torch

        on_gpu = self._job["device"].startswith("cuda")
        return {
            "num_parameters": sum(parameter.numel() for parameter in self._loop.network.parameters()),
            "options": self._loop.options,
            "gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        }


class _Machine:
    """Answers for the hardware."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._device = job["device"]

    def describe(self) -> dict[str, Any]:
        from .machine import describe_machine

        return describe_machine(self._device)

    def peaks(self, precision: str, seconds: float) -> dict[str, Any]:
        from .machine import copy_peak, matmul_peak

        rates = matmul_peak(self._device, precision, seconds)
        return {"matmul": rates, "flops": max(rates.values()), "copy_bytes": copy_peak(self._device, seconds)}

    def traffic(self, workload: Mapping[str, Any]) -> dict[str, int]:
        from .traffic import bytes_per_step
        from .workload import Workload

        return {"step_bytes": bytes_per_step(Workload.from_json(workload))}


class _Lanes:
    """Answers for the lanes of one workload."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        from .workload import Workload

        self._workload, self._device = Workload.from_json(job["workload"]), job["device"]

    def rate(self, lanes: int, seconds: float, compile_network: bool = False) -> dict[str, Any]:
        from .lane_check import lane_rate

        try:
            return lane_rate(self._workload, self._device, lanes, seconds, compile_network)
        except Exception as error:  # too many lanes for the memory: fewer were and are possible
            return {"error": f"{type(error).__name__}: {error}"[:300]}

    def compare(self, steps: int) -> dict[str, Any]:
        from .lane_check import lane_difference

        return lane_difference(self._workload, self._device, steps)

    def width(self, seconds: float, most: int) -> dict[str, int]:
        from .lane_check import chosen_width

        return {"lanes": chosen_width(self._workload, self._device, seconds, most)}


def build_loop(
    contender: str,
    workload: Workload,
    device: str,
    lanes: int = 0,
    flags: Mapping[str, Any] | None = None,
) -> Any:  # noqa: ANN401  # a TrainingLoop
    """The training loop of a contender; for this package with `lanes` runs as one program, or without lanes for 0."""
    if contender == "timm":
        from .timm_loop import TimmFlags, TimmLoop

        return TimmLoop(workload, device, TimmFlags(**(flags or {})))
    if contender == "lightning":
        from .plain_loop import PlainLoop

        return PlainLoop(workload, device)
    from .study_loop import StudyLoop, replicates

    runs = [workload] if lanes == 0 else replicates(workload, lanes)
    return StudyLoop(runs, device, in_lanes=lanes > 0)


def _worker(job: Mapping[str, Any]) -> _Trainer | _Lanes | _Machine:
    if job["contender"] in CONTENDERS:
        return _Trainer(job)
    return _Lanes(job) if job["contender"] == "lanes" else _Machine(job)


def _hide_wandb() -> None:
    """timm imports wandb where it is installed, which only costs time; workers of a study hide it as well."""
    sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
