"""`study probe`: what the networks of a finished study assume, measured on their weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from studies.console import JsonOption, StoreOption, err, out, print_json
from studies.counts import counted
from studies.retry import RetryOption, asks_to_retry

from .catalogue import KINDS, chosen

if TYPE_CHECKING:
    from studies.grid import Plan
    from studies.progress import StagesProgress
    from studies.store import Store


EPILOG = "\n\n".join(["Probes:", *(f"{kind.name}: {kind.title}" for kind in KINDS.values())])
"""Stands below the help in its full width, where no name is cut; a paragraph a line."""


def probe(
    study: Annotated[str, typer.Argument(help="Name or id of a study in the store.")],
    probes: Annotated[
        Optional[str],  # noqa: UP045  # typer reads this form
        typer.Option(metavar="A,B", help="Some of the probes named below; by default all but few_shot."),
    ] = None,
    store: StoreOption = Path("results"),
    again: Annotated[
        bool,
        typer.Option(
            "--train-again",
            help="First train again the cells whose weights were not kept; their records stay as they are.",
        ),
    ] = False,
    retry: RetryOption = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Processes at once; by default one per CPU core, or one on a GPU."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what the trained and the untrained networks of a study assume: symmetry, locality, attention.

    Needs the weights of its cells: train with engine.keep_checkpoints=true, or give --train-again. Results are kept;
    the same command continues; with --retry failed it probes again too where the result says failed. Probes look at
    validation images; few_shot alone reads the test split too, and is applied only if it is named. Exit code 3 where
    something has no result.
    """
    from studies.store import Store

    from .probe_tables import probe_tables
    from .study_probing import probe_study

    found = Store(store)
    planned = found.plan(study)
    kinds = chosen([name.strip() for name in probes.split(",")] if probes is not None else ())
    with _Followed(planned) as followed:
        result = probe_study(
            planned,
            found,
            kinds=kinds,
            again=again,
            retry_failed=asks_to_retry(retry),
            workers=workers,
            on_training=followed.training,
            on_poll=followed.trained,
            on_progress=followed.probed,
            on_message=lambda message: err.print(message, markup=False),
        )
    if as_json:
        print_json(result.to_json())
    else:
        for part in probe_tables(result):
            out.print(part, markup=False)
    raise SystemExit(result.exit_code)


class _Followed:
    """What the command is at: one bar after the other, on standard error."""

    def __init__(self, planned: Plan) -> None:
        self._planned, self._open = planned, ExitStack()
        self._training: StagesProgress | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._told_from = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def training(self, stage: Plan, store: Store) -> None:
        """Cells are trained again from now on."""
        from studies.progress import StagesProgress

        self._open.close()
        self._training = self._open.enter_context(StagesProgress(store, err))
        cells = counted(len(stage.cells), "cell")
        self._training.begin(stage, [f"{cells} of {self._planned.study_id} trained again for their weights"])

    def trained(self, running: Sequence[str]) -> None:
        """Some time has passed."""
        if self._training is not None:
            self._training.update(running)

    def probed(self, done: int, total: int) -> None:
        """So many of the results that were missing are there."""
        if self._bar is None:
            self._open.close()
            err.print(f"{counted(total, 'result')} of {self._planned.study_id} to compute", markup=False)
            columns = (TextColumn("[bold]probes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = self._open.enter_context(Progress(*columns, console=err, disable=not err.is_terminal))
            self._task = self._bar.add_task("probes", total=total)
        self._bar.update(self._task, completed=done, total=total)
        if not err.is_terminal and done and done >= self._told_from:  # in a log, a line now and then
            self._told_from = done + max(1, total // 20)
            err.print(f"probes: {done}/{total} done", markup=False)
