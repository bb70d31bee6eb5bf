"""Agreement of two methods of measurement, as defined by Bland and Altman (1986)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError
from qmri_lake.statistics._inputs import patient_codes
from qmri_lake.statistics.interval_limits import NO_INTERVAL, checked_limits, limits_around
from qmri_lake.statistics.mean_interval import mean_interval

__all__ = ["Agreement", "bland_altman"]


class Agreement(NamedTuple):
    """Differences (measured - reference) of two measurements of a quantity, in its unit."""

    bias: float
    """Mean of the differences."""
    sd: float
    """Standard deviation of the differences (n - 1)."""
    lower: float
    """Lower limit of agreement, bias - 2 sd [paper]; NaN for fewer than five patients."""
    upper: float
    """Upper limit of agreement, bias + 2 sd; NaN for fewer than five patients."""
    bias_low: float
    """Lower end of the 95 % confidence interval of the bias, from the t distribution; NaN for
    fewer than five patients."""
    bias_high: float
    r: float
    """Pearson's correlation; NaN if one of the measurements is constant."""
    slope: float
    """Slope of the regression of measured on reference; NaN if the reference is constant."""
    n: int
    """Number of pairs with two finite values."""
    left_out: int
    """Number of pairs with a value that is not finite."""

    def __str__(self) -> str:
        interval = f" (95 % CI {self.bias_low:.3g} to {self.bias_high:.3g})"
        limits = f", limits {self.lower:.3g} to {self.upper:.3g}"
        known = np.isfinite(self.lower)
        return (
            f"bias {self.bias:.3g}{interval if known else ''}{limits if known else ''}, "
            f"r {self.r:.3f}, slope {self.slope:.3f}, n {self.n}"
            + (f", {self.left_out} left out" if self.left_out else "")
            + ("" if known else f" ({NO_INTERVAL})")
        )


def bland_altman(
    reference: ArrayLike, measured: ArrayLike, *, patient: ArrayLike | None = None
) -> Agreement:
    """Compare two measurements of the same quantity.

    Parameters
    ----------
    reference, measured : (pair,)
        Values in the same unit. Pairs with a NaN are excluded and counted.
    patient : (pair,), optional
        Patient of each pair. Default: each pair is one patient. Limits of agreement and the
        interval of the bias are given for five or more patients.

    Returns
    -------
    Agreement

    Raises
    ------
    InputError
        If the numbers of values differ, a value is infinite, or there are fewer than three pairs.

    Notes
    -----
    The interval of the bias assumes independent pairs. If a patient has several pairs, the interval
    is too narrow.

    Examples
    --------
    >>> print(bland_altman([2.0, 2.2, 2.4, 2.6, 2.8], [2.1, 2.2, 2.6, 2.7, 2.9]))
    bias 0.1 (95 % CI 0.0122 to 0.188), limits -0.0414 to 0.241, r 0.979, slope 1.050, n 5
    """
    source, other = (_values(values) for values in (reference, measured))
    if len(source) != len(other):
        raise InputError(
            f"{len(other)} measured values",
            expected=f"{len(source)}, as in the reference",
            where="bland_altman",
        )
    known = np.isfinite(source) & np.isfinite(other)
    n, x, y = int(known.sum()), source[known], other[known]
    if n < 3:
        raise InputError(
            f"{n} pairs with both values",
            expected="3 or more pairs",
            where="bland_altman",
            todo="Add exams.",
        )
    difference = y - x
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    codes, _ = patient_codes(patient, len(source), "bland_altman")
    patients = np.unique(codes[known]).size
    lower, upper = limits_around(bias, 2 * sd, patients=patients)
    _, *ends = mean_interval(difference)
    bias_low, bias_high = checked_limits(*ends, patients=patients)
    around_x, around_y = x - x.mean(), y - y.mean()
    xx, yy, xy = (float(v) for v in (around_x @ around_x, around_y @ around_y, around_x @ around_y))
    return Agreement(
        bias=bias,
        sd=sd,
        lower=lower,
        upper=upper,
        bias_low=bias_low,
        bias_high=bias_high,
        r=xy / np.sqrt(xx * yy) if xx > 0 and yy > 0 else float("nan"),
        slope=xy / xx if xx > 0 else float("nan"),
        n=n,
        left_out=len(source) - n,
    )


def _values(given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given, np.float64)
    if values.ndim != 1 or np.isinf(values).any():
        found = "infinite values" if values.ndim == 1 else f"{values.ndim} axes"
        raise InputError(found, expected="finite values along one axis", where="bland_altman")
    return values
