"""Rules that every interval follows: at least five patients, and limits within the range."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Literal

import numpy as np

from qmri_lake.errors import RunError

__all__ = ["FEWEST", "NO_INTERVAL", "RANGES", "Scale", "checked_limits", "limits_around"]

FEWEST = 5
"""Minimum number of patients for an interval. The spread of fewer patients is too uncertain."""

NO_INTERVAL = "no interval: fewer than five patients"
"""Reason that tables and figures give instead of an interval."""

Scale = Literal["linear", "log", "logit"]
RANGES = MappingProxyType(
    {"linear": (-np.inf, np.inf), "log": (0.0, np.inf), "logit": (0.0, 1.0)},
)
"""Range of the quantities of each scale."""

_LARGEST_WIDTH = 700.0
"""Largest exponent that gives a finite number. For larger exponents, limits are the ends of the
range."""


def checked_limits(
    low: float, high: float, *, patients: int, scale: Scale = "linear"
) -> tuple[float, float]:
    """Return limits, or NaN for fewer than five patients.

    Every function of this package that computes an interval returns its limits through this
    function.

    Parameters
    ----------
    low, high : float
        Limits; NaN if the data give no interval.
    patients : int
        Number of patients whose values determine the interval.
    scale : {"linear", "log", "logit"}
        Scale of the quantity, which determines its range: see `RANGES`.

    Raises
    ------
    RunError
        If a limit is outside the range: the method is not suitable for the quantity.
    """
    if patients < FEWEST or np.isnan(low) or np.isnan(high):
        return float("nan"), float("nan")
    lowest, highest = RANGES[scale]
    if not lowest <= low <= high <= highest:
        raise RunError(
            f"an interval from {low:g} to {high:g}",
            expected=f"limits from {lowest:g} to {highest:g}",
            where="checked_limits",
            todo="Compute the interval on the scale of its quantity.",
        )
    return float(low), float(high)


def limits_around(
    estimate: float, half: float, *, patients: int, scale: Scale = "linear"
) -> tuple[float, float]:
    """Return the limits of an estimate from its half width, within the range of the scale.

    The interval is symmetric on the given scale, on which its half width follows from the delta
    method. On the linear scale it is ``estimate - half`` to ``estimate + half``.

    Parameters
    ----------
    estimate, half : float
        Estimate, and half the width of its interval on the linear scale, in the same unit.
    patients, scale
        See `checked_limits`.

    Returns
    -------
    (low, high)
        NaN for fewer than five patients, and if the estimate is at an end of the range of a
        logarithmic or logit scale, such as a share of 1.
    """
    if estimate in RANGES[scale] or np.isnan(half):
        return float("nan"), float("nan")
    if scale == "linear":
        low, high = estimate - half, estimate + half
    elif scale == "log":
        factor = math.exp(min(half / estimate, _LARGEST_WIDTH))
        low, high = estimate / factor, estimate * factor
    else:
        factor = math.exp(min(half / (estimate * (1 - estimate)), _LARGEST_WIDTH))
        odds = estimate / (1 - estimate)
        low, high = odds / factor, odds * factor
        low, high = low / (1 + low), 1 - 1 / (1 + high)
    return checked_limits(low, high, patients=patients, scale=scale)
