"""Anybody's table: read from CSV or parquet, its columns recognised where there is no doubt, and said.

A name is guessed only if one column of the table can be meant; otherwise the person is asked. A number that may be in
percent is never divided by 100 by itself.
"""

from __future__ import annotations

import csv
import gzip
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pandas as pd

from studies.errors import ConfigError

from .table import Columns
from .values import numbers, refuse_repeated

FAMILY = ("family", "arm", "model", "architecture", "arch", "method", "network")
X = ("num_train", "n_train", "train_size", "num_images", "dataset_size", "train_flops", "flops", "num_parameters")
ERROR = ("error", "test_error", "error_rate", "test_err", "err")
ACCURACY = ("accuracy", "test_accuracy", "acc", "test_acc", "top1", "top1_accuracy")
REPLICATE = ("replicate", "seed", "run", "trial", "repeat")
NUM_TEST = ("num_test", "n_test", "test_size")
STANDARD_ERROR = ("standard_error", "error_standard_error", "stderr", "se")
NOT_A_NUMBER = ("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "#N/A", "#NA", "<NA>")
"""Cells of a CSV file that hold nothing, where no names are expected."""
LOSSES = ("loss", "nll", "entropy", "perplexity", "likelihood", "bits")
"""Words in the name of a column whose values may exceed 1."""


@dataclass(frozen=True)
class ForeignTable:
    """A table with its columns understood.

    Attributes:
        frame: as read; an accuracy has been turned into an error.
        columns: what is where.
        notes: what was guessed or turned, in sentences.
    """

    frame: pd.DataFrame
    columns: Columns
    notes: tuple[str, ...]


def read_table(path: Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a parquet file, or a CSV file separated by commas, semicolons or tabs, with `#` lines before its header.

    Args:
        path: of the file; a CSV file may be gzipped.
        text: columns of names besides those that are usually so called. Names of a CSV file are read as they are
            written: 007 is not 7, NA is a name, and only an empty cell is none.

    Raises:
        ConfigError: there is no such file, or it is not a table, or it has no rows, or two columns have one name.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; expected a table as .csv or .parquet, or the name of a study")
    try:
        frame = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path, text)
    except (ValueError, OSError, EOFError, csv.Error, pd.errors.ParserWarning) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} cannot be read as a table (CSV or parquet): {reason}") from None
    if frame.empty:
        raise ConfigError(f"{path} has a header ({', '.join(map(str, frame.columns))}) and no rows")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    named = [name for name in frame.index.names if name is not None]
    return frame.reset_index(level=named) if named else frame


def _read_csv(path: Path, text: Sequence[str]) -> pd.DataFrame:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
        header, separator = _header(path, file)
        of_names = {name for name in header if name in text or name.lower() in (*FAMILY, *REPLICATE)}
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header loses cells otherwise
        return pd.read_csv(
            file,
            sep=separator,
            header=None,
            names=header,
            index_col=False,
            skipinitialspace=True,
            dtype=dict.fromkeys(of_names, str),
            keep_default_na=False,
            na_values={name: [""] if name in of_names else list(NOT_A_NUMBER) for name in header},
            low_memory=False,
        )


def _header(path: Path, file: TextIO) -> tuple[list[str], str]:
    """Names of the columns and what separates them; leaves the file at the first row."""
    for line in file:
        if line.strip() and not line.lstrip().startswith("#"):
            break
    else:
        raise ConfigError(f"{path} is empty; expected a header and rows")
    split = {separator: next(csv.reader([line], delimiter=separator, skipinitialspace=True)) for separator in ",;\t"}
    separator = max(split, key=lambda one: len(split[one]))  # the first of equals: the comma
    header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(split[separator])]
    if len(header) == 1:
        raise ConfigError(
            f"{path} has a single column ({header[0]}); expected several, separated by commas, semicolons or tabs"
        )
    refuse_repeated(header)
    return header, separator


def understand(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    family: str | None = None,
    error: str | None = None,
    replicate: str | None = None,
) -> ForeignTable:
    """Finds the columns of a table.

    Args:
        frame: anybody's.
        x: name of the column that the error is measured against; guessed if None, as are the following.
        family: of what is compared.
        error: of the error, or of an accuracy, which is recognised by `acc` or `top1` in its name.
        replicate: of what says which rows of different families belong together.

    Raises:
        ConfigError: a named column does not exist, no or several columns could be meant, one column would have two
            meanings, two columns have one name, or values seem to be percent.
    """
    refuse_repeated([str(column) for column in frame.columns])
    notes: list[str] = []
    family_column = _column(frame, "family", family, FAMILY, notes)
    x_column = _column(frame, "x", x, X, notes)
    error_column = _error_column(frame, error, notes)
    taken = {"x": x_column, "family": family_column, "error": error_column}
    if replicate is not None:
        taken["replicate"] = replicate
    _refuse_two_meanings(taken)
    free = frame.drop(columns=[column for column in taken.values() if column != replicate and column in frame])
    replicate_column = _optional(free, replicate, "replicate", REPLICATE, notes)
    num_test, standard_error = (
        _optional(free.drop(columns=replicate_column, errors="ignore"), None, meaning, known, notes)
        for meaning, known in (("num_test", NUM_TEST), ("standard_error", STANDARD_ERROR))
    )
    frame = frame.copy()
    _refuse_percent(frame, error_column)
    if _is_accuracy(error_column):
        name = "error"
        while name in frame.columns:
            name = f"{name}_"
        frame[name] = 1 - numbers(frame, error_column)
        notes.append(f"Errors are 1 - {error_column}.")
        error_column = name
    columns = Columns(x_column, family_column, error_column, replicate_column, num_test, standard_error)
    return ForeignTable(frame, columns, tuple(notes))


def _column(frame: pd.DataFrame, meaning: str, named: str | None, known: Sequence[str], notes: list[str]) -> str:
    listed = ", ".join(map(str, frame.columns))
    if named is not None:
        if named not in frame.columns:
            raise ConfigError(f"--{meaning}: the table has no column {named!r}; it has {listed}")
        return named
    found = _candidates(frame, known)
    if len(found) == 1:
        if found[0] != known[0]:
            notes.append(f"Column {found[0]!r} is read as {meaning}.")
        return found[0]
    what = "no column could be" if not found else f"{_either(found)} could be"
    raise ConfigError(f"{what} the {meaning}; name one with --{meaning}. The table has {listed}")


def _error_column(frame: pd.DataFrame, named: str | None, notes: list[str]) -> str:
    if named is None and not _candidates(frame, ERROR):
        return _column(frame, "error", None, ("error", *ACCURACY), notes)
    return _column(frame, "error", named, ERROR, notes)


def _optional(frame: pd.DataFrame, named: str | None, meaning: str, known: Sequence[str], notes: list[str]) -> str:
    """A column that a table need not have; its usual name if it has none."""
    found = _candidates(frame, known)
    if named is None and not found:
        return known[0]
    return _column(frame, meaning, named, known, notes)


def _candidates(frame: pd.DataFrame, known: Sequence[str]) -> list[str]:
    """Columns with a known name, in any case; the plain name wins over its synonyms."""
    if known[0] in frame.columns:
        return [known[0]]
    return [str(column) for column in frame.columns if str(column).lower() in known]


def _refuse_two_meanings(taken: dict[str, str]) -> None:
    for meaning, column in taken.items():
        for other, its_column in taken.items():
            if meaning < other and column == its_column:
                raise ConfigError(
                    f"column {column!r} would be both the {meaning} and the {other}; name one column for each with "
                    f"--{meaning} and --{other}"
                )


def _either(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _is_accuracy(column: str) -> bool:
    return "acc" in column.lower() or "top1" in column.lower()


def _refuse_percent(frame: pd.DataFrame, column: str) -> None:
    if any(word in column.lower() for word in LOSSES):
        return
    values = numbers(frame, column)
    if (values > 1).any():
        place = int((values > 1).to_numpy().argmax())
        raise ConfigError(
            f"row {place + 1}: {column} is {values.iloc[place]:g}, and a rate is between 0 and 1. If the column is in "
            "percent, divide it by 100; if it is a loss, call it so (a name with 'loss' in it)"
        )
    if _is_accuracy(column) and (values < 0).any():
        place = int((values < 0).to_numpy().argmax())
        raise ConfigError(f"row {place + 1}: {column} is {values.iloc[place]:g}, and a rate is between 0 and 1")
