"""Anybody's table: read from CSV or parquet, its columns recognised where there is no doubt, and said.

A name is guessed only if one column of the table can be meant; otherwise the person is asked. A number that may be in
percent is never divided by 100 by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from studies.errors import ConfigError

from .table import Columns

FAMILY = ("family", "arm", "model", "architecture", "arch", "method", "network")
X = ("num_train", "n_train", "train_size", "num_images", "dataset_size", "train_flops", "flops", "num_parameters")
ERROR = ("error", "test_error", "error_rate", "test_err", "err")
ACCURACY = ("accuracy", "test_accuracy", "acc", "test_acc", "top1", "top1_accuracy")
REPLICATE = ("replicate", "seed", "run", "trial", "repeat")
NUM_TEST = ("num_test", "n_test", "test_size")
STANDARD_ERROR = ("standard_error", "error_standard_error", "stderr", "se")
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


def read_table(path: Path) -> pd.DataFrame:
    """Reads a CSV or parquet file.

    Raises:
        ConfigError: there is no such file, or it is not a table, or it has no rows.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; expected a table as .csv or .parquet, or the name of a study")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, comment="#", skipinitialspace=True)
    except pd.errors.EmptyDataError:
        raise ConfigError(f"{path} is empty; expected a header and rows") from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} cannot be read as a table (CSV or parquet): {reason}") from None
    if frame.empty:
        raise ConfigError(f"{path} has a header ({', '.join(map(str, frame.columns))}) and no rows")
    return frame


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
        ConfigError: a named column does not exist, no or several columns could be meant, or values seem to be percent.
    """
    notes: list[str] = []
    family_column = _column(frame, "family", family, FAMILY, notes)
    x_column = _column(frame, "x", x, X, notes)
    error_column = _error_column(frame, error, notes)
    replicate_column = _optional(frame, replicate, "replicate", REPLICATE, notes)
    num_test, standard_error = (
        _optional(frame, None, meaning, known, notes)
        for meaning, known in (("num_test", NUM_TEST), ("standard_error", STANDARD_ERROR))
    )
    frame = frame.copy()
    _refuse_percent(frame, error_column)
    if _is_accuracy(error_column):
        name = "error"
        while name in frame.columns:
            name = f"{name}_"
        frame[name] = 1 - _numeric(frame, error_column)
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


def _either(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _is_accuracy(column: str) -> bool:
    return "acc" in column.lower() or "top1" in column.lower()


def _refuse_percent(frame: pd.DataFrame, column: str) -> None:
    if any(word in column.lower() for word in LOSSES):
        return
    values = _numeric(frame, column)
    if (values > 1).any():
        place = int((values > 1).to_numpy().argmax())
        raise ConfigError(
            f"row {place + 1}: {column} is {values.iloc[place]:g}, and a rate is between 0 and 1. If the column is in "
            "percent, divide it by 100; if it is a loss, call it so (a name with 'loss' in it)"
        )
    if _is_accuracy(column) and (values < 0).any():
        place = int((values < 0).to_numpy().argmax())
        raise ConfigError(f"row {place + 1}: {column} is {values.iloc[place]:g}, and a rate is between 0 and 1")


def _numeric(frame: pd.DataFrame, column: str) -> pd.Series[float]:
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    wrong = numbers.isna() & frame[column].notna()
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        raise ConfigError(f"row {place + 1}: {column} is {frame[column].iloc[place]!r}; expected a number")
    return numbers
