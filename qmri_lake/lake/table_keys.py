"""Keys of the rows of a user's table: patient, timepoint and knee, from cells in several forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.lake.table_cells import (
    LAST_MONTH,
    Parsed,
    is_missing,
    is_number,
    parse_knee,
    parse_patient,
    parse_timepoint,
    row_name,
)
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.visits import PATIENTS

__all__ = ["Keys", "read_keys"]


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of the rows of a table."""

    frame: pd.DataFrame
    """The given keys, in the order of `KEYS`, of the rows whose keys are all readable. The index is
    the position of the row in the table."""
    problems: tuple[Problem, ...]
    """One problem for each row with a missing or unreadable key."""
    notes: tuple[str, ...]
    """How the keys were understood."""


def read_keys(
    table: pd.DataFrame,
    name: str,
    columns: dict[str, str],
    identifiers: Mapping[str, int] | None = None,
) -> Keys:
    """Read the key columns of a table.

    Parameters
    ----------
    table : DataFrame
        The table. Its index names the rows in messages.
    name : str
        Name of the table, for messages.
    columns : mapping of key to column
        Column of ``patient`` and, if given, of ``timepoint`` and ``knee``.
    identifiers : mapping of str to int, optional
        Number of each patient by the identifier of the study.

    Raises
    ------
    InputError
        If a column mixes forms of which one is a guess: bare numbers of months with visits such as
        ``V03``; side codes other than 1 (right) and 2 (left), or codes together with words.
    """
    known = identifiers or {}

    def parse_identifier(cell: object) -> Parsed:
        number = known.get(str(cell).strip())
        return parse_patient(cell) if number is None else (number, "identifier")

    parsers: dict[str, Callable[[object], Parsed]] = {
        "patient": parse_identifier,
        "timepoint": parse_timepoint,
        "knee": parse_knee,
    }
    kept = np.ones(len(table), np.bool_)
    problems: dict[int, Problem] = {}
    read: dict[str, list[Any]] = {}
    notes = []
    for key in (key for key in KEYS if key in columns):
        column = columns[key]
        cells = list(table[column].to_numpy())  # not tolist, which hides that a float is short
        parsed = [None if is_missing(cell) else parsers[key](cell) for cell in cells]
        read[key] = [None if item is None else item[0] for item in parsed]
        bad = [i for i, item in enumerate(parsed) if item is None]
        _refuse_guess(key, column, name, cells, parsed, bad)
        kept[bad] = False
        for i in bad:
            where = f"{row_name(name, table, i)} column {column}"
            problems.setdefault(i, _row_problem(key, where, is_missing(cells[i])))
        notes.append(f"{key} = {column}{_understood(key, cells, parsed)}")
    rows = np.flatnonzero(kept)
    frame = pd.DataFrame({key: [read[key][i] for i in rows] for key in read}, index=rows)
    frame = frame.astype({key: str if key == "knee" else "int64" for key in read})
    if "knee" not in columns:
        notes.append("no knee column: each row holds for both knees")
    if "timepoint" not in columns:
        notes.append("no timepoint column: each row holds for every visit of its patient")
    return Keys(frame, tuple(problems[i] for i in sorted(problems)), tuple(notes))


def _refuse_guess(
    key: str, column: str, name: str, cells: list[Any], parsed: list[Parsed], bad: list[int]
) -> None:
    """Raise an error if some cells of a column show that the others would be misread."""
    forms = {item[1] for item in parsed if item is not None}
    where = f"{name} column {column}"
    if key == "timepoint" and {"number", "visit"} <= forms:
        raise InputError(
            "visits such as V03 together with bare numbers, which may be visits or months",
            expected="months (24 or 24m), or visits (V03)",
            where=where,
            todo="Write all timepoints in one form.",
            reason=Reason.UNREADABLE_VALUE,
        )
    if key == "knee":
        unknown = sorted({str(cells[i]).strip() for i in bad if is_number(cells[i])})
        if unknown or {"word", "code"} <= forms:
            found = f"codes {', '.join(unknown[:5])}" if unknown else "words together with codes"
            raise InputError(
                f"{found} for the side",
                expected="left and right, L and R, or the codes 1 (right) and 2 (left)",
                where=where,
                todo="Replace the codes by left and right: the table does not define them.",
                reason=Reason.UNREADABLE_VALUE,
            )


def _row_problem(key: str, where: str, missing: bool) -> Problem:
    # The message omits the cell, because a cell that is not a key may contain a person's name.
    names = {"patient": "patient number", "timepoint": "timepoint", "knee": "side of the knee"}
    expected = {
        "patient": f"all digits of a whole number from {PATIENTS[0]} to {PATIENTS[1]}, or an "
        "identifier in the column study_id of the lake",
        "timepoint": f"months from 0 to {LAST_MONTH} (24 or 24m), or a visit of the OAI (V03)",
        "knee": "left, right, L, R, 1 (right) or 2 (left)",
    }
    reasons = {
        "patient": Reason.ABSENT_PATIENT,
        "timepoint": Reason.ABSENT_TIMEPOINT,
        "knee": Reason.ABSENT_SIDE,
    }
    return Problem(
        reasons[key] if missing else Reason.UNREADABLE_VALUE,
        where,
        f"{'no' if missing else 'not a'} {names[key]}",
        expected[key],
        "Correct the cell. The row was not used.",
    )


def _understood(key: str, cells: list[Any], parsed: list[Parsed]) -> str:
    """Return how the cells of a key were read, such as ``(V00 = 0, V03 = 24 months)``."""
    if key == "patient":
        return f" ({counted(len({item[0] for item in parsed if item}), 'patient')})"
    pairs = {str(cell).strip(): item for cell, item in zip(cells, parsed, strict=True) if item}
    by_value = sorted(pairs.items(), key=lambda pair: (pair[1][0], pair[0]))
    bare = all(form == "number" for _, (_, form) in by_value)
    texts = [f"{value}" if bare else f"{text} = {value}" for text, (value, _) in by_value]
    texts = list(dict.fromkeys(texts))
    if len(texts) > 12:
        texts = [*texts[:12], "..."]
    unit = " months" if key == "timepoint" else ""
    return f" ({', '.join(texts)}{unit})" if texts else ""
