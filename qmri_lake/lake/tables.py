"""A user's own table: its columns become variables of the groups ``visit`` and ``clinical``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Problem, Reason, RunError, problem_table
from qmri_lake.lake.lineage import origin_of
from qmri_lake.lake.study_ids import read_study_ids
from qmri_lake.lake.table_commit import TableCommit
from qmri_lake.lake.table_content import TableContent, TableOptions, TableSource, read_content
from qmri_lake.lake.table_join import Join, describe_key, listed
from qmri_lake.store.repository import commit, translated_errors

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["TableResult", "add_table", "store_table"]


@dataclass(frozen=True, eq=False)
class TableResult:
    """Result of adding a table to a lake: stored columns, the join, and problems."""

    lake: Snapshot
    source: str
    """Name of the table."""
    columns: tuple[str, ...]
    """Names of the stored columns, in the groups ``visit`` and ``clinical``."""
    rows: int
    """Number of rows of the table."""
    matched: int
    """Number of exams with a row."""
    visits: int
    """Number of visits with a row, with or without an exam."""
    unmatched: pd.DataFrame
    """Keys of the rows of the table that match neither an exam nor a visit."""
    without_row: tuple[str, ...]
    """Exams without a row."""
    duplicates: int
    """Number of rows that repeat another row."""
    changed: bool
    """Whether anything was stored; False if the lake has the same columns of the same table."""
    problems: tuple[Problem, ...]
    """Columns, rows and keys that were not used."""
    notes: tuple[str, ...]
    """How keys and columns were understood, and what did not match."""

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        what = f"{counted(len(self.columns), 'column')} of {self.source}"
        present = bool(self.columns) and not self.changed
        done = "nothing changed: the lake has" if present else "stored"
        text = f"{done} {what}: {counted(self.matched, 'exam')} and "
        text += f"{counted(self.visits, 'visit')} matched; {counted(len(self.unmatched), 'row')} "
        text += f"unmatched; {counted(len(self.without_row), 'exam')} without a row"
        text += f"; {counted(self.duplicates, 'duplicate row')}" if self.duplicates else ""
        return f"{text}; {counted(len(self.problems), 'problem')}"


def add_table(
    lake: Snapshot,
    table: pd.DataFrame,
    *,
    patient: str,
    timepoint: str | None = None,
    knee: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    missing: Sequence[str] = (),
    prefix: str = "",
    replace: bool = False,
    name: str = "table",
) -> TableResult:
    """Store columns of your own table in the groups ``visit`` and ``clinical``.

    Queries can then use the columns, ``lake.load("clinical")`` contains them, and a derived lake
    keeps them. A row joins all exams and visits with its patient, timepoint and knee: without
    `timepoint`, every visit of the patient; without `knee`, both knees. Rows with the same keys and
    different values are not stored.

    Parameters
    ----------
    table : DataFrame
        The table, one row for each patient, visit or knee.
    patient, timepoint, knee : str
        Key columns. A timepoint is a number of months, 24m or V03; a knee is left, right, L, R or a
        code of the OAI, 1 (right) or 2 (left).
    columns : sequence or mapping of new name to column, optional
        Columns to store. Default: all columns except the keys.
    units : mapping of column to unit, optional
        Units of numbers, in the notation of CF, such as ``mm``.
    text : sequence of str
        Columns to store as text, even if all cells are numbers.
    missing : sequence of str
        Further codes of a missing value, such as ``-9``.
    prefix : str
        Start of the name of each stored column.
    replace : bool
        Replace columns of an earlier table. The earlier version stays in the history.
    name : str
        Name of the table, stored as its lineage.

    Returns
    -------
    TableResult
        Its ``notes`` describe the join. Its ``problems`` list unusable columns, rows and keys.

    Raises
    ------
    InputError
        If a column is absent or exists in the lake, or if nothing can be stored.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"a table of type {type(table).__name__}",
            expected="a pandas DataFrame",
            where="add_table",
            todo="Give a file to ql.ingest_table.",
        )
    options = TableOptions(
        patient, timepoint, knee, columns, units or {}, text, missing, prefix, replace
    )
    cells = table.to_csv(index=False).encode("utf-8", "backslashreplace")
    return store_table(lake, table, options, TableSource(name, hashlib.sha256(cells).hexdigest()))


def store_table(
    lake: Snapshot, table: pd.DataFrame, options: TableOptions, source: TableSource
) -> TableResult:
    """Store columns of a table; see `add_table`."""
    with lake.writing():
        origin = origin_of(lake.root)
        if origin is not None and not origin.finished:
            raise RunError(
                "the derivation of the lake has not finished",
                expected="a complete lake",
                where=lake.url,
                todo="Run the derivation again, which resumes it; then add the table.",
            )
        identifiers = {text: number for number, text in read_study_ids(lake.root).items()}
        read = read_content(table, options, source.name, identifiers)
        write = TableCommit(read, options, source)
        write.check_existing(lake.root)
        join = write.join(lake.root)
        _refuse_no_match(lake, read, join)
        matched = bool((join.visits >= 0).any())
        changed = matched and write.differs(lake.root)
        if changed:
            # Without the name of the table, which may contain a patient's number.
            message = f"Add {counted(len(read.columns), 'column')} of a table"
            with translated_errors(lake.url):
                commit(lake.repo, write, message, {"step": write.step(lake.root)})
            lake.refresh()
    keys = lake.exams["exam"].to_numpy()
    without = keys[(join.exams < 0) & ~join.ambiguous]
    return TableResult(
        lake,
        source.name,
        tuple(column.name for column in read.columns) if matched else (),
        len(table),
        int((join.exams >= 0).sum()),
        int((join.visits >= 0).sum()),
        join.unmatched,
        tuple(without.tolist()),
        read.rows.duplicates,
        changed,
        (*read.problems, *join.problems),
        (*read.notes, *_join_notes(read, join, without.tolist(), lake)),
    )


def _refuse_no_match(lake: Snapshot, read: TableContent, join: Join) -> None:
    """Raise an error if no row of the table matches the lake."""
    if (join.visits >= 0).any() or join.problems:
        return
    rows = listed([describe_key(key) for key in join.unmatched.to_dict("records")])
    raise InputError(
        f"no row matches an exam or a visit: {rows}",
        expected=f"keys as in the lake, such as {', '.join(lake.exams['exam'].head(3))}",
        where=read.name,
        todo=_advice(read) or "Check the key columns, and ingest the images first.",
        reason=Reason.ABSENT_EXAM,
    )


def _advice(read: TableContent) -> str:
    if not read.bare_visits:
        return ""
    return "Timepoints are months: if the column contains numbers of visits, write V01, V03 ..."


def _join_notes(read: TableContent, join: Join, without: list[str], lake: Snapshot) -> list[str]:
    """Return one line for each part of the join that needs attention."""
    notes = []
    if join.only_visits:
        rows = counted(join.only_visits, "row")
        notes.append(f"{rows} joined visits without an exam (group visit only)")
    if len(join.unmatched):
        keys = join.unmatched.to_dict("records")
        patients = set(lake.patients.tolist())
        others = sum(key["patient"] not in patients for key in keys)
        shown = listed([describe_key(key) for key in keys])
        note = f"unmatched: {counted(len(keys), 'row')}, {others:,} of other patients: {shown}"
        notes.append(f"{note}. {_advice(read)}".removesuffix(". "))
    if without:
        notes.append(f"without a row: {counted(len(without), 'exam')}: {listed(without)}")
    if read.rows.duplicates:
        notes.append(f"identical duplicates: {counted(read.rows.duplicates, 'row')}, used once")
    return notes
