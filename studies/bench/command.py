"""`study bench`: is the instrument right, and is it fast?"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from .console import JsonOption, out, print_json
from .errors import ConfigError, ExitCode

bench = typer.Typer(no_args_is_help=True, help="Measure the instrument itself: how often it is right, how fast it is.")


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
    from .analysis.answers import DEFAULT_INTERPOLATION
    from .analysis.calibration import calibrate, requirements
    from .bench_tables import calibration_tables

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
    from .analysis.timing import time_analysis

    result = time_analysis(families, sizes, replicates, seed)
    if as_json:
        print_json(result)
        return
    out.print(
        f"{families} families x {sizes} sizes x {replicates} replicates, one test set of {result['num_test']:,} "
        f"images: {result['seconds']:.1f} s ({result['num_findings']} answers; fits {result['fit_seconds']:.1f} s)"
    )


def _counts(told: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in told.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 2:
        raise ConfigError(f"--replicates is {told!r}; expected numbers from 2 up, separated by commas, such as 3,5,10")
    return counts
