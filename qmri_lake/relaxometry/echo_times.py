"""Units of echo times: those of labelled arrays are read, never guessed."""

from __future__ import annotations

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError

__all__ = ["check_range", "ms_per_unit"]

_MILLISECONDS = {
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1e3),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsecond", "microseconds"), 1e-3),
}

_LAST_ECHO = (1.0, 10_000.0)
"""Limits of the last echo time, ms: a shorter or longer train cannot show T2 of tissue, and the
numbers are of another unit. [assumption]"""


def ms_per_unit(units: object, where: str) -> float:
    """Return the milliseconds of one unit, for the `units` attribute of an array, or None.

    Raises
    ------
    InputError
        No unit, or one that is not a time.
    """
    known = _MILLISECONDS.get(str(units).strip())
    if known is None:
        raise InputError(
            f"echo_time with units {units!r}" if units else "echo_time without units",
            expected="the attribute units: ms, s or us",
            where=where,
            todo="Set the unit of your values: ds.echo_time.attrs['units'] = 's' for seconds, as "
            "in BIDS, 'ms' for milliseconds, as in DICOM.",
        )
    return known


def check_range(times: Values, where: str) -> None:
    """Raise an error for times [ms] that no scanner uses, because their unit must be another."""
    last = np.max(times, initial=-np.inf, where=np.isfinite(times))
    low, high = _LAST_ECHO
    if np.isfinite(last) and not low <= last <= high:
        guess = "seconds" if last < low else "microseconds"
        raise InputError(
            f"echo times up to {last:g} ms",
            expected=f"a last echo between {low:g} and {high:,.0f} ms",
            where=where,
            todo=f"If the values are {guess}, set echo_time.attrs['units'] to "
            f"{'s' if last < low else 'us'!r}.",
        )
