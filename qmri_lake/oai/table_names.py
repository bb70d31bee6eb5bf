"""Find the tables of a delivery, and determine from their names which ones are used."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qmri_lake.core.repository_format import is_repository
from qmri_lake.errors import Problem, Reason
from qmri_lake.oai.delimited_text import decode
from qmri_lake.oai.listing import is_listing
from qmri_lake.oai.table_formats import FORMATS

__all__ = ["KINDS", "UNKNOWN_NAME", "FoundTables", "find_tables"]

KINDS = {
    "Enrollees": r"enrollees[ _-]?\d*",
    "AllClinical##": r"allclinical[ _-]?\d\d",
    "kxr_sq_bu##": r"kxr[ _-]?sq[ _-]?bu[ _-]?\d\d",
    "OUTCOMES99": r"outcomes[ _-]?99",
}
"""Tables that are used, and patterns of their names. Text before and after the name is allowed."""
_PATTERNS = {
    kind: re.compile(rf"(?:.*[^a-z])?(?:oai)?{name}(?:[^a-z0-9].*)?")
    for kind, name in KINDS.items()
}
UNKNOWN_NAME = "unknown name"
"""Reason why a table is not used: its name is not one of `KINDS`."""
_OTHER_READINGS = re.compile(r"(?:.*[^a-z])?(?:oai)?k(?:xr|mri)_.*")
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".7z", ".xls", ".xlsb", ".ods", ".sav", ".dta", ".parquet")
"""Extensions of files that may contain a table, but are not read."""
_HEADER_BYTES = 1 << 16
_OWN_MASK = re.compile(r"\d{7,}-\d{3,}m-(left|right)\.npz")
"""Names of masks in the format of this package: ``9000001-000m-right.npz``."""


@dataclass(frozen=True, slots=True)
class FoundTables:
    """Tables of a delivery."""

    used: dict[str, list[Path]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Sorted files by kind."""
    unused: dict[str, str] = field(default_factory=dict)
    """Reason why a table is not used, by its path relative to the delivery."""
    problems: list[Problem] = field(default_factory=list)
    """Tables of a known name in a format that cannot be read."""

    @property
    def known(self) -> bool:
        """Whether there is a table of a known name."""
        return any(self.used.values()) or bool(self.problems)


def find_tables(folder: Path) -> FoundTables:
    """Find the tables below a folder. Letter case is ignored."""
    found = FoundTables()
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        kind, suffix = _kind(path.name), path.suffix.lower()
        if suffix in _PACKED:
            inside = _members(path) if suffix == ".zip" else []
            if kind or any(_kind(member) for member in inside):
                found.problems.append(_packed(name, suffix))
        elif suffix not in FORMATS or is_listing(path.name):
            continue
        elif kind:
            found.used[kind].append(path)
        elif _OTHER_READINGS.fullmatch(path.name.lower()):
            found.unused[name] = "readings of another project"
        elif (suffix != ".txt" or _has_columns(path)) and not _is_beside_masks(path):
            found.unused[name] = UNKNOWN_NAME
    return found


def _kind(name: str) -> str | None:
    """Return the kind of table in a file of this name, or None if the kind is not used."""
    stem = name.lower().rpartition("/")[2].partition(".")[0]
    return next((kind for kind in KINDS if _PATTERNS[kind].fullmatch(stem)), None)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without lakes, hidden files and lock files of Excel."""
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or (subfolders and is_repository(parent)):
            subfolders.clear()
            continue
        seen.add(real)
        for name in names:
            if name.lower().endswith((*FORMATS, *_PACKED)) and not name.startswith((".", "~$")):
                yield Path(parent, name)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError):
        return []


def _has_columns(path: Path) -> bool:
    """Return whether the first line of a text has columns; other texts are documents."""
    try:
        with path.open("rb") as file:
            first = decode(file.read(_HEADER_BYTES)).partition("\n")[0]
    except (OSError, ValueError):
        return False
    return "|" in first or "\t" in first


def _is_beside_masks(path: Path) -> bool:
    """Return whether a table describes masks of this package, such as the truth of a phantom."""
    return any(_OWN_MASK.fullmatch(name) for name in os.listdir(path.parent))


def _packed(name: str, suffix: str) -> Problem:
    packed = suffix in _PACKED[:5]
    return Problem(
        Reason.UNREADABLE_FILE,
        name,
        f"a clinical table in a {suffix} file",
        f"a table in one of the formats {', '.join(FORMATS)}",
        "Unpack the file." if packed else "Save or export the table as .csv.",
    )
