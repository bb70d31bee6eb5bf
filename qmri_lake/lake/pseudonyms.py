"""Pseudonyms of patients: new numbers and offsets of dates, in a key file that the owner keeps.

The key file identifies the patients of all lakes that were derived with it. Therefore it is
readable for its owner only, and never inside a lake.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, LakeLockedError, NotFoundError, Reason, RunError
from qmri_lake.lake.date_shift import draw_offset
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.store.repository import is_local, local_path

__all__ = ["Pseudonyms", "draw_pseudonyms"]

FORMAT = 1
"""Version of the key file."""

NUMBERS = (1_000_000, 8_999_999)
"""Smallest and largest new number: 7 digits, as in the OAI, whose own numbers begin with 9."""

_ABOUT = (
    "Key of pseudonymised lakes: it identifies their patients. Keep it secret, and never share it."
)


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """The new number of a patient, and the offset of the patient's dates."""

    number: int
    days: int


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms by patient number."""

    by_patient: dict[int, Pseudonym]

    def numbers(self, patients: Iterable[int]) -> NDArray[np.int64]:
        """Return the new numbers of patients; -1 for a patient without one."""
        known = self.by_patient
        return np.array([known[p].number if p in known else -1 for p in patients], np.int64)

    def days(self, patients: Iterable[int]) -> NDArray[np.int64]:
        """Return the offset [days] of the dates of each patient."""
        return np.array([self.by_patient[p].days for p in patients], np.int64)

    def keys(self, exams: pd.DataFrame) -> pd.DataFrame:
        """Return exam, patient, timepoint and knee with new numbers, in the same order."""
        new = exams[list(KEYS)].assign(patient=self.numbers(exams["patient"].tolist()))
        names = [exam_key(*row) for row in new.itertuples(index=False)]
        return new.assign(exam=names)[["exam", *KEYS]].reset_index(drop=True)


def draw_pseudonyms(
    path: str | os.PathLike[str],
    patients: Iterable[int],
    taken: Iterable[int],
    lakes: Iterable[str],
) -> Pseudonyms:
    """Read a key file, and draw the pseudonyms of the patients that it does not have.

    Numbers and offsets are drawn from the operating system's source of randomness. A new number
    differs from every number in the file and in `taken`, so that it cannot be confused with an
    original one. The file is created if it does not exist, with read and write permission for its
    owner only.

    Parameters
    ----------
    path : path
        The key file.
    patients : iterable of int
        Numbers of the patients to derive.
    taken : iterable of int
        Numbers that must not be drawn, such as all numbers of the source.
    lakes : iterable of str
        Locations of lakes; the file must not be inside a local one.

    Raises
    ------
    InputError
        If the file is not a key file.
    LakeLockedError
        If another process draws pseudonyms for the same file.
    NotFoundError
        If the folder of the file does not exist.
    RunError
        If the file is inside a lake, or if others may read it.
    """
    file = Path(path).expanduser().resolve()
    _refuse_inside(file, lakes)
    if not file.parent.is_dir():
        raise NotFoundError(
            "no such folder", expected="an existing folder for the key file", where=str(path)
        )
    lock = FileLock(file.with_name(file.name + ".lock"), mode=0o600)
    try:
        with lock.acquire(timeout=60):
            known = _read(file)
            wanted = [p for p in dict.fromkeys(map(int, patients)) if p not in known]
            if wanted:
                used = {*known, *wanted, *map(int, taken), *(p.number for p in known.values())}
                known |= _draw(wanted, used)
                _write(file, known)
    except Timeout:
        raise LakeLockedError(
            "another process draws pseudonyms",
            expected="one process at a time",
            where=str(path),
            todo="Wait until it ends.",
        ) from None
    return Pseudonyms(known)


def _draw(patients: list[int], used: set[int]) -> dict[int, Pseudonym]:
    low, high = NUMBERS
    if high - low + 1 - len(used) < len(patients):
        raise RunError(
            f"no free number for {counted(len(patients), 'patient')}",
            expected=f"numbers from {low} to {high}",
            where="pseudonymise",
            todo="Use a new key file.",
        )
    drawn = {}
    for patient in patients:
        number = low + secrets.randbelow(high - low + 1)
        while number in used:
            number = low + secrets.randbelow(high - low + 1)
        used.add(number)
        drawn[patient] = Pseudonym(number, draw_offset())
    return drawn


def _refuse_inside(file: Path, lakes: Iterable[str]) -> None:
    for url in lakes:
        if is_local(url) and file.is_relative_to(local_path(url)):
            raise RunError(
                "the key file is inside a lake",
                expected="a file outside of all lakes, so that it is not shared with them",
                where=str(file),
                todo="Choose another folder.",
            )


def _read(file: Path) -> dict[int, Pseudonym]:
    if not file.exists():
        return {}
    if os.name == "posix" and file.stat().st_mode & 0o077:
        raise RunError(
            f"others may read the key file (mode {file.stat().st_mode & 0o777:o})",
            expected="mode 600",
            where=str(file),
            todo=f"Run: chmod 600 {str(file)!r}.",
        )
    try:
        record: JsonObject = json.loads(file.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError("format")
        return {
            int(patient): Pseudonym(int(entry["number"]), int(entry["days"]))
            for patient, entry in record["patients"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not a key file of this version ({type(error).__name__})",
            expected="a file written by an earlier derivation, or a new path",
            where=str(file),
            todo="Choose another path. The file was not changed.",
            reason=Reason.UNREADABLE_FILE,
        ) from None


def _write(file: Path, known: dict[int, Pseudonym]) -> None:
    record = {
        "about": _ABOUT,
        "format": FORMAT,
        "patients": {
            str(patient): {"number": entry.number, "days": entry.days}
            for patient, entry in sorted(known.items())
        },
    }
    with atomic_write(file) as unfinished:
        # The permissions are set before the content is written.
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(record, indent=1) + "\n")
