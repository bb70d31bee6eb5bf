"""Read tables of the OAI, with one row for each key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.coded_cells import MISSING, parse_coded
from qmri_lake.oai.table_formats import read_table
from qmri_lake.schema.variable import Variable
from qmri_lake.schema.visits import PATIENTS

__all__ = ["Table", "read_oai_table"]

_WORD = r"\w{1,16}"
"""A code, such as that of a site."""
_PATIENT = r"^[0-9]{1,10}$"
"""A patient number as it was assigned: not 9.00E+06, 9000001.0 or 9,000,001."""
_NDA_PATIENT = "SRC_SUBJECT_ID"
"""Name of the column ID in tables of the NDA."""
_DATES = ("%m/%d/%Y", "%Y-%m-%d", "%d%b%Y")
_LISTED = 5
"""Maximum number of columns or rows that a message names."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table with text cells, column names in upper case, and one row for each key."""

    name: str
    cells: pd.DataFrame
    """The cells; "" without a value. The index is the row in the file, from 1."""
    patient: pd.Series[int]
    problems: tuple[Problem, ...]
    """Rows without a readable ``ID``, and rows that contradict each other. They are excluded."""
    keys: tuple[str, ...] = ("ID",)
    repeated: int = 0
    """Number of repeated rows, which do not contradict the row that was kept."""
    refused: frozenset[int] = frozenset()
    """Patients with rows that contradict each other."""

    def where(self, row: int, column: str) -> str:
        """Return the location of a cell, for messages."""
        return f"{self.name} row {row} column {column}"

    def numbers(
        self, column: str, variable: Variable | None = None, *, whole: bool = False
    ) -> tuple[pd.Series[float], list[Problem]]:
        """Return a column as numbers, NaN if missing, and problems of unusable cells.

        Values that `variable` does not allow are unusable. If `whole` is true, fractions are
        unusable, too. Unusable cells become NaN.
        """
        coded = parse_coded(self.cells[column])
        bad = coded.bad | _forbidden(coded.value, variable)
        if whole:
            bad |= np.isfinite(coded.value) & (coded.value != np.floor(coded.value))
        expected = "a number, a code like '1: Yes', or a missing code like '.M'"
        if variable is not None:
            expected += f"; {variable.expectation}"
        values = pd.Series(np.where(bad, np.nan, coded.value), self.cells.index)
        return values, self._unusable(bad, column, expected)

    def dates(self, column: str) -> tuple[pd.Series[pd.Timestamp], list[Problem]]:
        """Return cells like 08/24/2004, 2004-08-24 or 24AUG2004 as dates, and problems."""
        text = self.cells[column].str.strip().str.replace(r"[ T]00:00:00(\.0+)?$", "", regex=True)
        date = pd.to_datetime(text, format=_DATES[0], errors="coerce")
        for form in _DATES[1:]:
            date = date.fillna(pd.to_datetime(text, format=form, errors="coerce"))
        bad = date.isna() & (text != "") & ~text.str.match(MISSING)
        expected = "a date mm/dd/yyyy, or a missing code like '.M'"
        return date, self._unusable(bad.to_numpy(bool), column, expected)

    def words(self, column: str) -> tuple[pd.Series[str], list[Problem]]:
        """Return the codes of cells like ``C`` and ``C: name``, and problems of other cells."""
        text = self.cells[column].str.split(":", n=1).str[0].str.strip()
        missing = (text == "") | text.str.startswith(".")
        bad = ~missing & ~text.str.fullmatch(_WORD)
        expected = "letters and digits, or a missing code like '.M'"
        return text.where(~missing & ~bad), self._unusable(bad.to_numpy(bool), column, expected)

    def unreadable(self, column: str, values: pd.Series[Any]) -> set[int]:
        """Return the patients whose cells have no value, although they are not missing."""
        text = self.cells[column].str.strip()
        bad = values.isna() & (text != "") & ~text.str.match(MISSING)
        return set(self.patient[bad.to_numpy(bool)].tolist())

    def _unusable(self, bad: NDArray[np.bool_], column: str, expected: str) -> list[Problem]:
        """Return one problem for each bad cell of a column."""
        # A cell of a key column may identify a person and is not shown.
        hidden = column in self.keys
        return [
            Problem(
                Reason.UNREADABLE_VALUE,
                self.where(row, column),
                "invalid value" if hidden else repr(self.cells.at[row, column]),
                expected,
                "Correct the cell. It was treated as missing.",
            )
            for row in self.cells.index[bad]
        ]


def _forbidden(value: NDArray[np.float64], variable: Variable | None) -> NDArray[np.bool_]:
    """Return whether the declaration of a variable forbids each value; NaN is allowed."""
    if variable is not None and variable.flags is not None:
        return np.isfinite(value) & ~np.isin(value, list(variable.flags.values()))
    if variable is not None and variable.valid_range is not None:
        return (value < variable.valid_range[0]) | (value > variable.valid_range[1])
    return np.zeros(len(value), np.bool_)


def read_oai_table(path: Path, root: Path, wanted: str, keys: tuple[str, ...] = ("ID",)) -> Table:
    """Read the key columns of one table, and the columns whose names match.

    Parameters
    ----------
    path, root : Path
        The file, and a folder above it. Messages give the path relative to this folder.
    wanted : str
        Regular expression for full column names, in upper case.
    keys : tuple of str
        Required columns that identify a row. The first one contains the patient.

    Raises
    ------
    InputError
        If a key column is missing (reason ``table_without_key``), if no column name matches
        (``unused_table``), if no row has a patient number (``unreadable_value``), and as
        `read_table`.
    """
    name = path.relative_to(root).as_posix()
    pattern = re.compile(wanted)

    def use(column: str) -> bool:
        plain = column.upper()
        return plain in keys or plain == _NDA_PATIENT or bool(pattern.fullmatch(plain))

    cells = read_table(path, use=use, name=name).fillna("")
    cells.columns = cells.columns.str.upper()
    if "ID" in cells:
        cells = cells.drop(columns=_NDA_PATIENT, errors="ignore")
    cells = cells.rename(columns={_NDA_PATIENT: "ID"})
    absent = [key for key in keys if key not in cells]
    if absent:
        raise InputError(
            f"no column {' nor '.join(absent)}",
            expected=f"key columns {', '.join(keys)}",
            where=name,
            todo="Restore the header row of the table, or download it again.",
            reason=Reason.TABLE_WITHOUT_KEY,
        )
    if not cells.columns.str.fullmatch(wanted).any():
        raise InputError(
            "no known column",
            expected=f"columns like {wanted.replace('|', ', ')}" if len(wanted) < 60 else "",
            where=name,
            todo="Check the header row and the name of the table. It was not used.",
            reason=Reason.UNUSED_TABLE,
        )
    cells, patient, problems = _usable_rows(name, cells, keys[0])
    cells, conflicts = _merge_repeats(name, cells, patient, keys)
    refused = [row for _, rows in conflicts for row in rows]
    problems += [problem for problem, _ in conflicts]
    return Table(
        name,
        cells,
        patient[cells.index],
        tuple(problems),
        keys,
        len(patient) - len(cells) - len(refused),
        frozenset(patient[refused].tolist()),
    )


def _usable_rows(
    name: str, cells: pd.DataFrame, key: str
) -> tuple[pd.DataFrame, pd.Series[int], list[Problem]]:
    """Return the rows with a patient number, the numbers, and problems of the other rows."""
    low, high = PATIENTS
    text = cells[key].str.strip()
    number = pd.to_numeric(text.where(text.str.match(_PATIENT)), errors="coerce")
    usable = ((number >= low) & (number <= high)).to_numpy(bool)
    expected = f"a whole number from {low} to {high}, such as 9000001"
    if not usable.any():
        raise InputError(
            f"no patient number in column {key}",
            expected=expected,
            where=name,
            todo="Export the IDs as text: spreadsheets shorten them, as in 9.00E+06.",
            reason=Reason.UNREADABLE_VALUE,
        )
    problems = [
        Problem(
            Reason.UNREADABLE_VALUE,
            f"{name} row {row} column {key}",
            "not a patient number",
            expected,
            "Correct the cell. The row was excluded.",
        )
        for row in cells.index[~usable]
    ]
    return cells[usable], number[usable].astype(np.int64), problems


def _merge_repeats(
    name: str, cells: pd.DataFrame, patient: pd.Series[int], keys: tuple[str, ...]
) -> tuple[pd.DataFrame, list[tuple[Problem, list[int]]]]:
    """Return one row for each key, and a problem for rows that contradict each other.

    Repeated rows are merged into the last one if each column has at most one value. Otherwise, it
    is unknown which row is right, and none is returned. Each problem has the rows that it concerns.
    """
    others = {column: parse_coded(cells[column]).value for column in keys[1:]}
    key = pd.DataFrame({keys[0]: patient, **others}, cells.index)
    repeated = key.notna().all(axis=1) & key.duplicated(keep=False)
    if not repeated.any():
        return cells, []
    by = [key.loc[repeated, column] for column in keys]
    values = cells.loc[repeated].drop(columns=list(keys))
    plain = values.apply(_comparable)
    differs = plain.groupby(by).transform("nunique") > 1
    problems = []
    bad = differs.any(axis=1)
    for _, group in differs[bad].groupby([column[bad] for column in by]):
        columns = group.columns[group.any()].tolist()
        rows = [str(row) for row in group.index[:_LISTED]]
        problem = Problem(
            Reason.CONFLICTING_ROWS,
            f"{name} row {rows[-1]}",
            f"rows {' and '.join(rows)} have the same {', '.join(keys)} and different values of "
            f"{', '.join(columns[:_LISTED])}",
            f"one row for each {', '.join(keys)}",
            "Remove the wrong row. None of these rows was used.",
        )
        problems.append((problem, group.index.tolist()))
    filled = values.where(plain.notna()).groupby(by).ffill().fillna(values)
    merged = cells.copy()
    merged.loc[filled.index, filled.columns] = filled
    dropped = repeated & (key.duplicated(keep="last") | bad.reindex(key.index, fill_value=False))
    return merged[~dropped], problems


def _comparable(column: pd.Series[str]) -> pd.Series[Any]:
    """Return the values of cells such that equal values have equal cells; None if missing."""
    coded = parse_coded(column)
    text = column.str.strip().astype(object)
    number = pd.Series(coded.value, column.index).astype(object)
    # A prosthesis (.P) is a finding, not a missing value.
    known = coded.bad | (coded.missing == "P")
    return number.where(~known, text).where(known | np.isfinite(coded.value), None)
