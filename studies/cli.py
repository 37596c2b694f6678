"""The command line of a study: plan it, run it, look at it, report it, hand it on.

Heavy imports wait until a verb needs them: looking at a study starts in a fraction of a second and never loads torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .bench.command import bench
from .blas import one_blas_thread
from .console import ConfigDirOption, JsonOption, StoreOption, err, out, print_json
from .doctor.command import doctor
from .errors import ExitCode, StudyError
from .fit_command import fit
from .help_text import fill_paragraphs
from .interruption import told_once
from .probes.command import EPILOG, probe
from .soak.command import soak
from .training_commands import plan, run, tune
from .uncollected import uncollected

if TYPE_CHECKING:
    from .grid import Plan
    from .store import Store


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure what a vision architecture's built-in assumptions are worth.\n\n"
    "Exit codes: 0 done; 1 a bug; 2 a wrong command, configuration or data set, nothing was trained; "
    "3 the study ended with cells failed, invalid or not finished (diverged ones are results, at chance), or doctor, "
    "soak or bench found something that is not as it must be; 4 a bundle is not what it claims; 130 interrupted, "
    "128 + n ended by signal n (SIGTERM 143): the same command continues, of soak and bench it begins anew.",
)

RunArgument = Annotated[str, typer.Argument(help="Name or id of a study in the store.")]


def main() -> None:
    """Runs the command line; a mistake of the user is one message, never a traceback."""
    # So that family=package.module:build and data factories of the working folder can be imported.
    sys.path.append(str(Path.cwd()))
    try:
        with told_once():
            app()
    except StudyError as error:
        err.print(f"error: {error}", style="red", markup=False)
        raise SystemExit(error.exit_code) from None


@app.command("list")
def list_(
    store: StoreOption = Path("results"), config_dir: ConfigDirOption = None, as_json: JsonOption = False
) -> None:
    """Show every study: its question, its cost, and what of it is done."""
    from .compose import list_studies, list_tunings
    from .listing import listed_studies, listing_table
    from .store import Store
    from .terminal import tuning_list

    studies = listed_studies(list_studies(config_dir), Store(store))
    if as_json:
        print_json([study.to_json() for study in studies])
        return
    for part in (*listing_table(studies), *tuning_list(list_tunings(config_dir))):
        out.print(part)


app.command()(plan)
app.command()(run)
app.command()(tune)


@app.command()
@uncollected()
def status(study: RunArgument, store: StoreOption = Path("results"), as_json: JsonOption = False) -> None:
    """Show the cells of a study and what is true of each right now."""
    from .store import Store
    from .terminal import status_tables

    found = Store(store)
    planned = found.plan(study)
    states = {stage.study_id: found.states(stage) for stage in planned.stages}
    if as_json:
        told = [_status_json(stage, states[stage.study_id], found) for stage in planned.stages]
        print_json(told[-1] | ({"pretraining": told[:-1]} if planned.pretraining else {}))
        return
    for stage in planned.stages:
        for part in status_tables(stage, states[stage.study_id], found):
            out.print(part)


@app.command()
def show(
    cell: Annotated[str, typer.Argument(help="Cell id or its beginning.")],
    store: StoreOption = Path("results"),
) -> None:
    """Print the record of a cell as JSON."""
    from .store import Store

    found = Store(store)
    cell_id = found.find_cell(cell)
    record = found.record(cell_id)
    if record is None:
        out.print(f"cell {cell_id} is {found.state(cell_id)}; it has no record yet")
        raise SystemExit(ExitCode.INCOMPLETE)
    print_json(record.model_dump(mode="json"))


@app.command()
def logs(
    cell: Annotated[str, typer.Argument(help="Cell id or its beginning.")],
    store: StoreOption = Path("results"),
) -> None:
    """Print what a cell's worker printed."""
    from .store import Store

    found = Store(store)
    path = found.cell_folder(found.find_cell(cell)) / "log.txt"
    out.print(path.read_text() if path.exists() else "", markup=False, end="")


@app.command()
@uncollected()
@one_blas_thread()
def report(study: RunArgument, store: StoreOption = Path("results")) -> None:
    """Write figures, tables and the page anew, from the records alone."""
    from .company import report_company
    from .store import Store

    found = Store(store)
    with report_company(found.num_cells_about(study)) as second:
        planned = found.plan(study)
        from .gathering import begin_gathering

        gathering = begin_gathering(planned, found, second)
        from . import answering  # which takes a while

        paths = answering.report_study(planned, found, second=second, gathering=gathering)
    out.print(str(paths.page))
    if paths.incomplete:
        err.print(paths.incomplete, markup=False)


app.command()(fit)
app.command(epilog=EPILOG)(probe)
app.command()(doctor)
app.command()(soak)
app.add_typer(bench, name="bench")


@app.command()
@uncollected()
def export(
    study: RunArgument,
    store: StoreOption = Path("results"),
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
) -> None:
    """Write the table of records as parquet and CSV; docs/records.md explains the columns."""
    from .export import export_frame, export_table
    from .few_shot_results import few_shot_frame
    from .probes.probe_results import probe_frame
    from .store import Store

    found = Store(store)
    planned = found.plan(study)
    unreadable: list[str] = []
    for stage in planned.stages:
        records = found.each_record(stage, unreadable)
        for path in export_table(records, output, name=stage.study_id, tier=stage.spec.tier):
            out.print(str(path))
    if unreadable:
        err.print(
            f"left out, since their records are damaged: {', '.join(unreadable)}; the next study run trains them again",
            markup=False,
        )
    if planned.spec.few_shot is not None:
        for path in export_frame(few_shot_frame(planned, found), output, name=f"{planned.study_id}.few_shot"):
            out.print(str(path))
    if len(probed := probe_frame(planned, found)):
        for path in export_frame(probed, output, name=f"{planned.study_id}.probes"):
            out.print(str(path))


@app.command()
def bundle(
    study: RunArgument,
    store: StoreOption = Path("results"),
    output: Annotated[Optional[Path], typer.Option(help="File to write.")] = None,  # noqa: UP045
) -> None:
    """Pack plan, records, predictions and report into one file."""
    from .bundle import bundle_study
    from .store import Store

    found = Store(store)
    study_id = found.plan(study).study_id
    out.print(str(bundle_study(found, study_id, output or Path(f"{study_id}.tar.gz"))))


@app.command()
def verify(file: Annotated[Path, typer.Argument(help="A bundle.", exists=True, dir_okay=False)]) -> None:
    """Check that a bundle is whole and unaltered."""
    from .bundle import verify_bundle

    problems = verify_bundle(file)
    for problem in problems:
        err.print(problem, markup=False)
    if problems:
        raise SystemExit(ExitCode.VERIFICATION)
    out.print(f"{file} is whole: every checksum, cell id and the plan's hash agree")


@app.command()
def sync(
    study: RunArgument,
    store: StoreOption = Path("results"),
    project: Annotated[str, typer.Option(help="W&B project.")] = "inductive-bias-study",
    entity: Annotated[Optional[str], typer.Option(help="W&B entity.")] = None,  # noqa: UP045
    timeout: Annotated[float, typer.Option(help="Seconds after which to give up.")] = 600.0,
) -> None:
    """Hand the offline W&B runs of a study to a server."""
    from . import answering
    from .probes.probe_results import probe_frame
    from .probes.summary import run_values
    from .store import Store
    from .tracking import TrackingSpec, mirror_study, sync_study

    found = Store(store)
    planned = found.plan(study)
    folder = found.study_folder(planned.study_id)
    settings = TrackingSpec(kind="wandb", mode="offline", project=project, entity=entity)
    probed = run_values(probe_frame(planned, found))
    mirror_study(found.records(planned), answering.study_card(planned), folder, settings, probed=probed)
    result = sync_study(folder, settings, timeout=timeout)
    out.print(result.message, markup=False)
    if not result.ok:
        raise SystemExit(ExitCode.INCOMPLETE)


@app.command()
def clean(
    study: Annotated[Optional[str], typer.Argument(help="Study whose plan and report to remove.")] = None,  # noqa: UP045
    store: StoreOption = Path("results"),
    interrupted: Annotated[bool, typer.Option(help="Remove checkpoints of cells that nobody trains.")] = False,
    failed: Annotated[bool, typer.Option(help="Remove cells whose record says failed or invalid.")] = False,
    orphans: Annotated[bool, typer.Option(help="Remove cells that belong to no plan in the store.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would be removed.")] = False,
) -> None:
    """Remove what is asked for, and only with --yes. Running cells are never touched."""
    from .housekeeping import clean_store
    from .store import Store

    found = Store(store)
    study_id = found.plan(study).study_id if study else None
    for line in clean_store(found, study_id, interrupted=interrupted, failed=failed, orphans=orphans, really=yes):
        out.print(line, markup=False)
    if not yes:
        out.print("nothing was removed; add --yes to do it")


fill_paragraphs(app)


def _status_json(planned: Plan, states: Mapping[str, str], store: Store) -> dict[str, Any]:
    from .few_shot_results import count_results
    from .probes.probe_results import coverage
    from .troubled_lines import TROUBLED, reason_of

    probed, (done, networks) = coverage(planned, store), count_results(planned, store)
    few_shot = {"few_shot": {"done": done, "networks": networks}} if networks else {}
    asked = {name: {"done": probed.done.get(name, 0), "asked": count} for name, count in probed.asked.items()}
    cells = [{"id": cell.id, "title": cell.title, "state": states[cell.id]} for cell in planned.cells]
    for cell in cells:
        if cell["state"] in TROUBLED:
            cell["reason"] = reason_of(cell["id"], store)
    told = {"study_id": planned.study_id, "counts": Counter(states.values()), "cells": cells}
    return told | few_shot | {"probes": asked}
