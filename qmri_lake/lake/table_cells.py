"""Cells of a user's table: missing values, and the forms of patients, timepoints and knees."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from qmri_lake.schema.visits import PATIENTS, VISIT_MONTHS

__all__ = [
    "LAST_MONTH",
    "Parsed",
    "is_missing",
    "is_number",
    "parse_knee",
    "parse_patient",
    "parse_timepoint",
    "row_name",
]

_MISSING = re.compile(r"|NA|N/A|n/a|#N/A|NaN|nan|NULL|null|<NA>|\.[A-Za-z_]?|\.[A-Za-z_]:.*")
"""Cells without a value: empty, the words of R, Excel, pandas and databases, and SAS codes."""
_WHOLE = re.compile(r"(\d+)(\.0*)?")
_MONTHS = re.compile(r"(\d{1,4})\s*(m|mo|months?)", re.IGNORECASE)
_VISIT = re.compile(r"V(\d{1,2})", re.IGNORECASE)
_SIDE = re.compile(r"l|r|left|right", re.IGNORECASE)
_SIDE_CODE = re.compile(r"1(\.0*)?(\s*:\s*right)?|2(\.0*)?(\s*:\s*left)?", re.IGNORECASE)
_CODES = {"1": "right", "2": "left"}
"""Side of a knee in the tables of the OAI."""
LAST_MONTH = 1200
_EXACT = {4: 2**24, 8: 2**53}
"""Largest number up to which a float of this many bytes represents every integer."""

Parsed: TypeAlias = "tuple[Any, str] | None"
"""The value of a key and its form, such as (24, "visit"); None if the cell is unreadable."""


def is_missing(value: object, words: frozenset[str] = frozenset()) -> bool:
    """Return whether a cell has no value; `words` are further texts or numbers without a value."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, str):
        text = value.strip()
        return bool(_MISSING.fullmatch(text)) or text in words
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value)) or f"{value:.15g}" in words
    return str(value) in words


def row_name(name: str, table: pd.DataFrame, position: int) -> str:
    """Return the location of a row, for messages: the label of the table's index."""
    return f"{name} row {table.index[position]}"


def parse_patient(cell: object) -> Parsed:
    """Read a patient number. A rounded number, such as 9.00E+06, is rejected."""
    low, high = PATIENTS
    if isinstance(cell, bool | np.bool_):
        return None
    if isinstance(cell, str):
        digits = _WHOLE.fullmatch(cell.strip())
        number = int(digits[1]) if digits else 0
    elif isinstance(cell, int | np.integer):
        number = int(cell)
    elif isinstance(cell, float | np.floating):
        value, largest = float(cell), _EXACT.get(np.dtype(type(cell)).itemsize, 0)
        number = int(value) if value.is_integer() and abs(value) <= largest else 0
    else:
        return None
    return (number, "number") if low <= number <= high else None


def parse_timepoint(cell: object) -> Parsed:
    """Read a timepoint [months]: 24, "24", "24m", "24 months", "V03" or "baseline"."""
    form, months = "number", -1
    if isinstance(cell, str):
        text = cell.strip()
        if number := _WHOLE.fullmatch(text):
            months = int(number[1])
        elif number := _MONTHS.fullmatch(text):
            form, months = "months", int(number[1])
        elif number := _VISIT.fullmatch(text):
            form, months = "visit", VISIT_MONTHS.get(int(number[1]), -1)
        elif text.lower() == "baseline":
            form, months = "visit", 0
    elif isinstance(cell, int | float | np.integer | np.floating) and not isinstance(cell, bool):
        months = int(cell) if float(cell).is_integer() else -1
    return (months, form) if 0 <= months <= LAST_MONTH else None


def parse_knee(cell: object) -> Parsed:
    """Read a side: left, right, L, R, or the codes of the OAI, 1 (right) and 2 (left)."""
    if isinstance(cell, bool | np.bool_):
        return None
    text = str(cell).strip()
    if _SIDE.fullmatch(text):
        return ("left" if text[0] in "lL" else "right"), "word"
    return (_CODES[text[0]], "code") if _SIDE_CODE.fullmatch(text) else None


def is_number(cell: object) -> bool:
    """Return whether a cell is a number, or a code such as ``1: Right``."""
    return not is_missing(cell) and bool(re.fullmatch(r"-?\d+(\.\d*)?(:.*)?", str(cell).strip()))
