"""How well two ways to measure the same agree, after Bland and Altman (1986)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qmri_lake.errors import InputError

__all__ = ["Agreement", "bland_altman"]


class Agreement(NamedTuple):
    """Differences of two measurements of the same, measured minus reference; in their unit."""

    bias: float
    """Mean of the differences."""
    sd: float
    """Their standard deviation (n - 1)."""
    lower: float
    """bias - 2 sd: the published limits of agreement. [paper]"""
    upper: float
    """bias + 2 sd."""
    bias_low: float
    """95 % confidence interval of the bias, by t."""
    bias_high: float
    r: float
    """Pearson's correlation of the two; NaN where one of them is constant."""
    slope: float
    """Of the least-squares line of measured on reference; NaN where the reference is constant."""
    n: int
    """Pairs in which both are finite."""
    left_out: int
    """Pairs in which one of them is not."""

    def __str__(self) -> str:
        return (
            f"bias {self.bias:.3g} (95 % CI {self.bias_low:.3g} to {self.bias_high:.3g}), limits "
            f"{self.lower:.3g} to {self.upper:.3g}, r {self.r:.3f}, slope {self.slope:.3f}, "
            f"n {self.n}" + (f", {self.left_out} left out" if self.left_out else "")
        )


def bland_altman(reference: ArrayLike, measured: ArrayLike) -> Agreement:
    """Compare two measurements of the same things.

    Parameters
    ----------
    reference, measured : (thing,)
        In one unit. Pairs with a NaN in either are left out, and counted.

    Returns
    -------
    Agreement

    Raises
    ------
    InputError
        Another number of values in one than in the other, infinite values, or fewer than three
        pairs.

    Notes
    -----
    The interval of the bias takes pairs as independent: give one value a patient, or read it as too
    narrow.

    Examples
    --------
    >>> print(bland_altman([2.0, 2.2, 2.4, 2.6], [2.1, 2.2, 2.6, 2.7]))
    bias 0.1 (95 % CI -0.0299 to 0.23), limits -0.0633 to 0.263, r 0.965, slope 1.100, n 4
    """
    source, other = (_values(values) for values in (reference, measured))
    if len(source) != len(other):
        raise InputError(
            f"{len(other)} measured values", expected=f"{len(source)}, as in the reference",
            where="bland_altman",
        )  # fmt: skip
    known = np.isfinite(source) & np.isfinite(other)
    n, x, y = int(known.sum()), source[known], other[known]
    if n < 3:
        raise InputError(
            f"{n} pairs with both values", expected="3 or more", where="bland_altman",
            todo="Two differences have no spread that means anything: add exams.",
        )  # fmt: skip
    difference = y - x
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / np.sqrt(n)
    around_x, around_y = x - x.mean(), y - y.mean()
    xx, yy, xy = (float(v) for v in (around_x @ around_x, around_y @ around_y, around_x @ around_y))
    return Agreement(
        bias=bias,
        sd=sd,
        lower=bias - 2 * sd,
        upper=bias + 2 * sd,
        bias_low=bias - half,
        bias_high=bias + half,
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
