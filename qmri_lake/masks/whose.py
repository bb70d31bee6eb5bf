"""Which exam a mask file belongs to: what the options and its name say, and what the lake has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.index import KEYS, exam_key
from qmri_lake.masks.formats import NEED_A_GRID, suffix_of
from qmri_lake.oai.identity import VISIT_MONTHS

__all__ = ["Claim", "find_exam", "read_claim"]

_Value = TypeVar("_Value", int, str)

_KEY = re.compile(r"(?<!\d)(\d{7,10})-(\d{3})m-(left|right)(?![a-z])")
_PATIENT = re.compile(r"(?<!\d)(\d{7})(?!\d)")
_VISIT = re.compile(r"(?<![A-Za-z])V(\d\d)(?!\d)")
_MONTH = re.compile(r"(?<![A-Za-z\d])(\d{1,3})m(?![A-Za-z\d])")
_SIDE = re.compile(r"(?<![A-Za-z])(left|right)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of a file; None is not known."""

    patient: int | None = None
    timepoint: int | None = None
    """Months."""
    knee: str | None = None

    @property
    def exam(self) -> str:
        """Key of the exam, "" where a part is not known."""
        if self.patient is None or self.timepoint is None or self.knee is None:
            return ""
        return exam_key(self.patient, self.timepoint, self.knee)


_REASONS = {
    "patient": (Reason.ABSENT_PATIENT, Reason.PATIENT_CONFLICT),
    "timepoint": (Reason.ABSENT_TIMEPOINT, Reason.TIMEPOINT_CONFLICT),
    "knee": (Reason.ABSENT_SIDE, Reason.SIDE_CONFLICT),
}


def read_claim(where: str, options: Claim, *, timepoint: int | None = None) -> Claim:
    """Gather what a file's name, its folders and the options say of one mask.

    An exam key says all. Else a number of seven digits is the patient, ``V06`` or ``48m`` the
    visit, ``left`` or ``right`` the knee; a folder says what the name does not.

    Parameters
    ----------
    where : str
        Path of the file below what is ingested.
    options : Claim
        What the caller knows. It fills in what the name does not say, and never overrides.
    timepoint : int, optional
        Visit of all files of the source, where no name says it.

    Raises
    ------
    InputError
        A name that says two things, or another one than the options (``*_conflict``).
    """
    claim = Claim()
    path = PurePath(where)
    for part in (path.name[: len(path.name) - len(suffix_of(path.name))], *path.parts[-2::-1]):
        claim = _fill(claim, _read(part, where))
    for name in KEYS:
        mine, given = getattr(claim, name), getattr(options, name)
        if mine is not None and given is not None and mine != given:
            raise InputError(
                f"{name} {mine} in the name and {given} as the option",
                expected="one of them",
                where=where,
                todo="Leave the option out, or check the file.",
                reason=_REASONS[name][1],
            )
    claim = _fill(claim, options)
    return _fill(claim, Claim(timepoint=timepoint))


def find_exam(where: str, claim: Claim, exams: pd.DataFrame) -> int | None:
    """Return the row of the exam that a claim names; None where it is complete but not there.

    Parameters
    ----------
    where : str
        For errors; its suffix says whether the file knows where it lies.
    claim : Claim
    exams : DataFrame
        Columns patient, timepoint, knee: the exams with a grid, by row of the lake.

    Raises
    ------
    InputError
        The claim leaves more than one exam, or one that nothing else confirms (``absent_side``,
        ``absent_timepoint``, ``absent_patient``).
    """
    if claim.patient is None:
        raise _absent("patient", "a file whose name has no patient number", where)
    keep = np.ones(len(exams), dtype=bool)
    for name in KEYS:
        if (value := getattr(claim, name)) is not None:
            keep &= (exams[name] == value).to_numpy()
    rows = exams.index[keep].tolist()
    unknown = [name for name in KEYS if getattr(claim, name) is None]
    if not rows and not unknown:
        return None
    # One exam that is left may be taken only if the file's own position is then checked against it.
    if len(rows) == 1 and not (unknown and suffix_of(where) in NEED_A_GRID):
        return int(rows[0])
    if not rows:
        raise _absent(unknown[0], f"patient {claim.patient}, who has no such exam here", where)
    listed = ", ".join(
        exam_key(*row) for row in exams.loc[rows, list(KEYS)].itertuples(index=False)
    )
    several = [name for name in unknown if exams.loc[rows, name].nunique() > 1]
    raise _absent((several or unknown)[0], f"a file that may be of {listed}", where)


def _read(part: str, where: str) -> Claim:
    if match := _KEY.search(part):
        return Claim(int(match[1]), int(match[2]), match[3])
    visits = [VISIT_MONTHS.get(int(n)) for n in _VISIT.findall(part)]
    months = [*(n for n in visits if n is not None), *(int(n) for n in _MONTH.findall(part))]
    return Claim(
        _only((int(n) for n in _PATIENT.findall(part)), "patient", where),
        _only(months, "timepoint", where),
        _only((side.lower() for side in _SIDE.findall(part)), "knee", where),
    )


def _only(values: Iterable[_Value], name: str, where: str) -> _Value | None:
    found = list(dict.fromkeys(values))
    if len(found) > 1:
        raise InputError(
            f"{name} {' and '.join(str(value) for value in found)} in one name",
            expected="one of them",
            where=where,
            todo="Rename the file to its exam key, such as 9000798-024m-right.nii.gz.",
            reason=_REASONS[name][1],
        )
    return found[0] if found else None


def _fill(claim: Claim, more: Claim) -> Claim:
    missing = {name: getattr(more, name) for name in KEYS if getattr(claim, name) is None}
    return replace(claim, **missing)


def _absent(name: str, found: str, where: str) -> InputError:
    return InputError(
        found,
        expected="a name or options that say patient, timepoint and knee",
        where=where,
        todo=f"Give --{name}, or rename the file to its exam key, such as "
        f"9000798-024m-right{suffix_of(where)}.",
        reason=_REASONS[name][0],
    )
