"""Cells of anybody's table as names and as numbers; what can be neither is refused with its row, value and remedy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from studies.errors import ConfigError


def labels(column: pd.Series[float]) -> pd.Series[str]:
    """Cells as names: text without the white space around it, numbers as people write them; None where there is none.

    Text stays what it is, so that "01" and "1" are two; whole numbers have no decimals, so that 1 and 1.0 are one.
    """
    if isinstance(column.dtype, pd.StringDtype):  # few different names, and slow to go through one by one
        codes, names = pd.factorize(column)
        told = np.array([*(_label(name) for name in names), None], dtype=object)
        return pd.Series(told[codes], index=column.index, dtype=object)  # -1, of what is missing, is the last
    return pd.Series(
        [None if gap else _label(value) for value, gap in zip(column, column.isna(), strict=True)],
        index=column.index,
        dtype=object,
    )


def _label(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def numbers(frame: pd.DataFrame, column: str) -> pd.Series[float]:
    """Cells as numbers, NaN where there is none.

    Raises:
        ConfigError: a cell is text, a date, or true or false.
    """
    cells = frame[column]
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    number = pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells)
    text = pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells)
    if pd.api.types.is_complex_dtype(cells) or not (number or text):
        wrong = cells.notna()
        found = cells.astype(float).mask(wrong) if not wrong.any() else pd.Series(np.nan, index=cells.index)
    else:
        found = pd.to_numeric(cells, errors="coerce")
        wrong = found.isna() & cells.notna()
        if not number:
            wrong |= cells.map(lambda value: isinstance(value, (bool, np.bool_))).astype(bool)
    if wrong.any():
        place = first(wrong)
        value = cells.iloc[place]
        shown = repr(value) if isinstance(value, str) else str(value)
        hint = ", with a point before its decimals" if isinstance(value, str) and "," in value else ""
        raise ConfigError(f"row {place + 1}: {column} is {shown}; expected a number{hint}")
    return found.astype(float)


def first(wrong: pd.Series[bool]) -> int:
    """Place of the first true cell, from 0."""
    return int(wrong.to_numpy().argmax())


def refuse(wrong: pd.Series[bool], values: pd.Series[float], column: str, expected: str) -> None:
    """Refuses numbers that cannot be what their column says.

    Raises:
        ConfigError: any cell is wrong; names the first one's row and value, and what was expected.
    """
    if wrong.any():
        place = first(wrong)
        raise ConfigError(f"row {place + 1}: {column} is {values.iloc[place]:g}; expected {expected}")


def refuse_repeated(names: list[str]) -> None:
    """Refuses a table in which a name could mean either of two columns.

    Raises:
        ConfigError: two columns have one name.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"the table has {names.count(repeated[0])} columns called {repeated[0]!r}; rename or remove all but one"
        )
