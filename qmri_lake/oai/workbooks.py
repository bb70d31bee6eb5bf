"""Read the only sheet of an Excel workbook as text."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from pathlib import Path

import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.raw_table import RawTable, Use, number_text, ragged, truncated

__all__ = ["is_workbook", "read_workbook"]

_MAX_BYTES = 2 << 30
"""Largest size of an unpacked workbook [bytes]. [assumption]"""
_NO_VALUE = re.compile(rb"<f[ >][^<]*</f>\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>|<f[^<>]*/>\s*</c>")
"""A formula without the value that Excel computed."""


def is_workbook(path: Path) -> bool:
    """Return whether a ZIP file is a workbook, complete or not."""
    try:
        with zipfile.ZipFile(path) as file:
            return "xl/workbook.xml" in file.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return path.suffix.lower() == ".xlsx"


def read_workbook(path: Path, use: Use) -> RawTable:
    """Read the columns that `use` accepts from the only sheet that is not empty.

    Raises
    ------
    InputError
        If the workbook is damaged (reason ``truncated_file``), has several sheets, merged cells or
        formulas without values (``unreadable_file``), or if a row is longer than the header
        (``ragged_table``).
    """
    # Imported on first use, because few deliveries have workbooks.
    from openpyxl.reader.excel import load_workbook

    try:
        _check_parts(path)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # styles and validations that openpyxl does not know
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            filled = []
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # the declared ones may be too small
                rows = [
                    (number, row)
                    for number, row in enumerate(sheet.iter_rows(values_only=True), 1)
                    if any(_text(cell).strip() for cell in row)
                ]
                filled += [rows] if rows else []
    except (InputError, OSError):
        raise
    except Exception as error:  # zipfile, zlib, expat and openpyxl have no common base
        raise truncated(f"a damaged workbook: {type(error).__name__}") from None
    if len(filled) > 1:
        raise _refused(f"{len(filled)} sheets with cells", "one sheet", "Keep the table's sheet.")
    return _table(filled[0], use) if filled else RawTable([], pd.DataFrame())


def _table(rows: list[tuple[int, tuple[object, ...]]], use: Use) -> RawTable:
    columns = [_text(cell).strip() for cell in rows[0][1]]
    while not columns[-1]:
        columns.pop()
    width = len(columns)
    bad = [(number, n) for number, row in rows[1:] if (n := _length(row)) > width]
    if bad:
        raise ragged(bad, width)
    used = [index for index, name in enumerate(columns) if use(name)]
    cells = [
        [_text(row[index]) if index < len(row) else "" for index in used] for _, row in rows[1:]
    ]
    index = [number for number, _ in rows[1:]]
    return RawTable(columns, pd.DataFrame(cells, index=index, columns=used, dtype=str))


def _length(row: tuple[object, ...]) -> int:
    """Return the number of cells up to the last one that is not blank."""
    return max((n for n, cell in enumerate(row, 1) if _text(cell).strip()), default=0)


def _check_parts(path: Path) -> None:
    """Raise an error if cells of the sheets have no stored value of their own."""
    with zipfile.ZipFile(path) as file:
        if sum(part.file_size for part in file.infolist()) > _MAX_BYTES:
            raise _refused(
                "a workbook that is too large", f"at most {_MAX_BYTES >> 30} GiB", "Use .csv."
            )
        for part in file.namelist():
            if not re.fullmatch(r"xl/worksheets/[^/]+\.xml", part):
                continue
            content = file.read(part)
            if b"<mergeCell " in content:
                raise _refused("merged cells", "one value in each cell", "Unmerge the cells.")
            if b"<f" in content and _NO_VALUE.search(content):
                raise _refused(
                    "formulas without values", "values", "Open the workbook in Excel and save it."
                )


def _refused(found: str, expected: str, todo: str) -> InputError:
    return InputError(found, expected=expected, todo=todo, reason=Reason.UNREADABLE_FILE)


def _text(value: object) -> str:
    """Return the value of a cell as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ")
    return str(value)
