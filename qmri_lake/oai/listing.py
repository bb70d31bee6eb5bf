"""The list that comes with a delivery: ``contents.csv``, or the archive's ``image03.txt``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.files import tar_stem

__all__ = ["Listed", "Listing", "is_listing", "read_listing"]

_NAME = re.compile(r"^(contents.*\.csv|image03.*\.txt)$", re.IGNORECASE)
_COLUMNS = {
    "folder": ("folder", "image_file"),
    "patient": ("participantid", "src_subject_id"),
    "study": ("studydescription", "comments_misc"),
    "series": ("seriesdescription", "image_description"),
}
"""Columns of contents.csv, then of image03.txt; without regard to case."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a listing."""

    folder: tuple[str, ...]
    """Parts of the path of the series, as listed."""
    patient: str
    study_description: str
    series_description: str


class Listing:
    """Rows found by the folder of a series, from its end: deliveries start at any level."""

    def __init__(self, rows: Iterable[Listed]) -> None:
        self._by_leaf: dict[str, list[Listed]] = {}
        for row in rows:
            self._by_leaf.setdefault(row.folder[-1], []).append(row)

    def __len__(self) -> int:
        return sum(map(len, self._by_leaf.values()))

    def find(self, where: str, series_description: str) -> Listed | None:
        """Return the row of a series, or None where the listing says nothing certain of it."""
        rows = next(filter(None, map(self._ending, _readings(where))), [])
        if len(rows) > 1:
            rows = [row for row in rows if row.series_description == series_description]
        return rows[0] if len(rows) == 1 else None

    def _ending(self, parts: tuple[str, ...]) -> list[Listed]:
        return [
            row
            for row in self._by_leaf.get(parts[-1] if parts else "", ())
            if all(a == b for a, b in zip(reversed(parts), reversed(row.folder), strict=False))
        ]


def is_listing(name: str) -> bool:
    """Return whether a file of this name is a listing."""
    return bool(_NAME.match(name))


def read_listing(content: bytes, where: str) -> list[Listed]:
    """Read the rows of a listing.

    A byte-order mark, trailing blanks, an unnamed leading column, the case of the column names
    and the second header row of ``image03.txt`` (definitions) make no difference.

    Raises
    ------
    InputError
        ``table_without_key`` if no column holds the folder (or file) of a series,
        ``unreadable_file`` if its quotes don't match.
    """
    text = content.decode("utf-8-sig", errors="replace")
    tabs = "\t" in text.partition("\n")[0]
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter="\t" if tabs else ",", strict=True))
    except csv.Error as error:
        # An open quote would swallow the rows after it.
        raise InputError(
            f"a listing that can't be read ({error})",
            expected="a table with every quote closed",
            where=where,
            todo="Correct it; the series are read by their own headers meanwhile.",
            reason=Reason.UNREADABLE_FILE,
        ) from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    columns = {
        key: next((header.index(name) for name in names if name in header), -1)
        for key, names in _COLUMNS.items()
    }
    if columns["folder"] < 0:
        raise InputError(
            f"columns {', '.join(filter(None, header[:8])) or 'without names'}",
            expected="a column Folder (contents.csv) or image_file (image03.txt)",
            where=where,
            todo="Restore the header row; the series are read by their own headers meanwhile.",
            reason=Reason.TABLE_WITHOUT_KEY,
        )
    rows = []
    for number, cells in enumerate(lines[1:]):
        if tabs and number == 0:
            continue  # the definitions of the columns
        values = {
            key: cells[index].strip() if 0 <= index < len(cells) else ""
            for key, index in columns.items()
        }
        folder = _split(values["folder"])
        if folder:
            rows.append(Listed(folder, values["patient"], values["study"], values["series"]))
    return rows


def _readings(where: str) -> list[tuple[str, ...]]:
    """Return the parts of a place, whole and, for a place in a tar, up to the tar."""
    parts = tuple(tar_stem(part) for part in where.split("/"))
    ends = [k for k, part in enumerate(where.split("/"), 1) if tar_stem(part) != part]
    return [parts, *(parts[:end] for end in ends)]


def _split(path: str) -> tuple[str, ...]:
    path = re.sub(r"^\w+://[^/]+/", "", path.strip().replace("\\", "/"))
    return tuple(part for part in tar_stem(path.rstrip("/")).split("/") if part not in ("", "."))
