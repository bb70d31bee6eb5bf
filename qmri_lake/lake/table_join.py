"""Join of the rows of a user's table with exams and visits by patient, timepoint and knee."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import counted
from qmri_lake.errors import Problem, Reason
from qmri_lake.lake.table_columns import Column
from qmri_lake.schema.exam_index import KEYS

__all__ = ["Join", "Rows", "describe_key", "join_rows", "listed", "select_rows"]

_SHOWN = 5
"""Maximum number of keys that a note lists."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table, one for each key."""

    keys: pd.DataFrame
    """Keys of the rows. The index is the position in the table."""
    ambiguous: pd.DataFrame
    """Keys that have rows with different values. The index is the position of the first row."""
    ambiguous_rows: NDArray[np.intp]
    """Number of rows of each ambiguous key."""
    duplicates: int
    """Number of rows that repeat another row."""


@dataclass(frozen=True, eq=False)
class Join:
    """Rows of a table joined with the exams and visits of a lake."""

    exams: NDArray[np.intp]
    """(exam,) position of the row in the table; -1 for an exam without a row."""
    visits: NDArray[np.intp]
    """(visit,) position of the row in the table; -1 for a visit without a row."""
    visit_keys: pd.DataFrame
    """Sorted keys of the visits of the lake, and of the exams with a row."""
    ambiguous: NDArray[np.bool_]
    """(exam,) whether the rows of the exam differ."""
    only_visits: int
    """Number of rows that match visits without an exam, and no exam."""
    unmatched: pd.DataFrame
    """Keys of the rows that match neither an exam nor a visit."""
    problems: tuple[Problem, ...]
    """One problem for each ambiguous key that matches an exam or a visit."""

    def values(self, column: Column, positions: NDArray[np.intp]) -> Values:
        """Return a column at exams or visits; the fill value where there is no row."""
        values = np.full(len(positions), column.fill, column.values.dtype)
        found = positions >= 0
        values[found] = column.values[positions[found]]
        return values


def select_rows(keys: pd.DataFrame, columns: Sequence[Column]) -> Rows:
    """Return one row for each key; rows with the same key and other values are ambiguous."""
    by = list(keys.columns)
    values = {f"value {i}": column.values[keys.index] for i, column in enumerate(columns)}
    different = keys.assign(**values).drop_duplicates()  # NaN equals NaN
    repeated = different.duplicated(by, keep=False)
    ambiguous = different.loc[repeated, by].drop_duplicates()
    rows_of_key = pd.Series(_positions(keys, ambiguous)).value_counts().reindex(ambiguous.index)
    return Rows(
        different.loc[~repeated, by],
        ambiguous,
        np.asarray(rows_of_key, dtype=np.intp),
        len(keys) - len(different),
    )


def join_rows(rows: Rows, exams: pd.DataFrame, visits: pd.DataFrame, where: str) -> Join:
    """Join rows with exams and visits.

    A row without a timepoint joins all visits of its patient, and a row without a knee both knees.

    `exams` and `visits` are their keys, and `where` is the name of the table, for messages.
    """
    exams, visits = exams[list(KEYS)], visits[list(KEYS)]
    at_exams = _positions(exams, rows.keys)
    known = pd.concat([visits, exams[at_exams >= 0]], ignore_index=True)
    known = known.drop_duplicates().sort_values(list(KEYS), ignore_index=True)
    at_visits = _positions(known, rows.keys)
    has_exam = np.isin(rows.keys.index, at_exams)
    has_visit = np.isin(rows.keys.index, at_visits)
    everything = pd.concat([visits, exams], ignore_index=True)
    hit = np.isin(rows.ambiguous.index, _positions(everything, rows.ambiguous))
    unmatched = pd.concat([rows.keys[~has_visit & ~has_exam], rows.ambiguous[~hit]])
    return Join(
        at_exams,
        at_visits,
        known,
        _positions(exams, rows.ambiguous) >= 0,
        int((has_visit & ~has_exam).sum()),
        unmatched.sort_index(),
        tuple(
            _ambiguous(key, int(count), where)
            for key, count in zip(
                rows.ambiguous[hit].to_dict("records"), rows.ambiguous_rows[hit], strict=True
            )
        ),
    )


def _positions(targets: pd.DataFrame, keys: pd.DataFrame) -> NDArray[np.intp]:
    """Return the label of the row of `keys` for each target; -1 if there is none."""
    by = list(keys.columns)
    found = pd.MultiIndex.from_frame(keys).get_indexer(pd.MultiIndex.from_frame(targets[by]))
    if not len(keys):
        return np.full(len(targets), -1)
    return np.where(found >= 0, keys.index.to_numpy()[found], -1)


def describe_key(key: Mapping[Hashable, object]) -> str:
    """Return a key as text, such as ``9000001 at 24 months, left``."""
    text = str(key["patient"])
    text += f" at {key['timepoint']} months" if "timepoint" in key else ""
    return text + (f", {key['knee']}" if "knee" in key else "")


def listed(texts: Sequence[str]) -> str:
    """Return the first texts, separated by semicolons."""
    return "; ".join([*texts[:_SHOWN], *(["..."] if len(texts) > _SHOWN else [])])


def _ambiguous(key: Mapping[Hashable, object], count: int, where: str) -> Problem:
    missing = [f"--{name}" for name in KEYS if name not in key]
    option = f", or give {' or '.join(missing)} if the table has this column" if missing else ""
    return Problem(
        Reason.CONFLICTING_ROWS,
        f"{where} {describe_key(key)}",
        f"{counted(count, 'row')} with different values",
        "one row, or identical rows",
        f"Keep one row{option}. Nothing was stored for this key.",
    )
