"""Typed columns of a user's table: numbers, yes or no, categories and texts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason, printable
from qmri_lake.lake.table_cells import is_missing, row_name
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable

__all__ = ["Column", "read_column_cells"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LEADING_ZERO = re.compile(r"[+-]?0\d.*")
_COMMA = re.compile(r"[+-]?\d[\d.]*,\d+")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?"
    r"|\d{1,2}[- ]?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[- ,]*"
    r"(\d{4}|\d{2})(:.*)?",
    re.IGNORECASE,
)
_LARGEST_WHOLE = 2**53
"""Largest integer up to which float64 represents every integer."""
_LONGEST_TEXT = 100
_MOST_WORDS = 30
"""Largest number of different words of a category; a column with more words is a text."""
_YES_NO = {"no": 0, "yes": 1}
_TIME_UNITS = {
    "days": "d",
    "hours": "h",
    "minutes": "min",
    "seconds": "s",
    "milliseconds": "ms",
    "microseconds": "us",
    "nanoseconds": "ns",
}
"""Units that xarray would decode as durations, and the notation to use instead."""
_FILL_MEANING = "no value in the table"


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table, in the types of the lake."""

    name: str
    source: str
    """Name in the table."""
    values: Values
    """(row,) numbers, codes of words, or texts; the fill value where the cell has no value."""
    fill: object
    dtype: str
    unit: str
    valid_range: tuple[float, float] | None
    flags: Mapping[str, int] | None
    summary: str
    """The type, the values and the number of missing cells, as text for messages."""

    def variable(self, group: str, table: str, step: str) -> Variable:
        """Return the declaration of the column in a group of a lake."""
        return Variable(
            group,
            self.name,
            (),
            self.dtype,
            f"Column {self.source!r} of {table}",
            self.unit,
            _FILL_MEANING,
            self.fill,
            self.valid_range,
            self.flags,
            step,
            privacy=Privacy.TEXT if self.dtype == "string" else Privacy.OWN,
        )

    @property
    def note(self) -> str:
        """One line that says how the column was understood."""
        renamed = "" if self.name == self.source else f" (column {self.source!r})"
        return f"{self.name}{renamed}: {self.summary}"


def read_column_cells(
    table: pd.DataFrame,
    source: str,
    name: str,
    where: str,
    *,
    unit: str = "",
    as_text: bool = False,
    missing: Sequence[str] = (),
) -> Column | None:
    """Read a column of a table; return None if it has no value.

    All cells with a value must have one type: numbers, true and false, or texts. Numbers are
    float64, because an integer has no NaN. A number may be written as text, as in every cell of a
    text file; if a cell has a leading zero, such as 01, the column contains codes and is a text.

    Raises
    ------
    InputError
        If the column mixes types; if it has dates, decimal commas, infinite numbers, integers with
        more digits than float64 represents, or texts that are too long; or if a unit is given for a
        column of texts.
    """
    where = f"{where} column {source}"
    words = frozenset(missing)
    cells = [None if is_missing(cell, words) else cell for cell in table[source].tolist()]
    rows = [i for i, cell in enumerate(cells) if cell is not None]
    if not rows:
        return None
    _check_unit(unit, where)
    known = [_plain(cells[i]) for i in rows]
    _refuse_dates(table, known, rows, where)
    absent = counted(len(cells) - len(rows), "missing cell") if len(rows) < len(cells) else ""

    def column(
        kind: str,
        dtype: str,
        fill: object,
        codes: Sequence[object],
        valid_range: tuple[float, float] | None = None,
        flags: Mapping[str, int] | None = None,
    ) -> Column:
        values = np.full(len(cells), fill, dtype=object if dtype == "string" else dtype)
        values[rows] = np.array(codes, dtype=values.dtype)
        if unit and valid_range is None:
            raise _fault(
                f"the unit {unit!r} of a {kind.partition(':')[0]}",
                "numbers",
                "Omit the unit.",
                where,
            )
        summary = ", ".join(filter(None, (kind, absent)))
        return Column(
            name, source, values, fill, dtype, unit, valid_range, flags, printable(summary)
        )

    if as_text:
        texts = [_as_text(cell) for cell in known]
    elif all(isinstance(cell, bool) for cell in known):
        return column("yes or no", "uint8", 255, [int(c) for c in known], None, _YES_NO)
    elif (numbers := _numbers(table, known, rows, where)) is not None:
        low, high = float(min(numbers)), float(max(numbers))
        kind = f"number from {low:.15g} to {high:.15g}{f' {unit}' if unit else ''}"
        return column(kind, "float64", float("nan"), numbers, (low, high))
    else:
        texts = [str(cell) for cell in known]
        if {text.lower() for text in texts} <= {"true", "false"}:
            codes = [int(text.lower() == "true") for text in texts]
            return column("yes or no", "uint8", 255, codes, None, _YES_NO)
    _check_texts(table, texts, rows, where)
    different = sorted(set(texts))
    if len(different) <= _MOST_WORDS and not any(re.search(r"\s", text) for text in different):
        flags = {word: code for code, word in enumerate(different)}
        kind = f"category: {', '.join(different)}"
        return column(kind, "uint8", 255, [flags[text] for text in texts], None, flags)
    return column(f"text: {counted(len(different), 'different value')}", "string", "", texts)


def _plain(cell: Any) -> Any:
    """Return a cell as a plain bool, int, float or stripped text; other objects unchanged."""
    if isinstance(cell, np.generic) and not isinstance(cell, np.datetime64 | np.timedelta64):
        cell = cell.item()
    return cell.strip() if isinstance(cell, str) else cell


def _as_text(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _fault(found: str, expected: str, todo: str, where: str) -> InputError:
    return InputError(
        found, expected=expected, where=where, todo=todo, reason=Reason.UNREADABLE_VALUE
    )


def _check_unit(unit: str, where: str) -> None:
    short = _TIME_UNITS.get(unit.strip().lower())
    if short or " since " in unit:
        raise _fault(
            f"the unit {unit!r}",
            "a unit of numbers, in the notation of CF",
            f"Give {short!r}." if short else "Store the days since enrolment, in d.",
            where,
        )


def _refuse_dates(table: pd.DataFrame, known: list[Any], rows: list[int], where: str) -> None:
    types = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
    dates = [
        row
        for row, cell in zip(rows, known, strict=True)
        if isinstance(cell, types) or (isinstance(cell, str) and _DATE.fullmatch(cell))
    ]
    if dates:
        raise _fault(
            f"{counted(len(dates), 'date')}, first in {row_name('', table, dates[0]).strip()}",
            "no dates: they may identify a person",
            "Store the number of days since enrolment, or omit the column.",
            where,
        )


def _numbers(
    table: pd.DataFrame, known: list[Any], rows: list[int], where: str
) -> list[float] | None:
    """Return the numbers of a column, or None if it contains texts.

    Raises
    ------
    InputError
        If some cells are numbers and others are not, or if a number cannot be represented.
    """
    is_number = [
        isinstance(cell, int | float) and not isinstance(cell, bool)
        if not isinstance(cell, str)
        else bool(_NUMBER.fullmatch(cell))
        for cell in known
    ]
    if not any(is_number):
        commas = [row for row, cell in zip(rows, known, strict=True) if _COMMA.fullmatch(str(cell))]
        if commas:
            raise _fault(
                f"{counted(len(commas), 'number')} with a comma, first in "
                f"{row_name('', table, commas[0]).strip()}",
                "a decimal point and no thousands separator",
                "Replace the commas, or store the column as text: --text.",
                where,
            )
        kinds = {type(cell).__name__ for cell in known}
        if kinds != {"str"}:
            raise _fault(
                f"values of type {' and '.join(sorted(kinds))}",
                "numbers, texts, or true and false",
                "Convert the column, or omit it.",
                where,
            )
        return None
    texts = [cell for cell in known if isinstance(cell, str)]
    if not all(is_number):
        other = is_number.index(False)
        raise _fault(
            f"{counted(sum(is_number), 'number')} and "
            f"{counted(len(known) - sum(is_number), 'other value')}, first in "
            f"{row_name('', table, rows[other]).strip()}",
            "numbers only, or texts only",
            "Correct the cells; or name the code of a missing value (--missing CODE); or store the "
            "column as text (--text).",
            where,
        )
    if any(_LEADING_ZERO.fullmatch(text) for text in texts):
        return None  # codes, such as 01: as numbers they would lose the zero
    large = [cell for cell in known if abs(float(cell)) > _LARGEST_WHOLE and _is_whole(cell)]
    if large or not np.isfinite(values := [float(cell) for cell in known]).all():
        raise _fault(
            "a whole number of more than 15 digits" if large else "an infinite number",
            "finite numbers that float64 represents",
            "Store the column as text (--text), or correct it.",
            where,
        )
    return values


def _is_whole(cell: object) -> bool:
    return isinstance(cell, int) or (
        isinstance(cell, str) and bool(re.fullmatch(r"[+-]?\d+", cell))
    )


def _check_texts(table: pd.DataFrame, texts: list[str], rows: list[int], where: str) -> None:
    for row, text in zip(rows, texts, strict=True):
        if len(text) > _LONGEST_TEXT or not text.isprintable() or text != printable(text):
            raise _fault(
                f"a text of {len(text)} characters, or with characters that cannot be printed, in "
                f"{row_name('', table, row).strip()}",
                f"printable texts of at most {_LONGEST_TEXT} characters",
                "Shorten the texts, or omit the column.",
                where,
            )
