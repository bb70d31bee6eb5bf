"""Ingest a user's own table from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.lake.table_content import TableOptions, TableSource
from qmri_lake.lake.tables import TableResult, store_table
from qmri_lake.oai.table_formats import FORMATS, read_table
from qmri_lake.oai.table_names import UNKNOWN_NAME, find_tables

__all__ = ["ingest_table", "refuse_own_tables"]


def ingest_table(
    source: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
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
) -> TableResult:
    """Store columns of your own table in the groups ``visit`` and ``clinical``.

    The name of the file, its SHA-256, the columns and the options are stored as the lineage.

    Parameters
    ----------
    source : path
        The file.
    lake : Lake or URL
        An existing lake.
    patient, timepoint, knee, columns, units, text, missing, prefix, replace
        As in `qmri_lake.lake.tables.add_table`.

    Returns
    -------
    TableResult
        Its ``notes`` describe the join. Its ``problems`` list unusable columns, rows and keys.

    Raises
    ------
    InputError
        If the file cannot be read, if a column is absent or exists in the lake, or if nothing can
        be stored.
    """
    path = Path(source)
    table = read_table(path)
    target = lake if isinstance(lake, Lake) else open_lake(os.fspath(lake))
    options = TableOptions(
        patient, timepoint, knee, columns, units or {}, text, missing, prefix, replace
    )
    return store_table(target, table, options, TableSource(path.name, sha256_of(path)))


def refuse_own_tables(source: Path) -> None:
    """Raise an error that names `ingest_table` if all tables of a source are a user's own.

    A folder with a table of the OAI, or without tables, raises no error.
    """
    if source.is_file():
        tables = [source.name] if source.suffix.lower() in FORMATS else []
    else:
        found = find_tables(source)
        own = set(found.unused.values()) == {UNKNOWN_NAME} and not found.known
        tables = sorted(found.unused) if own else []
    if not tables:
        return
    shown = ", ".join([*tables[:5], *(["..."] if len(tables) > 5 else [])])
    raise InputError(
        f"no series, and {counted(len(tables), 'table')} of an unknown name: {shown}",
        expected="a folder of DICOM series or of clinical tables of the OAI",
        where=source.name,
        todo=f"Add your own table: qmri-lake ingest-table {tables[0]!r} --lake LAKE "
        "--patient COLUMN.",
        reason=Reason.UNUSED_TABLE,
    )
