"""Identify the exam of a mask file from its name, the options and the exams of the lake."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

import numpy as np
import pandas as pd

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.recognition import suffix_of
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.schema.visits import VISIT_MONTHS

__all__ = ["PartialKey", "find_exam", "read_partial_key"]

_Value = TypeVar("_Value", int, str)

_KEY = re.compile(r"(?<!\d)(\d{7,10})-(\d{3})m-(left|right)(?![a-z])")
_PATIENT = re.compile(r"(?<!\d)(\d{7})(?!\d)")
_VISIT = re.compile(r"(?<![A-Za-z])V(\d\d)(?!\d)")
_MONTH = re.compile(r"(?<![A-Za-z\d])(\d{1,3})m(?![A-Za-z\d])")
_SIDE = re.compile(r"(?<![A-Za-z])(left|right)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PartialKey:
    """Parts of an exam key that are known for a file. Unknown parts are None."""

    patient: int | None = None
    timepoint: int | None = None
    """Months since baseline."""
    knee: str | None = None

    @property
    def exam(self) -> str:
        """Exam key; "" if a part is unknown."""
        if self.patient is None or self.timepoint is None or self.knee is None:
            return ""
        return exam_key(self.patient, self.timepoint, self.knee)


_REASONS = {
    "patient": (Reason.ABSENT_PATIENT, Reason.PATIENT_CONFLICT),
    "timepoint": (Reason.ABSENT_TIMEPOINT, Reason.TIMEPOINT_CONFLICT),
    "knee": (Reason.ABSENT_SIDE, Reason.SIDE_CONFLICT),
}


def read_partial_key(
    where: str, options: PartialKey, *, timepoint: int | None = None
) -> PartialKey:
    """Read the exam key, or parts of it, from the file name, its folders and the options.

    If the name contains an exam key, all parts are known. Otherwise, a number of seven digits is
    the patient, ``V06`` or ``48m`` is the visit, and ``left`` or ``right`` is the knee. Parts that
    the file name lacks are read from the names of its folders.

    Parameters
    ----------
    where : str
        Path of the file, relative to the ingested folder.
    options : PartialKey
        Parts given by the caller, used only if the name does not contain them.
    timepoint : int, optional
        Visit of all files of the source, used if no name contains it.

    Raises
    ------
    InputError
        If a name contains two values of a part, or a value that contradicts the options
        (``*_conflict``).
    """
    key = PartialKey()
    path = PurePath(where)
    for part in (path.name[: len(path.name) - len(suffix_of(path.name))], *path.parts[-2::-1]):
        key = _fill(key, _read(part, where))
    for name in KEYS:
        mine, given = getattr(key, name), getattr(options, name)
        if mine is not None and given is not None and mine != given:
            raise InputError(
                f"{name} {mine} in the name and {given} in the options",
                expected="the same value",
                where=where,
                todo=f"Omit --{name}, or check the file.",
                reason=_REASONS[name][1],
            )
    key = _fill(key, options)
    return _fill(key, PartialKey(timepoint=timepoint))


def find_exam(
    where: str, key: PartialKey, exams: pd.DataFrame, *, has_position: bool
) -> int | None:
    """Return the row of the exam with a key; None if the key is complete but not in the lake.

    Parameters
    ----------
    where : str
        Path of the file, for errors.
    key : PartialKey
    exams : DataFrame
        Columns patient, timepoint and knee of the exams with a grid, indexed by row of the lake.
    has_position : bool
        Whether the file stores its position.

    Raises
    ------
    InputError
        If the key matches several exams, or one exam that the position of the file cannot confirm
        (``absent_side``, ``absent_timepoint``, ``absent_patient``).
    """
    if key.patient is None:
        raise _absent("patient", "no patient number in the file name", where)
    keep = np.ones(len(exams), dtype=bool)
    for name in KEYS:
        if (value := getattr(key, name)) is not None:
            keep &= (exams[name] == value).to_numpy()
    rows = exams.index[keep].tolist()
    unknown = [name for name in KEYS if getattr(key, name) is None]
    if not rows and not unknown:
        return None
    # A partial key may select the only matching exam if the position of the file can confirm it.
    if len(rows) == 1 and (has_position or not unknown):
        return int(rows[0])
    if not rows:
        raise _absent(unknown[0], f"no such exam of patient {key.patient} in the lake", where)
    listed = ", ".join(
        exam_key(*row) for row in exams.loc[rows, list(KEYS)].itertuples(index=False)
    )
    several = [name for name in unknown if exams.loc[rows, name].nunique() > 1]
    raise _absent((several or unknown)[0], f"the file may belong to {listed}", where)


def _read(part: str, where: str) -> PartialKey:
    if match := _KEY.search(part):
        return PartialKey(int(match[1]), int(match[2]), match[3])
    visits = [VISIT_MONTHS.get(int(n)) for n in _VISIT.findall(part)]
    months = [*(n for n in visits if n is not None), *(int(n) for n in _MONTH.findall(part))]
    return PartialKey(
        _only((int(n) for n in _PATIENT.findall(part)), "patient", where),
        _only(months, "timepoint", where),
        _only((side.lower() for side in _SIDE.findall(part)), "knee", where),
    )


def _only(values: Iterable[_Value], name: str, where: str) -> _Value | None:
    found = list(dict.fromkeys(values))
    if len(found) > 1:
        raise InputError(
            f"{name} {' and '.join(str(value) for value in found)} in one name",
            expected=f"one {name}",
            where=where,
            todo="Rename the file to its exam key, such as 9000798-024m-right.nii.gz.",
            reason=_REASONS[name][1],
        )
    return found[0] if found else None


def _fill(key: PartialKey, more: PartialKey) -> PartialKey:
    missing = {name: getattr(more, name) for name in KEYS if getattr(key, name) is None}
    return replace(key, **missing)


def _absent(name: str, found: str, where: str) -> InputError:
    return InputError(
        found,
        expected="patient, timepoint and knee in the name or the options",
        where=where,
        todo=f"Give --{name}, or rename the file to its exam key, such as "
        f"9000798-024m-right{suffix_of(where)}.",
        reason=_REASONS[name][0],
    )
