"""Error classes, whose messages are one line: location, fault, expectation, and what to do.

Every class is a subclass of `QmriLakeError` and of the built-in exception that a caller would
expect (``KeyError`` for an unknown name, ``ValueError`` for an invalid value ...). Errors in the
input have a `Reason` from a closed list, so that the problems of ten thousand series can be counted
and filtered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

__all__ = [
    "CommitConflictError",
    "DiskFullError",
    "InputError",
    "LakeLockedError",
    "NotALakeError",
    "NotFoundError",
    "Problem",
    "QmriLakeError",
    "QueryError",
    "Reason",
    "RunError",
    "UnknownRefError",
    "UnreadableChunkError",
    "VariableError",
    "encodable",
    "printable",
    "problem_table",
    "sentence",
]


class Reason(StrEnum):
    """Closed list of the reasons why an input could not be used."""

    ABSENT_SIDE = "absent_side"
    ABSENT_PATIENT = "absent_patient"
    ABSENT_TIMEPOINT = "absent_timepoint"
    ABSENT_EXAM = "absent_exam"
    AMBIGUOUS_SERIES = "ambiguous_series"
    CHANGED_MASK = "changed_mask"
    COLOUR_PIXELS = "colour_pixels"
    CONTRADICTORY_BITS = "contradictory_bits"
    DAMAGED_ARCHIVE = "damaged_archive"
    CONFLICTING_ROWS = "conflicting_rows"
    DISK_FULL = "disk_full"
    DUPLICATE_POSITION = "duplicate_position"
    EMPTY_MASK = "empty_mask"
    EMPTY_TABLE = "empty_table"
    GRID_MISMATCH = "grid_mismatch"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    CONTRADICTORY_AFFINES = "contradictory_affines"
    FRACTIONAL_LABELS = "fractional_labels"
    IMPLAUSIBLE_VOXELS = "implausible_voxels"
    OVERLAPPING_LABELS = "overlapping_labels"
    OVERSIZED_MASK = "oversized_mask"
    TRAILING_BYTES = "trailing_bytes"
    IMPLAUSIBLE_MOTION = "implausible_motion"
    IMPLAUSIBLE_VALUE = "implausible_value"
    INCONSISTENT_GEOMETRY = "inconsistent_geometry"
    INVERTED_GREYSCALE = "inverted_greyscale"
    KL_PROSTHESIS = "kl_prosthesis"
    LARGER_THAN_LAKE = "larger_than_lake"
    MISSING_ECHO = "missing_echo"
    MISSING_SLICE = "missing_slice"
    MIXED_ECHO_COUNTS = "mixed_echo_counts"
    MIXED_PIXELS = "mixed_pixels"
    MODALITY_LUT = "modality_lut"
    MORE_COMPLETE = "more_complete"
    MODEL_MISMATCH = "model_mismatch"
    NOT_A_LAKE = "not_a_lake"
    NOT_EXPORTABLE = "not_exportable"
    NOT_DICOM = "not_dicom"
    NUMBERING_GAP = "numbering_gap"
    OVERSIZED_FILE = "oversized_file"
    PADDED_PIXELS = "padded_pixels"
    PATIENT_CONFLICT = "patient_conflict"
    RAGGED_TABLE = "ragged_table"
    SEVERAL_VOLUMES = "several_volumes"
    SIDE_CONFLICT = "side_conflict"
    TABLE_WITHOUT_KEY = "table_without_key"
    TIMEPOINT_CONFLICT = "timepoint_conflict"
    TOO_SMALL = "too_small"
    TRANSFER_SYNTAX = "transfer_syntax"
    TRUNCATED_FILE = "truncated_file"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_REF = "unknown_ref"
    UNKNOWN_RELEASE = "unknown_release"
    UNKNOWN_SEQUENCE = "unknown_sequence"
    OTHER_SERIES = "other_series"
    UNREADABLE_FILE = "unreadable_file"
    UNUSED_TABLE = "unused_table"
    UNREADABLE_VALUE = "unreadable_value"
    EXISTING_COLUMN = "existing_column"


@dataclass(frozen=True, slots=True)
class Problem:
    """One item that could not be ingested, with its location, the reason, and what to do."""

    reason: Reason
    where: str
    """File, folder, archive member or table row, relative to the ingested source."""
    found: str
    expected: str
    todo: str
    exam: str = ""
    """Exam key, if known."""

    def __post_init__(self) -> None:
        for name in ("where", "found", "expected", "todo", "exam"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {sentence(self.found, self.expected, self.todo)}"


def encodable(text: str) -> str:
    r"""Escape characters that UTF-8 cannot encode, such as bytes of file names in another encoding.

    >>> encodable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters: a terminal obeys them, breaks the line, or shows the text in another order.
"""


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape control characters, except those in `keep`, and what UTF-8 cannot encode.

    Names of files and texts in DICOM headers are untrusted: an escape sequence in them could change
    the title, the clipboard or the content of a terminal.

    >>> printable("\x1b[2Jknee")
    '\\x1b[2Jknee'
    """
    return _CONTROLS.sub(
        lambda found: (
            found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii")
        ),
        encodable(text),
    )


def sentence(found: str, expected: str, todo: str = "") -> str:
    """Join what is wrong, what was expected and what to do into one line."""
    text = f"{found} (expected {expected})" if expected else found
    return f"{text}. {todo}" if todo else text


class QmriLakeError(Exception):
    """Base class of all errors of this package.

    Parameters
    ----------
    found : str
        What is wrong, in one phrase: ``no column 'kll'``.
    expected : str, optional
        What was expected instead: ``one of age, bmi, kl``.
    where : str, optional
        The lake, exam, file or argument.
    todo : str, optional
        What to do, as a sentence.
    reason : Reason, optional
        Entry of the closed list, for errors in the input.
    """

    def __init__(
        self,
        found: str,
        *,
        expected: str = "",
        where: str = "",
        todo: str = "",
        reason: Reason | None = None,
    ) -> None:
        self.found, self.expected = printable(found), printable(expected)
        self.where, self.todo = printable(where), printable(todo)
        self.reason = reason
        prefix = f"{self.where}: " if where else ""
        super().__init__(prefix + sentence(self.found, self.expected, self.todo))

    def __str__(self) -> str:
        # KeyError would show the repr, with quotes and escapes.
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # By default, an exception with keyword-only arguments cannot be unpickled, and a Dask
        # worker could not return it.
        return (
            _rebuild,
            (type(self), self.found, self.expected, self.where, self.todo, self.reason),
        )


def _rebuild(
    kind: type[QmriLakeError],
    found: str,
    expected: str,
    where: str,
    todo: str,
    reason: Reason | None,
) -> QmriLakeError:
    return kind(found, expected=expected, where=where, todo=todo, reason=reason)


class InputError(QmriLakeError, ValueError):
    """A file, series, table or array cannot be used; the error has a `Reason`."""

    def problem(self, where: str = "", exam: str = "") -> Problem:
        """Return this error as a row of a `problem_table`."""
        reason = self.reason or Reason.UNREADABLE_FILE
        return Problem(reason, where or self.where, self.found, self.expected, self.todo, exam)


class NotALakeError(QmriLakeError, FileNotFoundError):
    """There is no lake at the path or URL."""


class UnknownRefError(QmriLakeError, KeyError):
    """A tag, branch or snapshot does not exist."""


class NotFoundError(QmriLakeError, KeyError):
    """An exam, group, variable, step, run or file does not exist."""


class VariableError(QmriLakeError, TypeError):
    """A value does not fit the declaration of its variable (dims, dtype, range)."""


class QueryError(QmriLakeError, ValueError):
    """A cohort query cannot be parsed, or uses syntax outside the query language."""


class LakeLockedError(QmriLakeError, BlockingIOError):
    """Another process is writing to the lake."""


class CommitConflictError(QmriLakeError, RuntimeError):
    """Another writer changed the same chunks, and the changes cannot be merged."""


class DiskFullError(QmriLakeError, OSError):
    """The file system is full, or a limit on file size was reached."""


class UnreadableChunkError(QmriLakeError, OSError):
    """Values of an exam cannot be read, because a chunk is damaged or missing."""


class RunError(QmriLakeError, RuntimeError):
    """A run cannot be planned or executed."""


def problem_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """Return problems as a table with columns reason, where, found, expected, todo and exam."""
    columns = ["reason", "where", "found", "expected", "todo", "exam"]
    rows = [[str(getattr(p, name)) for name in columns] for p in problems]
    return pd.DataFrame(rows, columns=columns)
