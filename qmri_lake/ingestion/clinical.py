"""Store clinical tables, one row for each visit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import icechunk
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import Problem
from qmri_lake.lake.visits import _typed, read_visits
from qmri_lake.oai.table_names import UNKNOWN_NAME
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.runs import new_run
from qmri_lake.store.transaction import Transaction, declare, write_table

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake
    from qmri_lake.oai.clinical import ClinicalTables

__all__ = ["store_visits"]

STEP = "ingest_clinical"

_EXAM_COLUMNS = tuple(v for v in REGISTRY.group("clinical") if v.step == STEP)
"""Columns of the exams that are copied from visits; steps may add other columns."""

_VISIT_COLUMNS = tuple(v.name for v in REGISTRY.group("visit") if v.name not in KEYS)

_NOTES = {
    "bmi_carried_forward": ("visit", "with the BMI of an earlier visit"),
    "age_from_nominal_month": ("visit", "with an age computed from the nominal month"),
    "missed_visits": ("visit", "missed (all cells missing)"),
    "repeated_rows": ("repeated row", "merged (equal values)"),
    "other_readings": ("KL grade", "of further reading projects not used"),
    "grades_of_other_projects": ("KL grade", "of reading project 37 or 42"),
    "ungraded_readings": ("reading", "of project 15 without a KL grade that another project has"),
    "readings_without_side": ("radiograph reading", "without a side not used"),
    "readings_of_unknown_projects": ("radiograph reading", "of an unknown project not used"),
}
"""Noun and continuation of each note, which begins with a number."""


def store_visits(
    lake: Lake, source: Path, scan_dates: Mapping[tuple[int, int], str]
) -> tuple[int, tuple[str, ...], tuple[Problem, ...]]:
    """Store the clinical tables below `source`, if there are any, and join them with all exams.

    Rows are merged by patient, timepoint and knee. Stored values that these tables do not contain
    are kept. A different value replaces the stored value and is counted in the notes; a missing
    value does not replace it. Exams that are new since the last ingest are also joined. The caller
    must hold the writer's lock.

    Returns
    -------
    rows : int
        Number of visit rows in these tables; 0 if there are no rows, or no new rows.
    notes : tuple of str
        Numbers of values that were corrected, carried forward or not used, and tables that were
        not used.
    problems : tuple of Problem
        Tables and cells that could not be read.
    """
    from qmri_lake.oai.clinical import read_tables

    tables = read_tables(source, scan_dates=scan_dates)
    notes = _notes(tables)
    stored = read_visits(lake.root, _VISIT_COLUMNS)
    known = _known(tables)
    visits, corrected = _merge(stored, known)
    given = len(tables.visits) > 0 and not _same(stored, visits)
    if not len(visits):
        return 0, notes, tables.problems
    if corrected:
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(corrected.items()))
        notes += (f"{corrected.total():,} stored values were corrected: {listed}",)
    if not given and not _join(lake.root, visits, lake.snapshot).states:
        return 0, notes, tables.problems

    def apply(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        # Merge and join again, with the rows and exams of a commit that was made in the meantime.
        merged, _ = _merge(read_visits(root, _VISIT_COLUMNS), known)
        change = _join(root, merged, session.snapshot_id)
        if given:
            declare(root, REGISTRY.group("visit"))
            write_table(root, "visit", merged)
        declare(root, _EXAM_COLUMNS)
        change(session)

    rows = len(tables.visits) if given else 0
    message = f"Store {rows:,} rows of visits" if given else "Join new exams with their visits"
    with translated_errors(lake.url):
        commit(lake.repo, apply, message, {"step": STEP})
    lake.refresh()
    return rows, notes, tables.problems


def _notes(tables: ClinicalTables) -> tuple[str, ...]:
    """Return what was assumed, what was not used, and each table that was not used."""
    counts = [
        f"{counted(n, _NOTES[key][0])} {_NOTES[key][1]}"
        for key, n in tables.counts.items()
        if n and key in _NOTES
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in tables.unused.items():
        reasons.setdefault(reason, []).append(name)
    unused = [
        f"{counted(len(names), 'table')} not used ({reason}): {', '.join(names)}"
        + ("; add your own tables with qmri-lake ingest-table" if reason == UNKNOWN_NAME else "")
        for reason, names in reasons.items()
    ]
    return (*counts, *unused)


def _known(tables: ClinicalTables) -> pd.DataFrame:
    """Return the rows of the tables.

    Without OUTCOMES99, or readable cells in it, it is unknown (NaN) whether a knee without a
    recorded replacement was replaced.
    """
    visits = tables.visits[[variable.name for variable in REGISTRY.group("visit")]]
    replaced = visits["replaced"].astype(np.float64)
    unknown = visits["patient"].isin(tables.unknown_replacements) | (not tables.has_replacements)
    replaced = replaced.mask(unknown & (replaced == 0))
    return _typed(visits.assign(replaced=replaced))


def _merge(stored: pd.DataFrame, given: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """Merge rows by key. Given values replace stored values, but missing values do not.

    Return the rows sorted by key, and the number of changed values by column.
    """
    old, new = stored.set_index(list(KEYS)), given.set_index(list(KEYS))
    both = old.index.intersection(new.index)
    before, after = old.loc[both].astype(np.float32), new.loc[both].astype(np.float32)
    changed = (before != after) & before.notna() & after.notna()
    corrected = Counter({str(name): int(n) for name, n in changed.sum().items() if n})
    return new.combine_first(old)[list(old.columns)].reset_index(), corrected


def _same(stored: pd.DataFrame, merged: pd.DataFrame) -> bool:
    """Return whether nothing is new. Values are compared as float32, the dtype of the storage."""
    if len(stored) != len(merged) or not stored[list(KEYS)].equals(merged[list(KEYS)]):
        return False
    values = [name for name in stored.columns if name not in KEYS]
    old, new = (frame[values].to_numpy(np.float32) for frame in (stored, merged))
    return np.array_equal(old, new, equal_nan=True)


def _join(root: Node, visits: pd.DataFrame, snapshot: str) -> Transaction:
    """Set the clinical columns of all exams with a visit row, if any value differs."""
    exams = _typed(pd.DataFrame({name: root[name][:] for name in KEYS}))
    joined = exams.merge(visits, on=list(KEYS), how="left", indicator=True, validate="m:1")
    # Visits that only a user's own table has do not contain any of these columns.
    known = joined[[variable.name for variable in _EXAM_COLUMNS]].notna().any(axis=1)
    rows = np.flatnonzero((joined["_merge"] == "both") & known)
    change = Transaction()
    if not rows.size or not _differs(root, joined, rows):
        return change
    run, record = new_run(root, STEP, snapshot)
    for variable in _EXAM_COLUMNS:
        column = joined[variable.name].astype(float).to_numpy()[rows]
        stored = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        change.set_column(variable.path, rows.tolist(), stored)
    for row in rows.tolist():
        change.set_state(STEP, row, "done", run)
    change.runs[run] = {**record, "counts": {"done": len(rows)}}
    return change


def _differs(root: Node, joined: pd.DataFrame, rows: NDArray[np.intp]) -> bool:
    """Return whether the join contains values that the lake does not have."""
    for variable in _EXAM_COLUMNS:
        if variable.path not in root:
            return True
        column = joined[variable.name].astype(float).to_numpy()[rows]
        wanted = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        stored = root[variable.path][:][rows]
        if not np.array_equal(wanted, stored, equal_nan=wanted.dtype.kind == "f"):
            return True
    return False
