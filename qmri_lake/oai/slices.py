"""Names and sizes of slices, which show whether an unreadable file may have been a slice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.files import Entry
from qmri_lake.oai.packing import archive_stem

__all__ = ["SliceNames", "combine", "is_document", "is_slice_name", "not_dicom"]

_SLICE_PATTERNS = ("0", ".dcm", ".ima", ".dicom")
"""Patterns of names that only slices have."""
_SLICE_ENDINGS = (".dcm", ".ima", ".dicom", ".dic")
_SIZE_TOLERANCE = 64
"""Largest difference of the sizes of slices of one series in bytes. [assumption]"""
_DOCUMENTS = (
    ".csv",
    ".gif",
    ".htm",
    ".html",
    ".jpeg",
    ".jpg",
    ".json",
    ".mat",
    ".md",
    ".npy",
    ".npz",
    ".parquet",
    ".pdf",
    ".png",
    ".sas7bdat",
    ".tsv",
    ".txt",
    ".xls",
    ".xlsx",
    ".xml",
    ".xpt",
    ".yaml",
    ".yml",
)
_TEXTS = (".csv", ".htm", ".html", ".json", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml")
_STARTS = (
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PK\x03\x04", "a zip"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)


class SliceNames:
    """Names, numbers and sizes of the slices of one series in one folder.

    Parameters
    ----------
    files : iterable of (str, int)
        Name without folders and size in bytes of each file.
    """

    def __init__(self, files: Iterable[tuple[str, int]]) -> None:
        self._patterns: set[str] = set()
        self._sizes: set[int] = set()
        numbers: dict[str, list[int]] = {}
        for name, size in files:
            self._patterns.add(_pattern(archive_stem(name)))
            self._sizes.add(size)
            stem, number = _number(name)
            numbers.setdefault(stem, []).append(number)
        # Numbers count slices only if they differ. In UIDs, the first number is constant.
        self._numbers = {
            stem: set(values) for stem, values in numbers.items() if len(values) == len(set(values))
        }

    def include(self, entry: Entry) -> bool:
        """Return whether a file has the name pattern, number or size of a slice of the series."""
        name = entry.basename
        document = name.lower().endswith(_DOCUMENTS)
        if not document and self.has_size(entry.size):
            return True
        if name.startswith("."):
            return False  # systems write files such as ._001.dcm beside any file
        if _pattern(_unpacked(entry)) in self._patterns:
            return True
        stem, number = _number(name)
        taken = self._numbers.get(stem, set())
        near = bool(taken) and min(taken) - len(taken) <= number <= max(taken) + len(taken)
        return near and number not in taken

    def has_size(self, size: int) -> bool:
        """Return whether a slice of the series has this size."""
        return any(abs(size - known) <= _SIZE_TOLERANCE for known in self._sizes)


def is_document(entry: Entry) -> bool:
    """Return whether a file is a table, a picture or a text by its name, and a text is readable."""
    name = entry.basename.lower()
    if name.startswith("."):
        return True
    return name.endswith(_DOCUMENTS) and not (name.endswith(_TEXTS) and _is_binary(entry.start))


def is_slice_name(entry: Entry) -> bool:
    """Return whether the name is typical of slices: digits, or the ending of DICOM files."""
    name = _unpacked(entry)
    return not name.startswith(".") and _pattern(name) in _SLICE_PATTERNS


def not_dicom(entry: Entry) -> InputError:
    """Return the error of a file in the place of a slice."""
    reason = Reason.NOT_DICOM
    start = entry.start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not entry.start:
        found, reason = "an empty file", Reason.TRUNCATED_FILE
    elif not any(entry.start):
        found = "zeros"
    else:
        kinds = (kind for magic, kind in _STARTS if start.lower().startswith(magic.lower()))
        printed = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in entry.start)
        found = next(kinds, "text" if printed else "unknown bytes")
    if entry.is_archive:
        found = "an archive"
    return InputError(
        f"{found} in the place of a slice",
        expected="a DICOM file",
        where=entry.name,
        todo="Copy or download the file again, or remove it if it is not a slice.",
        reason=reason,
    )


def combine(faults: Sequence[InputError]) -> InputError:
    """Return the first of several errors, with the names of the files of the others."""
    first = faults[0]
    if len(faults) == 1:
        return first
    others = ", ".join(fault.where.rpartition("/")[2] for fault in faults[1:6])
    return InputError(
        f"{first.found}, and {counted(len(faults) - 1, 'more file')}: {others}"
        + (" ..." if len(faults) > 6 else ""),
        expected=first.expected,
        where=first.where,
        todo=first.todo,
        reason=first.reason,
    )


def _unpacked(entry: Entry) -> str:
    """Return the name without the endings of compressed and partial files."""
    return entry.basename if entry.is_archive else archive_stem(entry.basename)


def _is_binary(start: bytes) -> bool:
    """Return whether the first bytes have characters that occur in no text, except in UTF-16."""
    return not start.startswith((b"\xff\xfe", b"\xfe\xff")) and any(byte < 8 for byte in start)


def _pattern(name: str) -> str:
    """Return the ending of DICOM files, or the name with all numbers replaced by 0."""
    ending = name[name.rfind(".") :].lower()
    return ending if ending in _SLICE_ENDINGS else re.sub(r"\d+", "0", name)


def _number(name: str) -> tuple[str, int]:
    """Return the name up to its first point with numbers replaced by 0, and its last number."""
    stem = name.partition(".")[0]
    digits = re.findall(r"\d+", stem)
    return re.sub(r"\d+", "0", stem), int(digits[-1]) if digits and len(digits[-1]) < 19 else -1
