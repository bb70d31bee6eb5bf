"""OAI's text tables: ``|`` between cells, codes like ``1: Male``, missing values like ``.M``."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.identity import PATIENTS
from qmri_lake.variables import Variable

__all__ = ["Coded", "Table", "find_tables", "parse_coded", "read_table"]

_MISSING = re.compile(r"^\.(?!\d)")
"""A cell that starts with a point is missing; .5 is a number."""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A column of coded cells as numbers."""

    value: NDArray[np.float64]
    """What stands before ``:``; NaN where missing or unreadable."""
    missing: NDArray[np.object_]
    """The letter of the missing code (``P`` of ``.P``), "" elsewhere and for blanks."""
    bad: NDArray[np.bool_]
    """Cells that are neither missing nor a number."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table: text cells, upper-case column names, one row for each usable ``ID``."""

    name: str
    cells: pd.DataFrame
    """Index: line in the file, from 1."""
    patient: pd.Series[int]
    problems: tuple[Problem, ...]
    """One for each row without a readable ``ID``; those rows are left out."""
    keys: tuple[str, ...] = ("ID",)

    def where(self, row: int, column: str) -> str:
        """Return the place of a cell, for messages."""
        return f"{self.name} row {row} column {column}"

    def numbers(
        self, column: str, variable: Variable | None = None, *, whole: bool = False
    ) -> tuple[pd.Series[float], list[Problem]]:
        """Return a column as numbers, NaN where missing, and its unusable cells.

        A value that `variable` does not allow, or that is not whole where it must be, is missing.
        """
        coded = parse_coded(self.cells[column])
        bad = coded.bad | _forbidden(coded.value, variable)
        if whole:
            bad |= np.isfinite(coded.value) & (coded.value != np.floor(coded.value))
        expected = "a number, a code like '1: Yes', or a missing code like '.M'"
        if variable is not None:
            expected += f"; {variable.expectation}"
        problems = [self._unusable(row, column, expected) for row in self.cells.index[bad]]
        return pd.Series(np.where(bad, np.nan, coded.value), self.cells.index), problems

    def dates(self, column: str) -> tuple[pd.Series[pd.Timestamp], list[Problem]]:
        """Return ``mm/dd/yyyy`` or ``yyyy-mm-dd`` cells as dates, and the unreadable ones."""
        text = self.cells[column].str.strip()
        date = pd.to_datetime(text, format="%m/%d/%Y", errors="coerce")
        date = date.fillna(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"))
        bad = date.isna() & (text != "") & ~text.str.match(_MISSING)
        expected = "a date mm/dd/yyyy, or a missing code like '.M'"
        rows = self.cells.index[bad.to_numpy(bool)]
        return date, [self._unusable(row, column, expected) for row in rows]

    def _unusable(self, row: int, column: str, expected: str) -> Problem:
        # A key column may hold what must not be repeated: who it is.
        hidden = column in self.keys
        return Problem(
            Reason.UNREADABLE_VALUE,
            self.where(row, column),
            "another value" if hidden else repr(self.cells.at[row, column]),
            expected,
            "Correct the cell; it counts as missing meanwhile.",
        )


def _forbidden(value: NDArray[np.float64], variable: Variable | None) -> NDArray[np.bool_]:
    """Mark the values that the declaration of a variable does not allow; NaN is allowed."""
    if variable is not None and variable.flags is not None:
        return np.isfinite(value) & ~np.isin(value, list(variable.flags.values()))
    if variable is not None and variable.valid_range is not None:
        return (value < variable.valid_range[0]) | (value > variable.valid_range[1])
    return np.zeros(len(value), np.bool_)


def find_tables(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files below a folder whose whole name matches, sorted, without regard to case."""
    name = re.compile(pattern, re.IGNORECASE)
    yield from sorted(p for p in folder.rglob("*.[tT][xX][tT]") if name.fullmatch(p.name))


def read_table(path: Path, root: Path, wanted: str, keys: tuple[str, ...] = ("ID",)) -> Table:
    """Read the columns of one table whose names match, and its key columns.

    Parameters
    ----------
    path, root : Path
        The file, and the folder its name is told relative to.
    wanted : str
        Regular expression for whole column names, in upper case.
    keys : tuple of str
        Columns it must have; the first holds the patient.

    Raises
    ------
    InputError
        ``table_without_key`` or ``unreadable_file``.
    """
    name = path.relative_to(root).as_posix()
    pattern = re.compile(wanted)

    def use(column: str) -> bool:
        plain = column.strip().upper()
        return plain in keys or bool(pattern.fullmatch(plain))

    try:
        numbers, columns = _find_rows(path)
        cells = pd.read_csv(
            path, sep="|", dtype=str, na_filter=False, usecols=use, index_col=False,
            encoding="utf-8-sig", encoding_errors="replace", quoting=csv.QUOTE_NONE,
        )  # fmt: skip
    except (ValueError, OSError, pd.errors.ParserError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise InputError(
            f"a table that can't be read ({text or type(error).__name__})",
            expected="text with | between the cells and a header row",
            where=name,
            todo="Download the table again.",
            reason=Reason.UNREADABLE_FILE,
        ) from None
    doubled = sorted(column for column, n in columns.items() if n > 1 and use(column))
    if doubled:
        raise InputError(
            f"column {' and '.join(doubled)} more than once",
            expected="each column once, in capitals or not",
            where=name,
            todo="Remove or rename the columns that are too many.",
            reason=Reason.UNREADABLE_FILE,
        )
    cells.columns = pd.Index([str(column).strip().upper() for column in cells.columns])
    absent = [key for key in keys if key not in cells.columns]
    if absent:
        raise InputError(
            f"no column {' nor '.join(absent)}",
            expected=f"key columns {', '.join(keys)}",
            where=name,
            todo="Restore the header row of the table, or download it again.",
            reason=Reason.TABLE_WITHOUT_KEY,
        )
    cells.index = pd.Index(numbers if len(numbers) == len(cells) else range(2, len(cells) + 2))
    coded = parse_coded(cells[keys[0]])
    low, high = PATIENTS
    usable = (coded.value >= low) & (coded.value <= high) & (coded.value % 1 == 0)
    problems = tuple(
        Problem(
            Reason.UNREADABLE_VALUE,
            f"{name} row {row} column {keys[0]}",
            "a cell that is not a patient number",
            f"a whole number from {low} to {high}",
            "Correct the cell; the row is left out meanwhile.",
        )
        for row in cells.index[~usable]
    )
    patient = pd.Series(coded.value[usable].astype(np.int64), cells.index[usable])
    return Table(name, cells[usable], patient, problems, keys)


def _find_rows(path: Path) -> tuple[list[int], Counter[str]]:
    """Return the line of each row, and how often each column is named: pandas keeps neither."""
    filled = (
        (number, line)
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if line.strip(b" \t")
    )
    _, header = next(filled, (0, b""))
    names = header.decode("utf-8-sig", errors="replace").split("|")
    return [number for number, _ in filled], Counter(name.strip().upper() for name in names)


def parse_coded(cells: pd.Series[str]) -> Coded:
    """Parse cells like ``1: Male``, ``27.4``, ``.M`` and blanks.

    >>> parse_coded(pd.Series(["1: Male", ".P", "", "x"])).value
    array([ 1., nan, nan, nan])
    """
    text = cells.str.strip()
    missing = text.str.match(_MISSING) | (text == "")
    number = pd.to_numeric(text.str.split(":", n=1).str[0].str.strip(), errors="coerce")
    value = number.where(~missing).to_numpy(np.float64, na_value=np.nan)
    value = np.where(np.isinf(value), np.nan, value)
    code = text.where(missing, "").str[1:2].str.upper().to_numpy(object)
    return Coded(value, code, ~missing.to_numpy(bool) & np.isnan(value))
