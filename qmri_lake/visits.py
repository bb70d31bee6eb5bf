"""Clinical rows: every visit with or without an MRI, and their join on the exams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import pandas as pd

from qmri_lake import __version__
from qmri_lake.errors import Problem
from qmri_lake.index import KEYS
from qmri_lake.status import read_runs
from qmri_lake.storage import commit, open_root, translated_errors
from qmri_lake.variables import REGISTRY
from qmri_lake.writing import Change, declare, write_table

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["store_visits"]

STEP = "ingest_clinical"

_NOTES = {
    "bmi_carried_forward": "visits have the BMI of an earlier one",
    "age_from_nominal_month": "visits have an age from their nominal month",
    "missed_visits": "visits were missed (all cells missing)",
    "other_readings": "radiograph readings of further projects were not used",
    "repeated_rows": "repeated rows of a patient were left out, the last one kept",
}


def store_visits(
    lake: Lake, source: Path, scan_dates: Mapping[tuple[int, int], str]
) -> tuple[int, tuple[str, ...], tuple[Problem, ...]]:
    """Store the clinical tables below `source`, if there are any, and join them on all exams.

    Exams that are new since the tables were stored are joined with those. The caller holds the
    writer's lock.

    Returns
    -------
    rows : int
        Visit rows stored now; 0 when the source has no tables, or those that the lake has.
    notes : tuple of str
        What was carried forward or left out, counted.
    problems : tuple of Problem
        Tables and cells that could not be read.
    """
    from qmri_lake.oai.clinical import read_tables

    tables = read_tables(source, scan_dates=scan_dates)
    notes = tuple(f"{n:,} {_NOTES[k]}" for k, n in tables.counts.items() if n and k in _NOTES)
    names = [variable.name for variable in REGISTRY.group("visit")]
    stored = _stored_visits(lake, names) if "visit" in lake.root else None
    given = len(tables.visits) > 0 and not _same(stored, tables.visits[names])
    if given:
        visits = tables.visits[names]
    elif stored is not None:
        visits = stored
    else:
        return 0, notes, tables.problems
    change = _join(lake, visits)
    if not given and not change.states:
        return 0, notes, tables.problems

    def apply(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        if given:
            declare(root, REGISTRY.group("visit"))
            write_table(root, "visit", visits)
        declare(root, REGISTRY.group("clinical"))
        change(session)

    message = f"Store {len(visits):,} visits" if given else "Join new exams with their visits"
    with translated_errors(lake.url):
        commit(lake.repo, apply, message, {"step": STEP})
    lake.refresh()
    return (len(visits) if given else 0), notes, tables.problems


def _stored_visits(lake: Lake, names: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({name: lake.root[f"visit/{name}"][:] for name in names})
    for variable in REGISTRY.group("visit"):
        if variable.dtype == "uint8":
            values = frame[variable.name].astype(float)
            frame[variable.name] = values.mask(values == variable.fill)
    return frame


def _same(stored: pd.DataFrame | None, given: pd.DataFrame) -> bool:
    """Whether the tables say what is stored already, in the precision in which it is."""
    if stored is None or len(stored) != len(given):
        return False
    for variable in REGISTRY.group("visit"):
        old, new = stored[variable.name], given[variable.name]
        if variable.dtype == "string":
            if old.astype(str).tolist() != new.astype(str).tolist():
                return False
            continue
        kind = np.float32 if variable.dtype == "float32" else np.float64
        if not np.array_equal(old.astype(kind), new.astype(kind), equal_nan=True):
            return False
    return True


def _join(lake: Lake, visits: pd.DataFrame) -> Change:
    """Set the clinical columns of all exams that have a visit row and lack it, or differ."""
    exams = lake.exams[list(KEYS)].astype({"patient": "int64", "timepoint": "int64"})
    visits = visits.astype({"patient": "int64", "timepoint": "int64"})
    for frame in (exams, visits):
        frame["knee"] = frame["knee"].astype(str)
    joined = exams.merge(visits, on=list(KEYS), how="left", indicator=True, validate="m:1")
    rows = np.flatnonzero(joined["_merge"] == "both")
    change = Change()
    if not rows.size or not _differs(lake, joined, rows):
        return change
    run = max(read_runs(lake.root), default=0) + 1
    for variable in REGISTRY.group("clinical"):
        column = joined[variable.name].astype(float).to_numpy()[rows]
        stored = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        change.set_column(variable.path, rows.tolist(), stored)
    for row in rows.tolist():
        change.set_state(STEP, row, "done", run)
    change.runs[run] = {
        "step": STEP,
        "parameters": {},
        "code": f"qmri_lake {__version__}",
        "version": "1",
        "snapshot": lake.snapshot,
        "counts": {"done": len(rows)},
    }
    return change


def _differs(lake: Lake, joined: pd.DataFrame, rows: np.ndarray[Any, Any]) -> bool:
    """Whether the join says anything that the lake does not have: the same tables again don't."""
    for variable in REGISTRY.group("clinical"):
        if variable.path not in lake.root:
            return True
        column = joined[variable.name].astype(float).to_numpy()[rows]
        wanted = np.where(np.isnan(column), variable.fill, column).astype(variable.dtype)
        stored = lake.root[variable.path][:][rows]
        if not np.array_equal(wanted, stored, equal_nan=wanted.dtype.kind == "f"):
            return True
    return False
