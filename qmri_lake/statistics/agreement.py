"""Agreement of two methods of measurement, as defined by Bland and Altman (1986)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError
from qmri_lake.statistics.mean_interval import mean_interval

__all__ = ["Agreement", "bland_altman"]


class Agreement(NamedTuple):
    """Differences (measured - reference) of two measurements of a quantity, in its unit."""

    bias: float
    """Mean of the differences."""
    sd: float
    """Standard deviation of the differences (n - 1)."""
    lower: float
    """Lower limit of agreement, bias - 2 sd. [paper]"""
    upper: float
    """Upper limit of agreement, bias + 2 sd."""
    bias_low: float
    """Lower end of the 95 % confidence interval of the bias, from the t distribution; NaN for
    fewer than five pairs."""
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
        return (
            f"bias {self.bias:.3g}{interval if np.isfinite(self.bias_low) else ''}, limits "
            f"{self.lower:.3g} to {self.upper:.3g}, r {self.r:.3f}, slope {self.slope:.3f}, "
            f"n {self.n}" + (f", {self.left_out} left out" if self.left_out else "")
        )


def bland_altman(reference: ArrayLike, measured: ArrayLike) -> Agreement:
    """Compare two measurements of the same quantity.

    Parameters
    ----------
    reference, measured : (pair,)
        Values in the same unit. Pairs with a NaN are excluded and counted.

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
    bias 0.1 (95 % CI -0.0299 to 0.23), limits -0.0633 to 0.263, r 0.965, slope 1.100, n 4
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
            expected="3 or more",
            where="bland_altman",
            todo="Add exams.",
        )
    difference = y - x
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    _, bias_low, bias_high = mean_interval(difference)
    around_x, around_y = x - x.mean(), y - y.mean()
    xx, yy, xy = (float(v) for v in (around_x @ around_x, around_y @ around_y, around_x @ around_y))
    return Agreement(
        bias=bias,
        sd=sd,
        lower=bias - 2 * sd,
        upper=bias + 2 * sd,
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
