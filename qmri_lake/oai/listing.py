"""Reader of the listing of a delivery: ``contents.csv``, or ``image03.txt`` of the archive."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.delimited_text import read_text
from qmri_lake.oai.packing import archive_stem

__all__ = ["Listing", "ListingRow", "is_listing", "read_listing"]

_NAME = re.compile(r"^(contents.*\.csv|image03.*\.txt)$", re.IGNORECASE)
_LISTING_COLUMNS = {
    "folder": ("folder", "image_file"),
    "patient": ("participantid", "src_subject_id"),
    "study": ("studydescription", "comments_misc"),
    "series": ("seriesdescription", "image_description"),
}
"""Names of the columns in contents.csv and in image03.txt, in lower case."""


@dataclass(frozen=True, slots=True)
class ListingRow:
    """One row of a listing."""

    folder: tuple[str, ...]
    """Parts of the path of the series in the listing."""
    patient: str
    study_description: str
    series_description: str


class Listing:
    """Rows of listings.

    Folders are compared from the end of the path, because a delivery may lack parent folders.
    """

    def __init__(self, rows: Iterable[ListingRow]) -> None:
        self._by_leaf: dict[str, list[ListingRow]] = {}
        for row in rows:
            self._by_leaf.setdefault(row.folder[-1], []).append(row)

    def __len__(self) -> int:
        return sum(map(len, self._by_leaf.values()))

    def find(self, where: str, series_description: str) -> ListingRow | None:
        """Return the row of a series, or None if there is no row or several rows match."""
        rows = next(filter(None, map(self._matching_rows, _possible_paths(where))), [])
        if len(rows) > 1:
            rows = [row for row in rows if row.series_description == series_description]
        return rows[0] if len(rows) == 1 else None

    def _matching_rows(self, parts: tuple[str, ...]) -> list[ListingRow]:
        return [
            row
            for row in self._by_leaf.get(parts[-1] if parts else "", ())
            if all(a == b for a, b in zip(reversed(parts), reversed(row.folder), strict=False))
        ]


def is_listing(name: str) -> bool:
    """Return whether a file of this name is a listing."""
    return bool(_NAME.match(name))


def read_listing(content: bytes, where: str) -> list[ListingRow]:
    """Read the rows of a listing.

    Encodings, a byte-order mark, blanks, an unnamed leading column, the case of column names and
    the second header row of ``image03.txt`` (definitions) are ignored.

    Raises
    ------
    InputError
        If no column contains the folder or file of a series (reason ``table_without_key``), and as
        `qmri_lake.oai.delimited_text.read_text`, if a row may be shifted or incomplete.
    """
    known = [name for names in _LISTING_COLUMNS.values() for name in names]
    try:
        table = read_text(content, lambda name: name.lower() in known)
    except InputError as error:
        raise InputError(
            f"unreadable listing: {error.found}",
            expected=error.expected,
            where=where,
            todo="Correct the listing. The series were identified by their headers.",
            reason=error.reason,
        ) from None
    given = {name.lower(): index for index, name in reversed(list(enumerate(table.columns)))}
    cells = {
        key: table.cells[given[name]].str.strip().tolist()
        for key, names in _LISTING_COLUMNS.items()
        if (name := next((name for name in names if name in given), ""))
    }
    if "folder" not in cells:
        named = ", ".join(filter(None, table.columns[:8])).lower() or "unnamed columns"
        raise InputError(
            f"no folder column among {named}",
            expected="a column Folder (contents.csv) or image_file (image03.txt)",
            where=where,
            todo="Restore the header row. The series were identified by their headers.",
            reason=Reason.TABLE_WITHOUT_KEY,
        )
    blank = [""] * len(table.cells)
    rows = list(zip(*(cells.get(key, blank) for key in _LISTING_COLUMNS), strict=True))
    if "image_file" in given and rows and not rows[0][1].isdigit():
        del rows[0]  # the definitions of the columns
    return [
        ListingRow(parts, patient, study, series)
        for folder, patient, study, series in rows
        if (parts := _split(folder))
    ]


def _possible_paths(where: str) -> list[tuple[str, ...]]:
    """Return the parts of a path and, inside an archive, also the parts up to the archive."""
    parts = tuple(archive_stem(part) for part in where.split("/"))
    ends = [k for k, part in enumerate(where.split("/"), 1) if archive_stem(part) != part]
    return [parts, *(parts[:end] for end in ends)]


def _split(path: str) -> tuple[str, ...]:
    path = re.sub(r"^\w+://[^/]+/", "", path.strip().replace("\\", "/"))
    return tuple(
        part for part in archive_stem(path.rstrip("/")).split("/") if part not in ("", ".")
    )
