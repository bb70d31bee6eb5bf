"""Date shifting: draw one random offset per patient, and shift the patient's dates by it.

All dates of a patient are shifted by the same offset, which keeps the intervals between them.
"""

from __future__ import annotations

import re
import secrets
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.schema.variable import Variable

__all__ = ["OFFSET_DAYS", "draw_offset", "shift_dates"]

OFFSET_DAYS = (-3650, -30)
"""Smallest and largest offset [days] of the dates of a patient. [assumption]"""

_DATE = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})(?:[T ].*)?", re.DOTALL)
"""A date of ISO 8601 or of DICOM, with or without a time."""
_SINCE = re.compile(r"(\w+) since .*", re.DOTALL)
"""The unit of numeric dates in the notation of CF."""
_PER_DAY = {
    "d": 1,
    "day": 1,
    "days": 1,
    "h": 24,
    "hour": 24,
    "hours": 24,
    "min": 1440,
    "minute": 1440,
    "minutes": 1440,
    "s": 86400,
    "second": 86400,
    "seconds": 86400,
}


def draw_offset() -> int:
    """Draw the offset of a patient's dates from the operating system's source of randomness.

    Returns
    -------
    int
        Offset [days], uniform from `OFFSET_DAYS`, limits included.
    """
    first, last = OFFSET_DAYS
    return first + secrets.randbelow(last - first + 1)


def shift_dates(variable: Variable, values: Values, days: NDArray[np.int64]) -> Values:
    """Shift the dates of each row by the offset of its patient.

    Parameters
    ----------
    variable : Variable
        Declaration of the dates: texts, numbers with a unit such as ``days since 2000-01-01``, or
        ``datetime64``.
    values : (row, ...) array
    days : (row,) int64
        Offset [days].

    Returns
    -------
    (row, ...) array
        Texts contain the date without a time of day, in the form in which it was written. A text
        that is not a whole date, such as a year, becomes the fill value, because it cannot be
        shifted by a number of days. All values of any other variable become the fill value.
    """
    offset = days.reshape(-1, *([1] * (values.ndim - 1)))
    if variable.dtype == "string":
        spread = np.broadcast_to(offset, values.shape).reshape(-1)
        texts = [_shifted(str(t), int(n)) for t, n in zip(values.reshape(-1), spread, strict=True)]
        return np.array(texts, dtype=object).reshape(values.shape)
    if values.dtype.kind == "M":
        return np.asarray(values + offset.astype("timedelta64[D]"))
    unit = _SINCE.fullmatch(variable.unit)
    if unit and unit[1].lower() in _PER_DAY:
        moved = values + offset * _PER_DAY[unit[1].lower()]
        if values.dtype.kind == "f":
            return moved.astype(values.dtype)
        return np.where(values == variable.fill, values, moved).astype(values.dtype)
    return np.full(values.shape, variable.fill, values.dtype)


def _shifted(text: str, days: int) -> str:
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return ""
    year, mark, month, day = found.groups()
    try:
        moved = date(int(year), int(month), int(day)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return moved.isoformat().replace("-", mark)
