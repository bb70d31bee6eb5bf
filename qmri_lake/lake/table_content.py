"""Read a user's own table: keys, typed columns, and problems of unusable rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.lake.table_columns import Column, read_column_cells
from qmri_lake.lake.table_join import Rows, select_rows
from qmri_lake.lake.table_keys import read_keys
from qmri_lake.lake.table_names import column_name
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.visits import VISIT_MONTHS

__all__ = ["TableContent", "TableOptions", "TableSource", "read_content"]


@dataclass(frozen=True, slots=True)
class TableSource:
    """Origin of a table, which is stored as its lineage."""

    name: str
    """Name of the file, without its folder."""
    digest: str
    """SHA-256 of the file, or of the cells of a DataFrame."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a table is read; see `add_table`."""

    patient: str
    timepoint: str | None = None
    knee: str | None = None
    columns: Sequence[str] | Mapping[str, str] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    text: Sequence[str] = ()
    missing: Sequence[str] = ()
    prefix: str = ""
    replace: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """Column of each given key."""
        given = {name: getattr(self, name) for name in KEYS}
        return {name: column for name, column in given.items() if column is not None}


@dataclass(frozen=True, eq=False)
class TableContent:
    """The content of a table in the types of the lake."""

    columns: tuple[Column, ...]
    rows: Rows
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    name: str
    bare_visits: bool
    """Whether all timepoints are numbers of at most 11, which may be numbers of visits."""


def read_content(
    table: pd.DataFrame,
    options: TableOptions,
    name: str,
    identifiers: Mapping[str, int] | None = None,
) -> TableContent:
    """Read keys and columns of a table; unusable columns and rows are problems.

    `identifiers` are the numbers of patients by the identifiers of the study.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    if not len(table):
        raise _fault("a table without rows", "at least 1 row", "Check the table.", name)
    keys = options.keys
    _check_columns(table, keys, options, name)
    columns, problems, notes = [], [], []
    for stored, source in _selected(table, options, name).items():
        try:
            column = read_column_cells(
                table,
                source,
                stored,
                name,
                unit=options.units.get(source, options.units.get(stored, "")),
                as_text=source in options.text,
                missing=options.missing,
            )
        except InputError as error:
            problems.append(error.problem())
            continue
        if column is None:
            notes.append(f"{source}: left out, because no cell has a value")
        else:
            columns.append(column)
            notes.append(column.note)
    read = read_keys(table, name, keys, identifiers)
    problems = [*read.problems, *problems]
    if not columns or not len(read.frame):
        what = "no column" if not columns else "no row"
        first = f": {problems[0].where}: {problems[0].found}" if problems else ""
        raise _fault(
            f"{what} that can be stored{first}",
            problems[0].expected if problems else "columns with values",
            problems[0].todo if problems else "Check the table.",
            name,
        )
    bare = "timepoint" in keys and 1 <= int(read.frame["timepoint"].max()) <= max(VISIT_MONTHS)
    return TableContent(
        tuple(columns),
        select_rows(read.frame, columns),
        tuple(problems),
        (*read.notes, *notes),
        name,
        bare,
    )


def _check_columns(
    table: pd.DataFrame, keys: Mapping[str, str], options: TableOptions, name: str
) -> None:
    """Raise an error if a given column is absent, or if a column or key occurs twice."""
    known = table.columns.tolist()
    for column in (*keys.values(), *options.text):
        if column not in table.columns:
            raise _absent(column, known, name)
    for column in options.units:
        if column not in table.columns and column not in _names(options):
            raise _absent(column, known, name)
    twice = sorted({column for column in known if known.count(column) > 1})
    if twice:
        found = f"{counted(len(twice), 'column')} twice: {', '.join(twice)}"
        raise _fault(found, "each column once", "Rename or remove one of them.", name)
    if len(set(keys.values())) < len(keys):
        found = f"one column for several of {', '.join(keys)}"
        raise _fault(found, "a column for each key", "Check the options.", name)


def _names(options: TableOptions) -> list[str]:
    return list(options.columns) if isinstance(options.columns, Mapping) else []


def _absent(column: str, known: Sequence[str], name: str) -> InputError:
    return InputError(
        f"no column {column!r}",
        expected=f"one of {', '.join(known)}",
        where=name,
        todo=did_you_mean(column, known) or _same_in_other_case(column, known),
        reason=Reason.TABLE_WITHOUT_KEY,
    )


def _same_in_other_case(column: str, known: Sequence[str]) -> str:
    same = [name for name in known if name.strip().lower() == column.strip().lower()]
    return f"Did you mean {same[0]!r}?" if same else ""


def _selected(table: pd.DataFrame, options: TableOptions, name: str) -> dict[str, str]:
    """Return the columns to store, by the name in the lake."""
    keys, known = options.keys, table.columns.tolist()
    if isinstance(options.columns, Mapping):
        wanted = [(new, column) for new, column in options.columns.items()]
    elif options.columns is None:
        wanted = [("", column) for column in known if column not in keys.values()]
    else:
        wanted = [part for text in options.columns for part in _parse_column(text, known)]
    if not wanted:
        raise _fault("no column except the keys", "columns to store", "Check the options.", name)
    chosen: dict[str, str] = {}
    for new, column in wanted:
        if column not in known:
            raise _absent(column, known, name)
        stored = column_name(column, options.prefix, name, new)
        if stored in chosen:
            found = f"columns {chosen[stored]!r} and {column!r} for the name {stored!r}"
            raise _fault(found, "different names", f"Rename one: NEW={column!r}.", name)
        chosen[stored] = column
    return chosen


def _parse_column(text: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """Parse ``COLUMN``, ``NEW=COLUMN``, or several of them with commas between."""
    if text in known:
        return [("", text)]
    new, sign, column = text.partition("=")
    if sign and column in known:
        return [(new, column)]
    if "," in text:
        parts = (part.strip() for part in text.split(","))
        return [pair for part in parts if part for pair in _parse_column(part, known)]
    return [(new, column) if sign else ("", text)]


def _fault(found: str, expected: str, todo: str, where: str) -> InputError:
    return InputError(
        found, expected=expected, where=where, todo=todo, reason=Reason.UNREADABLE_VALUE
    )
