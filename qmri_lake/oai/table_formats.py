"""Read a table file of any format as text, exactly as given."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.delimited_text import read_text
from qmri_lake.oai.raw_table import RawTable, Use
from qmri_lake.oai.sas_tables import is_sas, read_sas
from qmri_lake.oai.workbooks import is_workbook, read_workbook

__all__ = ["FORMATS", "MISSING_WORDS", "read_table"]

FORMATS = (".txt", ".csv", ".tsv", ".sas7bdat", ".xpt", ".xlsx")
"""Extensions of table files, in lower case. The format is determined by the content."""
MISSING_WORDS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "<NA>")
"""Cells without a value, as R, pandas and Excel write them. Codes like ``.M`` are kept."""

_OTHER = {
    b"\x1f\x8b": ("a gzip file", "Unpack it."),
    b"PK": ("a ZIP file", "Unpack it."),
    b"\xd0\xcf\x11\xe0": ("a workbook of Excel 97", "Save it as .xlsx or .csv."),
    b"$FL": ("an SPSS file", "Export it as .csv."),
    b"PAR1": ("a Parquet file", "Export it as .csv."),
}
"""Files that are not read, by their first bytes: what they are, and what to do."""
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_NDA = frozenset(("subjectkey", "src_subject_id", "collection_id"))
"""Columns of the NDA, in lower case. Its tables have a second header row of descriptions."""


def read_table(
    path: str | os.PathLike[str], *, use: Use | None = None, name: str = ""
) -> pd.DataFrame:
    """Read a table file as text.

    The format is determined by the content: text with ``|``, tab, comma or semicolon, in UTF-8,
    UTF-16 or Windows-1252; SAS (``.sas7bdat``, ``.xpt``); or Excel (``.xlsx``). A second header row
    of descriptions, as the NDA writes it, is skipped.

    Parameters
    ----------
    path : path
        The file.
    use : callable, optional
        Returns whether to read the column of a given name. Default: all columns.
    name : str, optional
        Name of the file in messages. Default: its name without its folder.

    Returns
    -------
    DataFrame
        The columns are named as in the file, without blanks around the names. All cells are text,
        as in the file, and NaN if they have no value (blank, or one of `MISSING_WORDS`). Missing
        codes of SAS are text, such as ``.M``. Numbers of SAS and Excel have the shortest text that
        gives the number, such as 9000001 or 27.5, and dates are ``yyyy-mm-dd``. The index is the
        line or the row in the file, from 1; for SAS, the number of the observation.

    Raises
    ------
    InputError
        If the file is not a table (reason ``unreadable_file``), ends too early
        (``truncated_file``), has rows that are longer or shorter than the header
        (``ragged_table``), repeats a column, ignoring case (``unreadable_file``), or has no rows
        (``empty_table``).
    """
    path = Path(path)
    where = name or path.name
    accept = use or (lambda _: True)
    try:
        return _finish(_read_any(path, accept), accept)
    except InputError as error:
        raise InputError(
            error.found,
            expected=error.expected,
            where=where,
            todo=error.todo,
            reason=error.reason,
        ) from None
    except OSError as error:
        raise InputError(
            f"unreadable table: {error.strerror or type(error).__name__}",
            expected="a table that can be opened",
            where=where,
            todo="Check the file and its permissions.",
            reason=Reason.UNREADABLE_FILE,
        ) from None


def _read_any(path: Path, use: Use) -> RawTable:
    """Read the columns that `use` accepts, in the format of the content."""
    with path.open("rb") as file:
        start = file.read(64)
    if is_sas(start):
        return read_sas(path, use)
    if start.startswith(b"PK") and is_workbook(path):
        return read_workbook(path, use)
    for magic, (kind, todo) in _OTHER.items():
        if start.startswith(magic):
            raise InputError(
                kind,
                expected=f"a table in one of the formats {', '.join(FORMATS)}",
                todo=todo,
                reason=Reason.UNREADABLE_FILE,
            )
    return read_text(path.read_bytes(), use)


def _finish(table: RawTable, use: Use) -> pd.DataFrame:
    """Check the columns, drop a row of descriptions, and set cells without a value to NaN."""
    cells = table.cells
    count = Counter(column.upper() for column in table.columns if column and use(column))
    doubled = sorted(column for column, n in count.items() if n > 1)
    if doubled:
        raise InputError(
            f"repeated column {' and '.join(doubled)}",
            expected="each column once, ignoring case",
            todo="Remove or rename the repeated columns.",
            reason=Reason.UNREADABLE_FILE,
        )
    if len(cells) and _is_description(table):
        cells = cells.iloc[1:]
    if not len(cells):
        raise InputError(
            "no rows" if table.columns else "an empty file",
            expected="a header and at least one row",
            todo="Download or export the table again.",
            reason=Reason.EMPTY_TABLE,
        )
    known = {
        index: column.mask(column.str.strip().isin(MISSING_WORDS))
        for index, column in cells.items()
    }
    names = [table.columns[index] for index in cells.columns.astype(int).tolist()]
    return pd.DataFrame(known, index=cells.index).set_axis(names, axis=1)


def _is_description(table: RawTable) -> bool:
    """Return whether the first row describes the columns, as in tables of the NDA.

    Each cell of such a row is a text without a number, also in columns that are otherwise numbers.
    """
    first, others = table.cells.iloc[0], table.cells.iloc[1:]
    if any(cell == "" or _NUMBER.match(cell) or cell.startswith(".") for cell in first):
        return False
    if not _NDA.isdisjoint(name.lower() for name in table.columns):
        return True
    return len(others) > 0 and any(
        others[column].str.strip().str.fullmatch(_NUMBER.pattern).all() for column in others
    )
