"""Read SAS tables (``.sas7bdat`` and ``.xpt``) as text, with their missing codes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.raw_table import RawTable, Use, number_text, truncated

__all__ = ["is_sas", "read_sas"]

_SAS = bytes.fromhex("000000000000000000000000c2ea8160b31411cfbd92080009c7318c181f1011")
_TRANSPORT = b"HEADER RECORD*******LIB"
_OBSERVATIONS = (b"HEADER RECORD*******OBS     ", b"HEADER RECORD*******OBSV8   ")
_RECORD = 80
"""Length of a record of a transport file [bytes]."""


def is_sas(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a SAS table."""
    return start.startswith((_SAS, _TRANSPORT))


def read_sas(path: Path, use: Use) -> RawTable:
    """Read the columns that `use` accepts; missing codes are text, such as ``.M``.

    Raises
    ------
    InputError
        If the file is incomplete (reason ``truncated_file``), or if it is damaged or has several
        tables (``unreadable_file``).
    """
    import pyreadstat  # on first use, because few deliveries have SAS tables

    with path.open("rb") as file:
        transport = file.read(len(_TRANSPORT)) == _TRANSPORT
    read = pyreadstat.read_xport if transport else pyreadstat.read_sas7bdat
    options: dict[str, Any] = {} if transport else {"user_missing": True}
    try:
        _, meta = read(path, metadataonly=True)
        columns = [name.strip() for name in meta.column_names]
        used = [index for index, name in enumerate(columns) if use(name)]
        # An empty list would mean all columns.
        names = [meta.column_names[index] for index in used] or meta.column_names[:1]
        values, _ = read(path, usecols=names, output_format="dict", **options)
    except pyreadstat.ReadstatError as error:
        if "Unable to read" in str(error) or "row count" in str(error):
            raise truncated("the SAS table ends too early") from None
        raise _damaged(str(error)) from None
    except OSError:
        raise
    except Exception as error:  # damage can raise any error in the library
        raise _damaged(str(error).partition("\n")[0]) from None
    kinds = meta.readstat_variable_types
    texts = {
        index: [_text(value, kinds[name] == "string") for value in values[name]]
        for index, name in zip(used, names, strict=False)
    }
    n_rows = max(map(len, values.values()), default=0)
    if transport:
        codes = _transport_codes(path, list(meta.variable_storage_width.values()), n_rows)
        for index, column in texts.items():
            if kinds[meta.column_names[index]] != "string":
                texts[index] = [
                    code or text for code, text in zip(codes[index], column, strict=True)
                ]
    return RawTable(columns, pd.DataFrame(texts, index=range(1, n_rows + 1), dtype=str))


def _text(value: object, is_text: bool) -> str:
    """Return a value as text; a letter in a column of numbers is a missing code."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.rstrip() if is_text else f".{value}"
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def _transport_codes(path: Path, widths: list[int], n_rows: int) -> list[list[str]]:
    """Return the missing codes of a transport file by column, which the library does not give.

    A missing number has the code as its first byte, and zeros.
    """
    content = path.read_bytes()
    n_tables = sum(content.count(mark) for mark in _OBSERVATIONS)
    if n_tables != 1:
        raise InputError(
            f"{n_tables} tables in one file",
            expected="one table",
            todo="Export each table to its own file.",
            reason=Reason.UNREADABLE_FILE,
        )
    start = max(content.find(mark) for mark in _OBSERVATIONS) + _RECORD
    width = sum(widths)
    declared = content[start - 32 : start].strip()
    end = start + n_rows * width
    complete = not len(content) % _RECORD and not content[end:].strip(b" ")
    if not complete or (declared.isdigit() and int(declared) not in (0, n_rows)):
        raise truncated(f"the transport file ends within or after row {n_rows:,}")
    rows = np.frombuffer(content[start:end], np.uint8).reshape(n_rows, width)
    ends = np.cumsum(widths)
    return [_codes(rows[:, end - size : end]) for end, size in zip(ends, widths, strict=True)]


def _codes(cells: NDArray[np.uint8]) -> list[str]:
    """Return the missing code of each cell of a column of numbers; "" for numbers and ``.``."""
    if cells.shape[1] < 2:
        return [""] * len(cells)
    first = cells[:, 0]
    letter = ((first >= ord("A")) & (first <= ord("Z"))) | (first == ord("_"))
    coded = letter & (cells[:, 1:] == 0).all(axis=1)
    return [f".{chr(byte)}" if code else "" for byte, code in zip(first, coded, strict=True)]


def _damaged(found: str) -> InputError:
    return InputError(
        f"an unreadable SAS table: {found}",
        expected="an uncompressed or row-compressed .sas7bdat, or a .xpt of version 5 or 8",
        todo="Download the table again, or export it as .csv.",
        reason=Reason.UNREADABLE_FILE,
    )
