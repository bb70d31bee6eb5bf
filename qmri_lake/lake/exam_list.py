"""Lists of exams from publications and other programs: keys, patients, tables and files.

A list of patients selects all exams of these patients; a table may restrict them by timepoint and
knee.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.schema.exam_index import KEYS, exam_key

__all__ = [
    "ExamList",
    "Ids",
    "Number",
    "Text",
    "as_list",
    "condition",
    "name_few",
    "read_ids",
    "refuse_unknown",
]

Ids: TypeAlias = "Iterable[str] | Iterable[int] | pd.DataFrame | os.PathLike[str] | str"
"""Exam keys, patient numbers, a table with these columns, or the path of a text file."""

Number: TypeAlias = "int | Collection[int] | None"
Text: TypeAlias = "str | Collection[str] | None"
"""One value of a key, or several; None for any."""

_KEY = re.compile(r"\d+-\d{3,}m-(left|right)")
_SHOWN = 3
_COLUMNS = "exam, or patient with or without timepoint and knee"


@dataclass(frozen=True)
class ExamList:
    """Listed exams: a row for each, with the column exam, or some of patient, timepoint, knee."""

    table: pd.DataFrame
    source: str
    """Name for messages, such as "the list" or "ids.csv"."""

    @property
    def condition(self) -> str:
        """Condition in a flow: source of the list, number of entries, and digest of the values."""
        values = self.table.sort_values([*self.table.columns]).to_csv(index=False)
        digest = hashlib.sha256(values.encode()).hexdigest()[:8]
        noun = "patient" if [*self.table.columns] == ["patient"] else "exam"
        return f"in {self.source} ({counted(len(self.table), noun)}, {digest})"

    def find(self, keys: pd.DataFrame) -> tuple[NDArray[np.bool_], list[str]]:
        """Return which of the exams are listed, and the listed ones that are not among them."""
        columns = [*self.table.columns]
        own = pd.MultiIndex.from_frame(keys[columns].astype(self.table.dtypes.to_dict()))
        listed = pd.MultiIndex.from_frame(self.table)
        absent = self.table[~listed.isin(own)].itertuples(index=False)
        whole = columns == [*KEYS]
        texts = [exam_key(*row) if whole else "-".join(map(str, row)) for row in absent]
        return np.asarray(own.isin(listed)), texts

    def refuse(self, absent: list[str], where: str) -> NotFoundError:
        """Return the error for listed exams that a lake does not have."""
        return NotFoundError(
            f"{len(absent):,} of {len(self.table):,} listed are not in the lake: "
            f"{name_few(absent)}",
            expected="exams of the lake",
            where=where,
            todo="Use lake.cohort(ids=...) to select the listed exams that the lake has."
            if len(absent) < len(self.table)
            else "lake.exams lists them.",
        )


def as_list(value: object) -> list[Any]:
    """Return a value of a key, or a collection of values, as a list."""
    if hasattr(value, "__array__"):
        values = np.asarray(value).tolist()
        return values if isinstance(values, list) else [values]  # an array without dimensions
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def condition(name: str, among: list[Any]) -> str:
    """Return a condition on a key as text: all its values, or their number and a digest."""
    if len(among) == 1:
        return f"{name} == {among[0]!r}"
    if len(among) <= 2 * _SHOWN:
        return f"{name} in {tuple(among)}"
    return (
        f"{name} {ExamList(pd.DataFrame({name: list(dict.fromkeys(among))}), 'a list').condition}"
    )


def refuse_unknown(name: str, among: list[Any], own: Values, where: str) -> None:
    """Raise an error that names values of a key that no exam of a lake has."""
    unknown = [*dict.fromkeys(among).keys() - {*own.tolist()}]
    if unknown:
        raise NotFoundError(
            f"no exam with {name} {name_few(map(repr, sorted(unknown, key=str)))}",
            expected="values that occur in the lake",
            where=where,
            todo="Use lake.cohort(ids=...) to select the listed exams that the lake has.",
        )


def name_few(values: Iterable[object]) -> str:
    """Return the first values, and how many there are in all if there are more."""
    texts = [str(value) for value in values]
    more = f", ... ({len(texts):,} in all)" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def read_ids(ids: Ids, where: str = "ids") -> ExamList:
    """Read a list of exams.

    Parameters
    ----------
    ids : iterable, DataFrame or path
        Exam keys (``"9000798-024m-right"``) or patient numbers; a DataFrame with the column
        ``exam``, or ``patient`` and optionally ``timepoint`` [months] and ``knee``; or a text file:
        a table with such a header (comma, semicolon or tab), or one key or patient a line. Other
        columns are not used.
    where : str
        Name of the argument, for error messages.

    Raises
    ------
    InputError
        If there is no file, no row or no such column; if a value is missing or cannot be read; or
        if the list mixes exam keys and patient numbers.
    """
    if isinstance(ids, (str, os.PathLike)):
        path = Path(ids)
        return _listed(_read_file(path, where), path.name, where)
    if isinstance(ids, pd.DataFrame):
        return _listed(ids, "a table", where)
    if not isinstance(ids, Iterable):
        raise InputError(
            f"the cohort is of type {type(ids).__name__}",
            expected="lake.cohort(...), a query, or a list of exam keys or patients",
            where=where,
        )
    values = as_list(ids)
    keys = [isinstance(value, str) and not value.strip().isdigit() for value in values]
    if any(keys) and not all(keys):
        raise InputError(
            f"exam keys and patient numbers, such as {values[keys.index(True)]!r} and "
            f"{values[keys.index(False)]!r}",
            expected="only exam keys, or only patient numbers",
            where=where,
            reason=Reason.UNREADABLE_VALUE,
        )
    name = "exam" if any(keys) else "patient"
    return _listed(pd.DataFrame({name: pd.Series(values, dtype=object)}), "a list", where)


def _read_file(path: Path, where: str) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = "is not text" if isinstance(error, ValueError) else "cannot be read"
        raise InputError(
            f"{path.name!r} {found}",
            expected="a text file: a table with a header, or one key or patient a line",
            where=where,
            todo="Check the path; save a spreadsheet as CSV.",
            reason=Reason.UNREADABLE_FILE,
        ) from None
    rows = [line.strip() for line in text.splitlines() if line.strip()]
    first = rows[0] if rows else ""
    separator = next((mark for mark in "\t;," if mark in first), ",")
    cells = [[cell.strip() for cell in row] for row in csv.reader(rows, delimiter=separator)]
    if len(cells) and len(cells[0]) == 1 and (first.isdigit() or _KEY.fullmatch(first)):
        cells = [["patient" if first.isdigit() else "exam"], *cells]
    for number, row in enumerate(cells, start=1):
        if len(row) != len(cells[0]):
            raise InputError(
                f"{counted(len(row), 'cell')} in row {number} of {path.name}",
                expected=f"{len(cells[0])}, as in the first row",
                where=where,
                reason=Reason.UNREADABLE_VALUE,
            )
    return pd.DataFrame(cells[1:], columns=cells[0] if cells else [], dtype=object)


def _listed(table: pd.DataFrame, source: str, where: str) -> ExamList:
    original = [*table.columns]
    names = [str(name).strip().lower() for name in original]
    table = table.set_axis(names, axis="columns")
    used = [name for name in ("exam", *KEYS) if name in names]
    if not {"exam", "patient"} & {*used} or any(names.count(name) > 1 for name in used):
        raise InputError(
            f"the columns {', '.join(map(str, original[:8])) or '(none)'}",
            expected=f"{_COLUMNS}, each once",
            where=where,
            todo="Rename the columns.",
            reason=Reason.TABLE_WITHOUT_KEY,
        )
    if table.empty:
        raise InputError(f"no row in {source}", expected="at least one exam", where=where)
    read = {name: _read_column(table[name], name, where) for name in used}
    keys = pd.DataFrame(read)
    if "exam" in keys and {*KEYS} <= {*used}:
        made = [exam_key(*row) for row in keys[[*KEYS]].itertuples(index=False)]
        wrong = keys["exam"][keys["exam"].to_numpy() != np.array(made, dtype=object)]
        if len(wrong):
            raise InputError(
                f"the exam {name_few(wrong)} contradicts patient, timepoint and knee in its row",
                expected="columns that agree",
                where=where,
                reason=Reason.UNREADABLE_VALUE,
            )
    kept = keys[["exam"]] if "exam" in keys else keys
    return ExamList(kept.drop_duplicates().reset_index(drop=True), source)


def _read_column(column: pd.Series, name: str, where: str) -> pd.Series:
    """Return a column with strict values: whole numbers, known sides, keys as a lake has them."""
    texts = column.map(lambda value: "" if pd.isna(value) else str(value).strip())
    if name in ("patient", "timepoint"):
        texts = texts.str.removesuffix(".0")  # whole numbers of a column with missing values
        good, expected = texts.str.fullmatch(r"\d{1,10}"), "whole numbers"
    elif name == "knee":
        texts = texts.str.lower()
        good, expected = texts.isin(["left", "right"]), "left or right"
    else:
        good, expected = texts.str.fullmatch(_KEY.pattern), "keys such as 9000798-024m-right"
    if not good.all():
        rows = np.flatnonzero(~good.to_numpy(dtype=bool))
        few = name_few(repr(text) if text else "(missing)" for text in texts.iloc[rows])
        raise InputError(
            f"{name} {few}, first in row {rows[0] + 1}",
            expected=expected,
            where=where,
            reason=Reason.UNREADABLE_VALUE,
        )
    return texts.astype("int64") if name in ("patient", "timepoint") else texts.astype(object)
