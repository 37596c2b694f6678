"""`study bench train`: the three loops on the same work, in interleaved repeats, family after family."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .children import Child, Crew, running
from .timings import Timing, steps_for
from .workload import Workload, as_json

SCHEMA = 1
CONTENDERS = ("study", "lightning", "timm")
WARM_UP_STEPS = 5
MOST_LANES = 64


@dataclass(frozen=True)
class RaceSettings:
    """How a race is run.

    Attributes:
        device: `cpu` or `cuda`.
        repeats: times the round of contenders is gone through.
        seconds: length of one measurement, about.
        choice_seconds: length of one measurement while timm's flags are chosen.
        peak_seconds: spent on each size of matrix product.
        lanes: runs that this package trains as one program; None takes the number that a study would choose.
    """

    device: str = "cpu"
    repeats: int = 5
    seconds: float = 3.0
    choice_seconds: float = 1.0
    peak_seconds: float = 1.0
    lanes: int | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """A GPU has no mode of one thread."""
        return ("machine",) if self.device.startswith("cuda") else ("machine", "thread")

    @property
    def loader_workers(self) -> list[int]:
        """Numbers of loader processes among which timm's is chosen."""
        return [4, 8, 14] if self.device.startswith("cuda") else [0, 1, 2]

    @property
    def compile_modes(self) -> list[str]:
        """Modes of `torch.compile` tried for timm; on a CPU it gains nothing here and costs half a minute."""
        return ["default", "reduce-overhead"] if self.device.startswith("cuda") else []


Report = Callable[[str], None]


def race(
    workloads: Sequence[Workload],
    settings: RaceSettings,
    report: Report = lambda line: None,
    keep: Callable[[Mapping[str, Any]], object] = lambda result: None,
) -> dict[str, Any]:
    """Measures every workload.

    Args:
        keep: called with the result so far after every family, so that a race cut short leaves what it has measured.

    Returns:
        Plain values: the machine, its peaks, and per family the raw seconds of every repeat.
    """
    precision = workloads[0].precision
    machine, peaks = measure_machine(settings, precision)
    report(f"peak {peaks['machine']['flops'] / 1e9:.0f} GFLOP/s, copy {peaks['machine']['copy_bytes'] / 1e9:.1f} GB/s")
    families: list[dict[str, Any]] = []
    result = {
        "schema": SCHEMA,
        "kind": "train",
        "machine": machine,
        "settings": dataclasses.asdict(settings),
        "precision": precision,
        "peaks": peaks,
        "families": families,
    }
    for workload in workloads:
        families.append(race_family(workload, settings, report))
        keep(result)
    return result


def measure_machine(settings: RaceSettings, precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The machine, and its peaks with all threads and (on a CPU) with one."""
    peaks = {}
    machine: dict[str, Any] = {}
    for mode in settings.modes:
        job = {"contender": "machine", "device": settings.device, "threads": _threads(mode)}
        with running([job]) as crew:
            machine = machine or crew.children[0].ask("describe")
            peaks[mode] = crew.children[0].ask("peaks", precision=precision, seconds=settings.peak_seconds)
    return machine, peaks


def race_family(workload: Workload, settings: RaceSettings, report: Report = lambda line: None) -> dict[str, Any]:
    """All contenders on one workload: flags chosen, each warmed up, then one after another, round by round."""
    if settings.lanes is None:
        settings = dataclasses.replace(settings, lanes=chosen_lanes(workload, settings))
    with contextlib.ExitStack() as stack:
        entries = [_enter(stack, name, mode, workload, settings) for mode in settings.modes for name in CONTENDERS]
        for entry in entries:
            entry.warm_up(settings)
        for _ in range(settings.repeats):
            for entry in entries:
                entry.repeat()
        timings = [entry.timing() for entry in entries]
    step_bytes = _step_bytes(workload)
    report(f"{workload.arm}: " + ", ".join(f"{t.contender} {sorted(t.rates)[len(t.rates) // 2]:.0f}/s ({t.mode})"
                                           for t in timings))  # fmt: skip
    return {
        "arm": workload.arm,
        "workload": as_json(workload),
        "lanes": settings.lanes,
        "train_flops_exact": workload.flops.train_exact,
        "step_flops": workload.flops.train_exact * workload.batch_size,
        "step_bytes": step_bytes,
        "timings": [dataclasses.asdict(timing) for timing in timings],
        "timm_choices": {entry.mode: entry.tried for entry in entries if entry.contender == "timm"},
    }


@dataclass
class _Entry:
    """A contender at the start, and what it did."""

    contender: str
    mode: str
    crew: Crew
    startup_seconds: float
    count: int = 1
    images: int = 0
    tried: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)

    def warm_up(self, settings: RaceSettings) -> None:
        if self.contender == "timm":
            workers = settings.loader_workers if self.mode == "machine" else [0]
            self.tried = self.crew.children[0].ask(
                "choose", seconds=settings.choice_seconds, worker_counts=workers, compiled=settings.compile_modes
            )["tried"]
        self.losses.append(self.crew.steps(1)["loss"])
        first = self.crew.steps(WARM_UP_STEPS)
        count = steps_for(min(1.0, settings.seconds), WARM_UP_STEPS / first["seconds"])
        again = self.crew.steps(count)
        self.count = steps_for(settings.seconds, count / again["seconds"])

    def repeat(self) -> None:
        span = self.crew.steps(self.count)
        self.images = int(span["images"])
        self.seconds.append(span["seconds"])
        self.losses.append(span["loss"])

    def timing(self) -> Timing:
        facts = self.crew.children[0].ask("facts")
        used = {"processes": len(self.crew.children), "threads": self.crew.children[0].job["threads"]}
        return Timing(
            contender=self.contender,
            mode=self.mode,
            images=self.images,
            seconds=tuple(self.seconds),
            startup_seconds=self.startup_seconds,
            memory_bytes=self.crew.peak_memory(),
            gpu_bytes=facts["gpu_bytes"],
            losses=(self.losses[0], self.losses[-1]),
            num_parameters=facts["num_parameters"],
            options=used | facts["options"],
        )


def _enter(
    stack: contextlib.ExitStack, contender: str, mode: str, workload: Workload, settings: RaceSettings
) -> _Entry:
    crew = stack.enter_context(running(jobs_of(contender, mode, workload, settings)))
    return _Entry(contender, mode, crew, crew.start_up())


def jobs_of(contender: str, mode: str, workload: Workload, settings: RaceSettings) -> list[Mapping[str, Any]]:
    """The processes of a contender: on a CPU this package fills the machine with one single-thread process per core,
    as a study does, and the peers with the threads of one process, as they do by themselves."""
    on_gpu = settings.device.startswith("cuda")
    crowd = contender == "study" and mode == "machine" and not on_gpu
    return [
        {
            "contender": contender,
            "workload": as_json(dataclasses.replace(workload, replicate=replicate)),
            "device": settings.device,
            "threads": 1 if crowd else _threads(mode),
            "lanes": settings.lanes or 0,
        }
        for replicate in range(num_cores() if crowd else 1)
    ]


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def _threads(mode: str) -> int:
    return num_cores() if mode == "machine" else 1


def chosen_lanes(workload: Workload, settings: RaceSettings) -> int:
    """Lanes of this package's programs, by the rule of a study."""
    job = {"contender": "lanes", "workload": as_json(workload), "device": settings.device, "threads": 1}
    with running([job]) as crew:
        lanes: int = crew.children[0].ask("width", seconds=settings.choice_seconds, most=MOST_LANES)["lanes"]
        return lanes


def _step_bytes(workload: Workload) -> int:
    child = Child({"contender": "machine", "device": "cpu", "threads": 1})
    try:
        counted: int = child.ask("traffic", workload=as_json(workload))["step_bytes"]
        return counted
    finally:
        child.end()


def timings_of(family: Mapping[str, Any]) -> Iterator[Timing]:
    """The timings of a family in the result of a race."""
    return (Timing.from_json(one) for one in family["timings"])
