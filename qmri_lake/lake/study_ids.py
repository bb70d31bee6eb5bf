"""Identifiers of patients that are not numbers, such as ``P007``: the column ``study_id``.

The keys of a lake are integers. A patient with another identifier gets a number of ten digits,
which is derived from the identifier: it is the same in every lake, in any order of ingests, and
after a removal no other patient gets it. The identifier is stored for each exam.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import icechunk
import numpy as np

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import Variable
from qmri_lake.schema.visits import ASSIGNED, PATIENTS
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.transaction import Transaction, declare

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = [
    "LONGEST",
    "STUDY_ID",
    "PatientNumbers",
    "assigned_number",
    "find_patient_number",
    "patient_number",
    "read_study_ids",
    "store_study_ids",
    "write_study_ids",
]

STUDY_ID = REGISTRY["clinical/study_id"]
LONGEST = 64
"""Largest number of characters of an identifier."""


def patient_number(text: str) -> int | None:
    """Return the patient number if an identifier is one: a number of up to 10 digits.

    >>> patient_number("9000798"), patient_number("P007")
    (9000798, None)
    """
    low, high = PATIENTS
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(high))
    return int(text) if is_number and int(text) >= low else None


def read_study_ids(root: Node) -> dict[int, str]:
    """Return the identifier by patient number, of the patients that have one."""
    if STUDY_ID.path not in root or not _is_ours(root):
        return {}
    texts = root[STUDY_ID.path][:].tolist()
    return {int(n): t for n, t in zip(root["patient"][:].tolist(), texts, strict=True) if t}


class PatientNumbers:
    """Numbers of patients by their identifiers, those of a lake and new ones.

    Parameters
    ----------
    lake : Snapshot or None
        Lake whose patients are known; None for a new lake.
    """

    def __init__(self, lake: Snapshot | None = None) -> None:
        self._texts = read_study_ids(lake.root) if lake is not None else {}
        """Identifier by number."""
        self._numbers = {_folded(text): number for number, text in self._texts.items()}
        self._taken = lake.all_patients() if lake is not None else set()

    def add(self, texts: Iterable[str]) -> dict[str, int | InputError]:
        """Return the number of each identifier, or why it cannot have one.

        An identifier that is a number is its own number. The order of identifiers has no effect.
        """
        wanted = sorted(set(texts))
        found: dict[str, int | InputError] = {}
        for text in sorted(wanted, key=lambda text: patient_number(text) is None):
            try:
                found[text] = self._number(text)
            except InputError as error:
                found[text] = error
        return found

    def study_id(self, text: str) -> str:
        """Return the identifier to store; "" if the number says the same."""
        number = patient_number(text)
        return "" if number is not None and text in (str(number), f"{number:07d}") else text

    def _number(self, text: str) -> int:
        number = patient_number(text)
        if number is not None:
            owner = self._texts.get(number, "")
            if owner and patient_number(owner) != number:
                raise _conflict(
                    "a patient number that was assigned to an identifier of the study",
                    "Use the identifier of the study for this patient.",
                )
            self._taken.add(number)
            return number
        known = self._numbers.get(_folded(text))
        if known is not None:
            if self._texts[known] != text:
                raise _conflict(
                    "an identifier of a patient that was also written with other capitals",
                    "Write the identifier in one way, with the same capitals.",
                )
            return known
        number = assigned_number(text)
        while number in self._taken:
            number = ASSIGNED[0] if number == ASSIGNED[1] else number + 1
        self._taken.add(number)
        self._texts[number], self._numbers[_folded(text)] = text, number
        return number


def find_patient_number(lake: Snapshot, identifier: str | int) -> int:
    """Return the number of a patient of a lake.

    Parameters
    ----------
    lake : Snapshot
    identifier : str or int
        Number, or identifier of the study.

    Raises
    ------
    NotFoundError
        If no exam has this identifier.
    """
    text = str(identifier).strip()
    number = patient_number(text)
    for known, study_id in read_study_ids(lake.root).items():
        if study_id == text:
            return known
    if number is not None:
        return number
    raise NotFoundError(
        f"no patient {text!r}",
        expected="the number of a patient, or an identifier in the column study_id",
        where=lake.url,
        todo="Check the identifier; capitals count.",
    )


def write_study_ids(session: icechunk.Session, identifiers: Mapping[str, str]) -> None:
    """Store the identifiers of exams, in a session that is committed by the caller.

    Parameters
    ----------
    session : icechunk.Session
    identifiers : mapping of str to str
        Identifier by exam key. Exams that have an identifier keep it.

    Raises
    ------
    InputError
        If the lake has a column ``study_id`` of a user's own table.
    """
    wanted = {exam: text for exam, text in identifiers.items() if text}
    if not wanted:
        return
    root = open_root(session.store, "r+")
    if STUDY_ID.path in root and not _is_ours(root):
        raise InputError(
            "a column study_id of your own table",
            expected="the identifiers of patients",
            where=STUDY_ID.path,
            todo="Ingest the images into a new lake, and store your column under another name.",
            reason=Reason.EXISTING_COLUMN,
        )
    declare(root, [STUDY_ID])
    stored = root[STUDY_ID.path][:]
    keys = root["exam"][:].tolist()
    rows = [row for row, exam in enumerate(keys) if exam in wanted and not stored[row]]
    if not rows:
        return
    change = Transaction()
    change.set_column(STUDY_ID.path, rows, np.array([wanted[keys[row]] for row in rows], object))
    change(session)


def store_study_ids(lake: Snapshot, identifiers: Mapping[int, str]) -> None:
    """Store the identifiers of patients for all their exams, in one commit; none if all are stored.

    Parameters
    ----------
    lake : Snapshot
    identifiers : mapping of int to str
        Identifier by patient number.
    """
    exams = lake.exams
    stored = lake.root[STUDY_ID.path][:] if STUDY_ID.path in lake.root else [""] * len(exams)
    wanted = {
        str(exam): identifiers[int(patient)]
        for exam, patient, text in zip(exams["exam"], exams["patient"], stored, strict=True)
        if not text and identifiers.get(int(patient))
    }
    if not wanted:
        return
    with translated_errors(lake.url):
        commit(
            lake.repo,
            lambda session: write_study_ids(session, wanted),
            "Store identifiers of the study",
        )
    lake.refresh()


def assigned_number(text: str) -> int:
    """Return the number of an identifier that is not a number, unless another patient has it."""
    low, high = ASSIGNED
    digest = hashlib.sha256(_folded(text).encode()).digest()
    return low + int.from_bytes(digest[:16]) % (high - low + 1)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _is_ours(root: Node) -> bool:
    """Return whether the lake has the column, rather than a column of that name from a table."""
    stored = Variable.from_array(STUDY_ID.group, STUDY_ID.name, root[STUDY_ID.path])
    return not stored.step


def _conflict(found: str, todo: str) -> InputError:
    return InputError(
        found, expected="one patient for each number", todo=todo, reason=Reason.PATIENT_CONFLICT
    )
