"""Clinical rows: every visit with or without an MRI, and their join on the exams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Problem
from qmri_lake.index import KEYS
from qmri_lake.status import new_run
from qmri_lake.storage import Node, commit, open_root, translated_errors
from qmri_lake.variables import REGISTRY
from qmri_lake.writing import Change, declare, write_table

if TYPE_CHECKING:
    from qmri_lake.lake import Lake
    from qmri_lake.oai.clinical import ClinicalTables

__all__ = ["read_visits", "refuse_no_visits", "store_visits"]

STEP = "ingest_clinical"

_COLUMNS = tuple(v for v in REGISTRY.group("clinical") if v.step == STEP)
"""What a visit says of an exam; steps may add columns that no table has."""

_NAMES = tuple(v.name for v in REGISTRY.group("visit") if v.name not in KEYS)

_NOTES = {
    "bmi_carried_forward": "visits have the BMI of an earlier one",
    "age_from_nominal_month": "visits have an age from their nominal month",
    "missed_visits": "visits were missed (all cells missing)",
    "other_readings": "radiograph readings of further projects were not used",
    "readings_without_side": "radiograph readings without a side were left out",
    "repeated_rows": "repeated rows of a patient were left out, the last one kept",
}


def store_visits(
    lake: Lake, source: Path, scan_dates: Mapping[tuple[int, int], str]
) -> tuple[int, tuple[str, ...], tuple[Problem, ...]]:
    """Store the clinical tables below `source`, if there are any, and join them on all exams.

    Rows are merged by patient, timepoint and knee: what these tables don't hold stays, a stored
    value gives way to another one (counted in the notes) and never to a missing one. Exams that
    are new since the tables were stored are joined with those. The caller holds the writer's lock.

    Returns
    -------
    rows : int
        Visit rows of these tables; 0 when there are none, or they say nothing new.
    notes : tuple of str
        What was corrected, carried forward or left out, counted.
    problems : tuple of Problem
        Tables and cells that could not be read.
    """
    from qmri_lake.oai.clinical import read_tables

    tables = read_tables(source, scan_dates=scan_dates)
    notes = tuple(f"{n:,} {_NOTES[k]}" for k, n in tables.counts.items() if n and k in _NOTES)
    stored = read_visits(lake.root, _NAMES)
    visits, corrected = _merge(stored, _known(tables))
    given = len(tables.visits) > 0 and not _same(stored, visits)
    if not len(visits):
        return 0, notes, tables.problems
    if corrected:
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(corrected.items()))
        notes += (f"{corrected.total():,} stored values were corrected: {listed}",)
    change = _join(lake, visits)
    if not given and not change.states:
        return 0, notes, tables.problems

    def apply(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        if given:
            declare(root, REGISTRY.group("visit"))
            # Merged again: when another commit came first, its rows stay too.
            write_table(root, "visit", _merge(read_visits(root, _NAMES), _known(tables))[0])
        declare(root, _COLUMNS)
        change(session)

    rows = len(tables.visits) if given else 0
    message = f"Store {rows:,} rows of visits" if given else "Join new exams with their visits"
    with translated_errors(lake.url):
        commit(lake.repo, apply, message, {"step": STEP})
    lake.refresh()
    return rows, notes, tables.problems


def refuse_no_visits(root: Node, where: str) -> None:
    """Refuse a lake whose group visit is not there."""
    if "visit/patient" not in root:
        raise InputError(
            "a lake without visits", expected="group visit", where=where,
            todo="Ingest the clinical tables.",
        )  # fmt: skip


def read_visits(root: Node, names: Sequence[str]) -> pd.DataFrame:
    """Read the keys and the columns named of all rows; no rows where nothing is stored.

    Returns
    -------
    DataFrame
        patient, timepoint [months], knee, and a column of floats a name, flags as their numbers,
        NaN where a value is missing.
    """
    columns = {}
    for name in (*KEYS, *names):
        variable = REGISTRY[f"visit/{name}"]
        values = root[variable.path][:] if variable.path in root else np.empty(0)
        if name not in KEYS:
            missing = values == variable.fill
            values = np.where(missing, np.nan, values.astype(np.float64))
        columns[name] = values
    return _typed(pd.DataFrame(columns))


def _known(tables: ClinicalTables) -> pd.DataFrame:
    """Return the rows of the tables without what they can't know."""
    visits = tables.visits[[variable.name for variable in REGISTRY.group("visit")]]
    replaced = visits["replaced"].astype(np.float64)
    if not tables.tells_replacements:
        replaced = replaced.where(replaced == 1)
    return _typed(visits.assign(replaced=replaced))


def _typed(visits: pd.DataFrame) -> pd.DataFrame:
    return visits.astype({"patient": "int64", "timepoint": "int64", "knee": str})


def _merge(stored: pd.DataFrame, given: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """Merge by key: given values over stored ones, stored ones where none is given.

    Returns the rows sorted by key, and how many values changed to another, by column.
    """
    old, new = stored.set_index(list(KEYS)), given.set_index(list(KEYS))
    both = old.index.intersection(new.index)
    before, after = old.loc[both].astype(np.float32), new.loc[both].astype(np.float32)
    changed = (before != after) & before.notna() & after.notna()
    corrected = Counter({str(name): int(n) for name, n in changed.sum().items() if n})
    return new.combine_first(old)[list(old.columns)].reset_index(), corrected


def _same(stored: pd.DataFrame, merged: pd.DataFrame) -> bool:
    """Whether nothing is new, in the precision in which values are stored."""
    if len(stored) != len(merged) or not stored[list(KEYS)].equals(merged[list(KEYS)]):
        return False
    values = [name for name in stored.columns if name not in KEYS]
    old, new = (frame[values].to_numpy(np.float32) for frame in (stored, merged))
    return np.array_equal(old, new, equal_nan=True)


def _join(lake: Lake, visits: pd.DataFrame) -> Change:
    """Set the clinical columns of all exams that have a visit row and lack it, or differ."""
    exams = _typed(lake.exams[list(KEYS)])
    joined = exams.merge(visits, on=list(KEYS), how="left", indicator=True, validate="m:1")
    rows = np.flatnonzero(joined["_merge"] == "both")
    change = Change()
    if not rows.size or not _differs(lake, joined, rows):
        return change
    run, record = new_run(lake.root, STEP, lake.snapshot)
    for variable in _COLUMNS:
        column = joined[variable.name].astype(float).to_numpy()[rows]
        stored = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        change.set_column(variable.path, rows.tolist(), stored)
    for row in rows.tolist():
        change.set_state(STEP, row, "done", run)
    change.runs[run] = {**record, "counts": {"done": len(rows)}}
    return change


def _differs(lake: Lake, joined: pd.DataFrame, rows: np.ndarray[Any, Any]) -> bool:
    """Whether the join says anything that the lake does not have: the same tables again don't."""
    for variable in _COLUMNS:
        if variable.path not in lake.root:
            return True
        column = joined[variable.name].astype(float).to_numpy()[rows]
        wanted = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        stored = lake.root[variable.path][:][rows]
        if not np.array_equal(wanted, stored, equal_nan=wanted.dtype.kind == "f"):
            return True
    return False
