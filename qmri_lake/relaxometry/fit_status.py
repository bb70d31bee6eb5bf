"""Status of a fitted voxel."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["FitStatus"]


class FitStatus(IntEnum):
    """Result of the fit of a voxel."""

    FITTED = 0
    OUTSIDE = 1
    """Outside the mask, and not fitted."""
    ZERO = 2
    """No signal in any echo."""
    CONSTANT = 3
    """The same signal in all echoes."""
    RISING = 4
    """No decay fits better than a constant; T2 would be infinite or negative."""
    NOT_FINITE = 5
    """NaN or infinity in an echo."""
    OUT_OF_BOUNDS = 6
    """The optimum lies outside the bounds."""
    POOR_FIT = 7
    """r2 is below the limit."""
    NOT_CONVERGED = 8
    """The search did not converge. This has not occurred in tests."""
    BELOW_RESOLUTION = 9
    """T2 is below half the first echo time, so that the signal has lost 86 % before the first echo.
    T2 is not determined, and all values are NaN. See `bounds` of the fits."""
