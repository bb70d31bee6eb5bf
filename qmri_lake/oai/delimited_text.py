"""Read delimited text: find its encoding, delimiter and quotes, and never shift a cell."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.raw_table import RawTable, Use, ragged, truncated

__all__ = ["decode", "read_text"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # first, as its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DELIMITERS = "|\t,;"
"""Delimiters. The one that occurs most often in the header is used, the first if several do."""
_FIRST_LINES = re.compile(rb"[ \r\n]*([^\r\n]*)[ \r\n]*([^\r\n]*)")
"""The first two lines that are not blank."""


_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
"""Characters that do not occur in tables."""


def decode(content: bytes) -> str:
    """Decode text with a byte-order mark, UTF-16, UTF-8 or, if it is none of these, Windows-1252.

    Raises
    ------
    InputError
        If the bytes are not text in one of these encodings (reason ``unreadable_file``).
    """
    encodings = [encoding for mark, encoding in _MARKS if content.startswith(mark)][:1]
    if not encodings and b"\0" in content[:2]:
        encodings = ["utf-16-be" if content[:1] == b"\0" else "utf-16-le"]
    for encoding in encodings or ["utf-8", "cp1252"]:
        try:
            text = content.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        if "\0" in text or (encoding == "cp1252" and _is_damaged_utf8(content)):
            continue
        return text
    raise _not_text()


def _not_text() -> InputError:
    return InputError(
        "bytes that are not text",
        expected="text in UTF-8, UTF-16 or Windows-1252",
        todo="Download or export the table again.",
        reason=Reason.UNREADABLE_FILE,
    )


def _is_damaged_utf8(content: bytes) -> bool:
    """Return whether more characters are UTF-8 than not, so that some bytes must be damaged."""
    text = content.decode("utf-8", "surrogateescape")
    high = [character for character in text if character > "\x7f"]
    return 2 * sum("\udc80" <= character <= "\udcff" for character in high) < len(high)


def read_text(content: bytes, use: Use) -> RawTable:
    """Read the columns whose names `use` accepts.

    A cell between double quotes may contain delimiters and line breaks. Blank lines are skipped.

    Parameters
    ----------
    content : bytes
        The file. The first line that is not blank is the header.
    use : callable
        Returns whether to read the column of a given name.

    Raises
    ------
    InputError
        If a row and the header have different numbers of cells (reason ``ragged_table``), if the
        file ends within a row (``truncated_file``), if quotes do not match, or if the bytes are not
        text (``unreadable_file``).
    """
    if not content.isascii() or b"\0" in content:
        content = decode(content).encode()
    content = content.rstrip(b"\x1a")  # the end of a file of MS-DOS
    if _CONTROL.search(content):
        raise _not_text()
    try:
        delimiter = _find_delimiter(content)
    except csv.Error as error:
        raise _unquoted(f"unreadable header: {error}") from None
    if b'"' in content and any(
        before + b'"' in b"\n" + content for before in (delimiter.encode(), b"\n", b"\r")
    ):
        return _read_quoted(content, delimiter, use)
    table = _read_plain(content, delimiter, use)
    if any('"' in name for name in table.columns):
        raise _unquoted("a quote within the name of a column")
    return table


def _find_delimiter(content: bytes) -> str:
    """Return the delimiter of the header or, if it has a single column, of the first row."""
    start = _FIRST_LINES.match(content)
    for line in start.groups() if start else ():
        text = line.decode(errors="replace")
        counts = [len(next(csv.reader([text], delimiter=mark), ())) for mark in _DELIMITERS]
        if max(counts) > 1:
            return _DELIMITERS[counts.index(max(counts))]
    return _DELIMITERS[0]


def _read_plain(content: bytes, delimiter: str, use: Use) -> RawTable:
    """Read text in which quotes have no meaning."""
    if any(content[at + 1 : at + 2] != b"\n" for at in _places(content, b"\r")):
        # Some lines end with a carriage return alone.
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ends = [*_places(content, b"\n"), *([] if content.endswith(b"\n") else [len(content)])]
    lines = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
    marks = np.frombuffer(content, np.uint8) == ord(delimiter)
    blank = b" \t\r".replace(delimiter.encode(), b"")
    sizes = {
        number: size
        for number, (start, end) in enumerate(lines, 1)
        if (size := int(np.count_nonzero(marks[start:end])) + 1) > 1
        or content[start:end].strip(blank)
    }
    if not sizes:
        return RawTable([], pd.DataFrame())
    filled = list(sizes)
    head, *rows = filled
    text = content[slice(*lines[head - 1])].decode()
    columns = [name.strip() for name in text.split(delimiter)]
    last = 0 if content.endswith(b"\n") else filled[-1]
    _check_sizes(((row, sizes[row]) for row in rows), len(columns), last)
    if b'"' in content:
        _check_literal_quotes(content, delimiter.encode())
    used = [index for index, name in enumerate(columns) if use(name)]
    if not used or not rows:
        return RawTable(columns, pd.DataFrame(columns=used, index=rows, dtype=str))
    if len(filled) < len(lines):
        content = b"\n".join(content[slice(*lines[number - 1])] for number in filled)
    cells = pd.read_csv(
        io.BytesIO(content),
        sep=delimiter,
        header=0,
        names=range(len(columns)),
        usecols=used,
        index_col=False,
        dtype=str,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
        encoding="utf-8",
        skip_blank_lines=False,
    )
    cells.index = pd.Index(rows)
    return RawTable(columns, cells)


def _places(content: bytes, byte: bytes) -> Iterator[int]:
    """Yield the positions of a byte; faster than a regular expression if they are far apart."""
    at = content.find(byte)
    while at >= 0:
        yield at
        at = content.find(byte, at + 1)


def _read_quoted(content: bytes, delimiter: str, use: Use) -> RawTable:
    """Read text in which cells begin with a quote.

    The tables of the OAI do not quote cells, so a cell may begin with a literal quote.
    """
    plain: RawTable | None
    try:
        plain = _read_plain(content, delimiter, use)
    except InputError:
        plain = None
    try:
        quoted = _parse_quotes(content.decode(), delimiter, use)
    except InputError:
        whole = delimiter == "|" and content.endswith((b"\n", b"\r"))
        if whole and plain is not None and '"' not in "".join(plain.columns):
            return plain
        raise
    if plain is not None and len(plain.cells) != len(quoted.cells):
        # Between two quotes of different rows lie whole rows with the right number of cells.
        raise _unquoted(f"{len(plain.cells) - len(quoted.cells):,} rows between quotes")
    return quoted


def _parse_quotes(text: str, delimiter: str, use: Use) -> RawTable:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    used: list[int] = []
    numbers: list[int] = []
    rows: list[list[str]] = []
    bad: list[tuple[int, int]] = []
    inner = False
    start, number = 1, 1
    try:
        for cells in reader:
            start, number = number, reader.line_num + 1
            if len(cells) < 2 and not "".join(cells).strip():
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                used = [index for index, name in enumerate(columns) if use(name)]
                continue
            inner = inner or '"' in "".join(cells)
            if len(cells) != len(columns):
                bad.append((start, len(cells)))
            else:
                numbers.append(start)
                rows.append([cells[index] for index in used])
    except csv.Error as error:
        if "end of data" in str(error):
            raise truncated(f"a quote that opens in row {number} is not closed") from None
        raise _unquoted(f"row {number}: {error}") from None
    last = 0 if text.endswith(("\n", "\r")) or not bad else start
    _check_sizes(iter(bad), len(columns), last)
    if inner or text.count('"') % 2:
        _check_quotes(text, delimiter)
    return RawTable(columns, pd.DataFrame(rows, index=numbers, columns=used, dtype=str))


def _check_sizes(sizes: Iterator[tuple[int, int]], wanted: int, last: int) -> None:
    """Raise an error if rows, given as (line, cells), do not have the wanted number of cells.

    `last` is the line with which the text ends without a line break, or 0.
    """
    bad = [(number, n) for number, n in sizes if n != wanted]
    if not bad:
        return
    if len(bad) == 1 and bad[0][0] == last and bad[0][1] < wanted:
        raise truncated(f"the table ends in row {last}, after {bad[0][1]} of {wanted} cells")
    raise ragged(bad, wanted)


def _check_literal_quotes(content: bytes, mark: bytes) -> None:
    """Raise an error if a quote opens in one cell and closes in another.

    Then a delimiter may have been lost before the quote: ``2"a|b"`` instead of ``2|"a|b"``.
    """
    for number, line in enumerate(content.splitlines(), 1):
        if line.count(b'"') > 1:
            odd = [cell for cell in line.split(mark) if cell.count(b'"') % 2]
            if len(odd) > 1 and odd[-1].endswith(b'"'):
                raise _unquoted(f"a quote between two cells in row {number}")


def _check_quotes(text: str, delimiter: str) -> None:
    """Raise an error if a cell that is not between quotes contains a quote."""
    mark = re.escape(delimiter)
    cell = re.compile(rf'(?:"(?:[^"]|"")*+"|[^"{mark}\r\n]*+)(?:{mark}|\r\n?|\n|\Z)')
    at = 0
    while at < len(text):
        match = cell.match(text, at)
        if match is None:
            row = text.count("\n", 0, at) + 1
            raise _unquoted(f"a quote within a cell in row {row}")
        at = match.end()


def _unquoted(found: str) -> InputError:
    """Return the error of quotes that do not match."""
    return InputError(
        found,
        expected="quotes in pairs around cells",
        todo="Correct the quotes, or download the table again. Nothing of the table was used.",
        reason=Reason.UNREADABLE_FILE,
    )
