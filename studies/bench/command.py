"""`study bench`: is the instrument right, and is it fast?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich.console import RenderableType

from studies.console import JsonOption, err, out, print_json
from studies.errors import ConfigError, ExitCode
from studies.interruption import leaves

bench = typer.Typer(no_args_is_help=True, help="Measure the instrument itself: how often it is right, how fast it is.")


@bench.callback()
def begin() -> None:
    """Whatever is measured begins anew when it is asked for again."""
    leaves("a measurement is not continued; the same command begins it anew")


@bench.command()
def calibration(
    studies: Annotated[int, typer.Option(min=1, help="Simulated studies per scenario.")] = 1000,
    replicates: Annotated[str, typer.Option(help="Replicates R, separated by commas.")] = "3,5,10",
    interpolation: Annotated[
        Literal["default", "linear", "monotone"], typer.Option(help="Of log errors between the measured sizes.")
    ] = "default",
    sizes: Annotated[Literal["x2", "x4"], typer.Option(help="128 to 32,768 images, in steps of two or four.")] = "x2",
    fits: Annotated[int, typer.Option(min=0, help="Studies whose floors are fitted too; seconds each.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="Processes to use; 0 for one per core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Analyse simulated studies whose truth is known and count how often intervals contain it.

    Exit code 3 if a coverage or an error rate that is required at five replicates is not met.
    """
    from studies.analysis.answers import DEFAULT_INTERPOLATION
    from studies.analysis.calibration import calibrate, requirements

    from .calibration_tables import calibration_tables

    counts = _counts(replicates)
    rates = calibrate(
        num_studies=studies,
        replicates=counts,
        interpolation=DEFAULT_INTERPOLATION if interpolation == "default" else interpolation,
        sizes=sizes,
        seed=seed,
        num_fitted=fits,
        num_processes=processes or os.cpu_count() or 1,
    )
    checks = requirements(rates) if 5 in counts else []
    if as_json:
        required = [{"requirement": text, "met": met} for text, met in checks]
        print_json({"rates": rates.to_dict("records"), "required": required})
    else:
        for part in calibration_tables(rates, checks):
            out.print(part)
    if not all(met for _, met in checks):
        raise SystemExit(ExitCode.INCOMPLETE)


@bench.command("fit")
def fit_(
    families: Annotated[int, typer.Option(min=2, help="Families.")] = 6,
    sizes: Annotated[int, typer.Option(min=2, help="Training sizes.")] = 10,
    replicates: Annotated[int, typer.Option(min=1, help="Replicates.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Time the whole analysis of a simulated study: every pair, every fit, every interval."""
    from studies.analysis.timing import time_analysis

    result = time_analysis(families, sizes, replicates, seed)
    if as_json:
        print_json(result)
        return
    out.print(
        f"{families} families x {sizes} sizes x {replicates} replicates, one test set of {result['num_test']:,} "
        f"images: {result['seconds']:.1f} s ({result['num_findings']} answers; fits {result['fit_seconds']:.1f} s)"
    )


FamiliesOption = Annotated[
    Optional[str],  # noqa: UP045  # typer reads this form
    typer.Option(help="Families, separated by commas; all of the tier if not given."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for JSON and figure.")]


@bench.command()
def train(
    tier: Annotated[str, typer.Option(help="Tier of the networks.")] = "nano",
    families: FamiliesOption = None,
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over all contenders.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of one measurement.")] = 3.0,
    quick: Annotated[bool, typer.Option("--quick", help="Three short rounds: a look, not a result.")] = False,
    output: OutOption = Path("benchmarks"),
    as_json: JsonOption = False,
) -> None:
    """Race this package against plain Lightning and timm's loop on the same work, family by family.

    Images per second, FLOP/s, use of the machine's measured peak, memory and start-up, on the whole machine and one
    thread against one. A minute or two per family; give the machine nothing else to do meanwhile.
    """
    from .roofline import write_roofline
    from .tables import train_tables
    from .train_race import RaceSettings, race
    from .workload import workloads

    found = choose_device(device)
    precision = "bf16" if found.startswith("cuda") else "fp32"
    work = workloads(tier, _names(families), image_size=image_size, precision=precision)
    settings = RaceSettings(device=found, repeats=repeats, seconds=seconds)
    if quick:
        settings = RaceSettings(found, repeats=3, seconds=1.0, choice_seconds=0.3, peak_seconds=0.3)
    name = f"train-{tier}-{image_size}px.json"
    result = race(
        work, settings, lambda line: err.print(line, markup=False), keep=lambda so_far: _write(so_far, output, name)
    )
    paths = [output / name, *write_roofline(result, output)]
    _show(result, train_tables(result), paths, as_json)


@bench.command("study")
def study_(
    timm_script: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="timm's train.py; a script built from timm's parts if not given."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four cells instead of twelve: a look, not a result.")] = False,
    output: OutOption = Path("benchmarks"),
    as_json: JsonOption = False,
) -> None:
    """Race a whole small study against timm's training looped over its cells, start-up and evaluation included."""
    import tempfile

    from .study_race import StudyRace, race_study, shortened
    from .tables import study_tables

    asked = StudyRace(timm_script=None if timm_script is None else timm_script.resolve())
    with tempfile.TemporaryDirectory() as folder:
        report = lambda line: err.print(line, markup=False)  # noqa: E731
        result = race_study(shortened(asked) if quick else asked, Path(folder), report)
    _show(result, study_tables(result), [_write(result, output, "study.json")], as_json)


@bench.command()
def gpu(
    minutes: Annotated[float, typer.Option(min=0.1, help="After which it ends with what it has.")] = 9.0,
    output: OutOption = Path("benchmarks"),
    as_json: JsonOption = False,
) -> None:
    """Measure all that a CUDA GPU has to show: peaks, lanes, lanes against solo runs, timm's loop, the full study.

    Most important first; what was measured is written after every step, so it may be interrupted.
    """
    from .gpu import measure_gpu
    from .tables import gpu_tables

    device = choose_device("cuda")
    report = lambda line: err.print(line, markup=False)  # noqa: E731
    result = measure_gpu(minutes, device, lambda part: _write(part, output, "gpu.json"), report)
    _show(result, gpu_tables(result), [output / "gpu.json"], as_json)


@bench.command("store")
def store_(
    records: Annotated[int, typer.Option(min=80, help="Records to make; a multiple of 80.")] = 20_000,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where to make the store, which is then kept; by default it is removed."),
    ] = None,
    output: OutOption = Path("benchmarks"),
    as_json: JsonOption = False,
) -> None:
    """Time status, export and report on a store of many records, in seconds and peak memory.

    Each on a study of 500 cells among them, and on one of all of them. Nothing is trained; making 20,000 records takes
    a minute or more.
    """
    from .store_times import store_tables, time_in_scratch

    if records % 80:
        raise ConfigError(f"--records is {records}; expected a multiple of 80 (8 arms at 10 sizes)")
    result = time_in_scratch(records, folder, report=lambda line: err.print(line, markup=False))
    _show(result, store_tables(result), [_write(result, output, "store.json")], as_json)


def choose_device(device: str) -> str:
    """`cpu` or `cuda`, the latter only where torch sees a GPU.

    Raises:
        ConfigError: a device that does not exist here.
    """
    from studies.engine_spec import EngineSpec
    from studies.engines.local import devices

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device is {device!r}; expected auto, cpu or cuda")
    try:
        first: str = devices(EngineSpec(device=device))[0]  # type: ignore[arg-type]  # checked above
    except ConfigError:
        raise ConfigError("this needs a CUDA GPU, but torch sees none on this machine") from None
    return first.partition(":")[0]


def _names(families: str | None) -> list[str] | None:
    return None if families is None else [name.strip() for name in families.split(",")]


def _write(result: Mapping[str, Any], folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _show(result: dict[str, Any], parts: Iterable[RenderableType], paths: list[Path], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for part in parts:
        out.print(part)
    for path in paths:
        out.print(str(path), markup=False)


def _counts(told: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in told.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 2:
        raise ConfigError(f"--replicates is {told!r}; expected numbers from 2 up, separated by commas, such as 3,5,10")
    return counts
