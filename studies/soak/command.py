"""`study soak`: does a study survive everything, and are its results then the same?"""

from __future__ import annotations

import random
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from studies.console import JsonOption, err, out, print_json
from studies.counts import counted
from studies.errors import ConfigError, ExitCode
from studies.interruption import leaves

if TYPE_CHECKING:
    from .trial import Trial

SMALL = (
    "name=soak",
    "data.num_train=600",
    "data.num_test=100",
    "families=[mlp,resnet]",
    "num_train=[64,256]",
    "num_validation=50",
    "replicates=4",
    "primary_pair=null",
    "budget.steps=80",
    "budget.batch_size=16",
    "recipe.tuning=null",
)
"""What makes `data_scaling` a study of sixteen cells, of about a second each."""

OFTEN = ("tracking=off", "engine.checkpoint_seconds=0", "engine.chunk_steps=5")
"""Saved after every chunk, so that faults meet saves, and what was saved is continued."""


def soak(
    study: Annotated[
        Optional[str],  # noqa: UP045  # typer reads this form
        typer.Argument(
            help="Name of a study file; by default data_scaling, made small: seconds a cell. May be left out before "
            "overrides."
        ),
    ] = None,
    overrides: Annotated[Optional[list[str]], typer.Argument(help="Overrides, as of `study run`.")] = None,  # noqa: UP045
    kills: Annotated[int, typer.Option(min=1, help="Processes to end in all.")] = 200,
    minutes: Annotated[Optional[float], typer.Option(help="Begin no trial after so long.")] = None,  # noqa: UP045
    faults: Annotated[int, typer.Option(min=1, help="Faults per trial; then the study is left in peace.")] = 40,
    pace: Annotated[float, typer.Option(min=0.01, help="Mean seconds between two faults.")] = 0.5,
    seed: Annotated[Optional[int], typer.Option(help="Of the faults; drawn and told where not given.")] = None,  # noqa: UP045
    folder: Annotated[Path, typer.Option(help="New folder for the stores of all trials.")] = Path("soak"),
    as_json: JsonOption = False,
) -> None:
    """Run a study under random faults, again and again, and compare its records with those of an undisturbed run.

    Processes are killed, stopped and joined by others, checkpoints damaged; the same command is repeated until the
    study is done. Looked for are results lost, duplicated or changed, a cell trained twice at once, processes, locks
    and files left behind, and a status that is not true. Exit code 0 only if there was none of it; the stores of trials
    in which there was are kept.
    """
    from studies.store import Store

    from .processes import PROC
    from .trial import command, run_trial
    from .undisturbed import anew, undisturbed
    from .verdict import results

    if not (PROC / "self" / "stat").exists():
        raise ConfigError(f"soak: reads processes from {PROC}, which this system does not have; run it on Linux")
    if folder.exists():
        raise ConfigError(f"--folder: {folder} is there already; remove it or choose another")
    leaves(f"a soak is not continued; {anew(folder)}")
    chosen = composed_of(study, overrides or [])
    seed = secrets.randbelow(2**32) if seed is None else seed
    err.print(f"seed {seed}; the study is first run undisturbed, which takes as long as study run does", markup=False)
    started = time.monotonic()
    undisturbed(command(chosen, folder / "undisturbed"), folder / "undisturbed", err)
    expected = results(Store(folder / "undisturbed"))
    alone = time.monotonic() - started
    err.print(f"undisturbed: {counted(len(expected), 'cell')} in {alone:.0f} s", markup=False)
    trials: list[Trial] = []
    while sum(trial.kills for trial in trials) < kills:
        if minutes is not None and trials and time.monotonic() - started > 60 * minutes:
            break
        store = folder / f"trial-{len(trials)}"
        trials.append(
            run_trial(
                chosen,
                store,
                expected,
                random.Random(f"{seed} {len(trials)}"),
                num_faults=faults,
                pace=pace,
                on_fault=lambda told: err.print(f"{time.monotonic() - started:7.1f} s  {told}", markup=False),
            )
        )
        for problem in trials[-1].problems:
            err.print(f"trial {len(trials) - 1}: {problem}", style="red", markup=False)
        if not trials[-1].problems:
            shutil.rmtree(store)
            shutil.rmtree(store.with_name(f"{store.name}-output"))
    summary = _summary(trials, seed, len(expected), alone, time.monotonic() - started)
    if as_json:
        print_json(summary)
    else:
        for line in _lines(summary):
            out.print(line, markup=False)
    raise SystemExit(ExitCode.INCOMPLETE if summary["problems"] else ExitCode.OK)


def composed_of(study: str | None, overrides: Sequence[str]) -> list[str]:
    """Study and overrides of `study run`; where the first word is an override, it is one of the small study."""
    if study is not None and "=" not in study:
        return [study, *OFTEN, *overrides]
    return ["data_scaling", *OFTEN, *SMALL, *([study] if study else []), *overrides]


def _summary(
    trials: Sequence[Trial], seed: int, num_cells: int, undisturbed_seconds: float, seconds: float
) -> dict[str, object]:
    faults: Counter[str] = sum((trial.faults for trial in trials), Counter())
    return {
        "seed": seed,
        "trials": len(trials),
        "kills": sum(trial.kills for trial in trials),
        "faults": dict(faults.most_common()),
        "launchers": sum(trial.launchers for trial in trials),
        "cells": num_cells,
        "records_compared": num_cells * len(trials),
        "taken_up": sum(trial.taken_up for trial in trials),
        "looks": sum(trial.looks for trial in trials),
        "undisturbed_seconds": round(undisturbed_seconds, 1),
        "seconds": round(seconds, 1),
        "problems": [f"trial {number}: {one}" for number, trial in enumerate(trials) for one in trial.problems],
    }


def _lines(summary: dict[str, object]) -> list[str]:
    faults, problems = summary["faults"], summary["problems"]
    assert isinstance(faults, dict)
    assert isinstance(problems, list)
    return [
        f"seed {summary['seed']}: {summary['trials']} trials of {summary['cells']} cells in {summary['seconds']} s, "
        f"{summary['kills']} kills",
        *(f"{count:5d}  {name}" for name, count in faults.items()),
        f"{summary['launchers']} launchers; cells taken up {summary['taken_up']} times; {summary['looks']} looks",
        f"{summary['records_compared']} records compared: {len(problems)} problems",
        *problems,
    ]
