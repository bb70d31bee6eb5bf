"""Errors: one line that says what was found, what was expected, where, and what to do.

Every class is a subclass of `QmriLakeError` and of the builtin that a caller would expect
(``KeyError`` for a name that is not there, ``ValueError`` for a value that can't be used ...).
Whatever can be wrong with *input* has a `Reason`, from a closed list, so that a listing of
ten thousand series can be counted and filtered.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CommitConflictError",
    "DiskFullError",
    "DuplicateExamError",
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
    "VariableError",
]


class Reason(StrEnum):
    """Why something could not be used: the closed list."""

    ABSENT_SIDE = "absent_side"
    ABSENT_PATIENT = "absent_patient"
    ABSENT_TIMEPOINT = "absent_timepoint"
    ABSENT_EXAM = "absent_exam"
    DISK_FULL = "disk_full"
    DUPLICATE_POSITION = "duplicate_position"
    EMPTY_MASK = "empty_mask"
    GRID_MISMATCH = "grid_mismatch"
    IMPLAUSIBLE_MOTION = "implausible_motion"
    INCONSISTENT_GEOMETRY = "inconsistent_geometry"
    KL_PROSTHESIS = "kl_prosthesis"
    LARGER_THAN_LAKE = "larger_than_lake"
    MISSING_SLICE = "missing_slice"
    MIXED_ECHO_COUNTS = "mixed_echo_counts"
    MODEL_MISMATCH = "model_mismatch"
    NOT_A_LAKE = "not_a_lake"
    PATIENT_CONFLICT = "patient_conflict"
    SIDE_CONFLICT = "side_conflict"
    TABLE_WITHOUT_KEY = "table_without_key"
    TIMEPOINT_CONFLICT = "timepoint_conflict"
    TOO_SMALL = "too_small"
    TRUNCATED_FILE = "truncated_file"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_REF = "unknown_ref"
    UNKNOWN_RELEASE = "unknown_release"
    OTHER_SERIES = "other_series"
    UNREADABLE_FILE = "unreadable_file"
    UNREADABLE_VALUE = "unreadable_value"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that could not be ingested: where it is, why, and what to do about it."""

    reason: Reason
    where: str
    """The file, folder, archive member or table row, relative to what was ingested."""
    found: str
    expected: str
    todo: str
    exam: str = ""
    """Exam key, where it is known."""

    def __post_init__(self) -> None:
        for name in ("where", "found", "expected", "todo", "exam"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {_sentence(self.found, self.expected, self.todo)}"


def printable(text: str) -> str:
    r"""Spell out what UTF-8 can't hold, such as bytes of file names in another encoding.

    >>> printable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def did_you_mean(name: str, known: Iterable[str], *, n: int = 3, cutoff: float = 0.6) -> str:
    """Return a question with the nearest of the known names; "" where none is near."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _sentence(found: str, expected: str, todo: str) -> str:
    text = f"found {found}"
    if expected:
        text += f"; expected {expected}"
    return f"{text}. {todo}" if todo else text


class QmriLakeError(Exception):
    """Base of every error of this package.

    Parameters
    ----------
    found : str
        What was found, in one phrase.
    expected : str, optional
        What would have been right.
    where : str, optional
        The lake, exam, file or argument concerned.
    todo : str, optional
        What the reader can do about it: a whole sentence.
    reason : Reason, optional
        The entry of the closed list, where the error is about input.
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
        super().__init__(prefix + _sentence(self.found, self.expected, self.todo))

    def __str__(self) -> str:
        # KeyError would show the repr, with quotes and escapes.
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: without this an error does not come back from a Dask worker.
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
    """A file, series, table or array can't be used; carries a `Reason`."""

    def problem(self, where: str = "", exam: str = "") -> Problem:
        """Return this error as a row of a listing."""
        reason = self.reason or Reason.UNREADABLE_FILE
        return Problem(reason, where or self.where, self.found, self.expected, self.todo, exam)


class NotALakeError(QmriLakeError, FileNotFoundError):
    """The path or URL holds no lake."""


class UnknownRefError(QmriLakeError, KeyError):
    """No such tag, branch or snapshot."""


class NotFoundError(QmriLakeError, KeyError):
    """No such exam, group, variable, step or run."""


class DuplicateExamError(QmriLakeError, ValueError):
    """The exam is already in the lake."""


class VariableError(QmriLakeError, TypeError):
    """A value does not fit the declaration of its variable (dims, dtype, range)."""


class QueryError(QmriLakeError, ValueError):
    """A cohort query can't be parsed or asks for more than queries may do."""


class LakeLockedError(QmriLakeError, BlockingIOError):
    """Another process is writing to the lake."""


class CommitConflictError(QmriLakeError, RuntimeError):
    """Another writer changed the same chunks and the changes can't be merged."""


class DiskFullError(QmriLakeError, OSError):
    """The file system has no room, or a limit on file size was reached."""


class RunError(QmriLakeError, RuntimeError):
    """A run can't be planned or carried out."""
