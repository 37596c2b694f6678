"""`study fit`: all answers of a table, anybody's or a study's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from .console import JsonOption, StoreOption, err, out, print_json
from .errors import ConfigError, NotInStoreError

if TYPE_CHECKING:
    from .analysis.measured import Measured

SourceArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="CSV or parquet file, or the name or id of a study in the store.")
]
MANY_REPLICATES = 100
"""From here on an analysis says beforehand that it takes its time: two families at five sizes take some 5 s."""
ColumnOption = Optional[str]  # noqa: UP045  # typer reads this form


def fit(
    table: SourceArgument,
    x: Annotated[ColumnOption, typer.Option(help="Column the error is measured against.")] = None,
    family: Annotated[ColumnOption, typer.Option(help="Column that names what is compared.")] = None,
    error: Annotated[ColumnOption, typer.Option(help="Column of the error, or of an accuracy.")] = None,
    replicate: Annotated[ColumnOption, typer.Option(help="Column that says which rows belong together.")] = None,
    num_train: Annotated[
        Optional[int], typer.Option(help="Of a study: only cells with this many training images.")  # noqa: UP045
    ] = None,
    pair: Annotated[
        ColumnOption, typer.Option(metavar="PRIOR,FLEXIBLE", help="The pair in question; others are corrected for.")
    ] = None,
    chance: Annotated[Optional[float], typer.Option(help="Error of guessing, such as 0.9.")] = None,  # noqa: UP045
    control: Annotated[
        ColumnOption, typer.Option(metavar="TABLE", help="The same families on images with permuted pixels.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Coverage of intervals.")] = 0.95,
    interpolation: Annotated[
        Optional[Literal["linear", "monotone"]], typer.Option(help="Of log errors between the measured x.")  # noqa: UP045
    ] = None,
    at: Annotated[
        Optional[list[float]], typer.Option(help="Say which to choose at this x; may be repeated.")  # noqa: UP045
    ] = None,
    target: Annotated[
        Optional[list[float]], typer.Option(help="Say which x this error needs; may be repeated.")  # noqa: UP045
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random starts of the fits.")] = 0,
    figure: Annotated[Optional[Path], typer.Option(help="Draw the curves into this .png or .svg.")] = None,  # noqa: UP045
    store: StoreOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Say what a table of errors shows: who wins where, where curves cross, what a prior is worth, and how surely.

    The table has a row per family, x (training images, FLOPs, ...) and replicate, with an error or an accuracy. Columns
    are recognised by their usual names or named by options. What `study export` writes can be read as it is. Exit code
    2 and one message where the table cannot be read.
    """
    _check(confidence, chance, at or [], target or [], figure)
    from .analysis.answers import DEFAULT_INTERPOLATION, analyse
    from .printed_answers import answer_tables

    columns = {"x": x, "family": family, "error": error, "replicate": replicate}
    measured = _measured(table, columns, num_train, store)
    chosen = _pair(pair, list(measured.table.curves)) or measured.pair
    permuted = measured.control if control is None else _measured(control, columns, num_train, store).table
    if (count := max((curve.num_replicates for curve in measured.table.curves.values()), default=0)) > MANY_REPLICATES:
        err.print(
            f"{count:,} replicates: intervals refit every curve without each of them, which can take minutes",
            markup=False,
        )
    answers = analyse(
        measured.table,
        pair=chosen,
        control=permuted,
        chance=measured.chance if chance is None else chance,
        confidence=confidence,
        interpolation=interpolation or DEFAULT_INTERPOLATION,
        at=at or (),
        errors=target or (),
        seed=seed,
    )
    if figure is not None:
        from .report.table_figure import write_figure

        write_figure(answers, figure, measured.names)
        err.print(f"figure written to {figure}", markup=False)
    if as_json:
        print_json(answers.as_dict())
        return
    for statement in answers.statements(measured.names):
        out.print(statement, markup=False)
    for part in answer_tables(answers):
        out.print(part)


def _measured(source: str, columns: dict[str, str | None], num_train: int | None, store: Path) -> Measured:
    """The curves of a file; of a study in the store where there is no such file."""
    from .analysis.measured import is_export, measured_export, measured_table
    from .analysis.reading import read_table

    path = Path(source)
    if not path.is_file() and (not path.suffix or _is_study(source, store)):
        return _measured_study(source, columns, num_train, store)
    named = [columns[meaning] for meaning in ("family", "error", "replicate")]
    frame = read_table(path, text=[name for name in (columns["family"], columns["replicate"]) if name is not None])
    if is_export(frame) and not any(named):
        return measured_export(frame, x=columns["x"], num_train=num_train)
    if num_train is not None:
        raise ConfigError(
            "--num-train belongs to studies and their exports; choose the rows of another table beforehand"
        )
    return measured_table(frame, **columns)


def _is_study(name: str, store: Path) -> bool:
    """Whether a study of the store has this name or id; the hash at the end of an id looks like a file's suffix."""
    from .store import Store

    try:
        Store(store).plan(name)
    except NotInStoreError:
        return False
    return True


def _measured_study(name: str, columns: dict[str, str | None], num_train: int | None, store: Path) -> Measured:
    from . import answering
    from .analysis.measured import measured_export
    from .analysis.study import read_blocks
    from .kept_predictions import KeptPredictions, lost_statement, stated_predictions
    from .records import records_frame
    from .report.palette import looks_of
    from .store import Store

    if extra := [f"--{option}" for option in ("family", "error", "replicate") if columns[option] is not None]:
        raise ConfigError(f"{', '.join(extra)}: the columns of a study's own records are known; only --x can be chosen")
    found = Store(store)
    try:
        planned = found.plan(name)
    except NotInStoreError as error:
        raise ConfigError(f"{name} is neither a file nor a study of the store: {error}") from None
    records = found.records(planned)
    frame = records_frame(records, planned.spec.tier)
    card = answering.study_card(planned)
    predictions = KeptPredictions(found, stated_predictions(records))
    blocks = read_blocks(frame, predictions)
    if predictions.lost:
        err.print(lost_statement(predictions.lost), markup=False)
    names = {arm: look.label for arm, look in looks_of(frame).items()}
    return measured_export(
        frame,
        x=columns["x"] or planned.spec.x,
        num_train=num_train,
        blocks=blocks,
        pair=card.primary_pair,
        chance=card.chance_error,
        names=names,
    )


def _pair(told: str | None, families: list[str]) -> tuple[str, str] | None:
    if told is None:
        return None
    named = [part.strip() for part in told.split(",")]
    if len(named) != 2 or named[0] == named[1]:
        raise ConfigError(f"--pair is {told!r}; expected two families, the stronger prior first, such as resnet,vit")
    for family in named:
        if family not in families:
            raise ConfigError(f"--pair: the table has no family {family!r}; it has {', '.join(families)}")
    return named[0], named[1]


def _check(confidence: float, chance: float | None, at: list[float], target: list[float], figure: Path | None) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence is {confidence:g}; expected a number between 0 and 1, such as 0.95")
    if chance is not None and not 0 < chance < math.inf:
        raise ConfigError(f"--chance is {chance:g}; expected the error of guessing, such as 0.9 for ten equal classes")
    for option, values in (("at", at), ("target", target)):
        for value in values:
            if not value > 0 or value == math.inf:
                raise ConfigError(f"--{option} is {value:g}; expected a positive number")
    if figure is not None and figure.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"--figure is {figure}; expected a name that ends in .png or .svg")
