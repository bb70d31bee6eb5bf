"""Checks of the arguments of all fits: signals, echo times, masks and limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, namespace
from qmri_lake.errors import InputError, Reason
from qmri_lake.relaxometry.echo_times import ms_per_unit
from qmri_lake.tissues import NO_MASK

__all__ = ["check_limits", "check_mask", "check_times", "shortest_t2"]


def check_limits(
    bounds: tuple[float, float], r2_min: float | None, where: str
) -> tuple[float, float, float]:
    """Return (low, high, smallest r2); the smallest r2 is -inf if it has no limit."""
    low, high = float(bounds[0]), float(bounds[1])
    if not low < high:  # NaN too
        raise InputError(
            f"bounds {(low, high)} ms", expected="(low, high) with low < high", where=where
        )
    limit = -np.inf if r2_min is None else float(r2_min)
    if np.isnan(limit):
        raise InputError("r2_min=nan", expected="a number, or None for no limit", where=where)
    return low, high, limit


def shortest_t2(times: NDArray[np.float64], low: float) -> float:
    """Return the shortest T2 [ms] that echoes at these times [ms] resolve.

    It is half the first echo time: a signal of shorter T2 has lost 86 % before the first echo.
    [assumption] A lower bound above 0, which the user has chosen, replaces it; it is then 0.
    """
    return 0.5 * float(times[0]) if low <= 0 else 0.0


def check_mask(signal: Array, mask: Array | None, where: str) -> tuple[Array, Array | None]:
    """Return the signal as a plain array, and the mask without voxels that the signal masks."""
    if isinstance(signal, np.ma.MaskedArray):
        whole = ~np.ma.getmaskarray(signal).any(axis=0)
        mask = whole if mask is None else whole & np.asarray(mask, bool)
        signal = signal.filled(0)
    if mask is None:
        return signal, None
    if tuple(mask.shape) != tuple(signal.shape[1:]):
        raise InputError(
            f"a mask of shape {tuple(mask.shape)}",
            expected=f"{tuple(signal.shape[1:])}, the shape of one echo",
            where=where,
            reason=Reason.GRID_MISMATCH,
        )
    if "bool" not in str(mask.dtype) and bool(namespace(mask, where).any(mask == NO_MASK)):
        raise InputError(
            f"a mask that contains {NO_MASK} (voxels that were never segmented)",
            expected="bool",
            where=where,
            todo="Select labels by name: qmri_lake.tissue(labels, 'femoral').",
        )
    return signal, mask


def check_times(signal: Array, echo_time: Array, where: str, least: int = 2) -> NDArray[np.float64]:
    """Return the echo times [ms]: at least `least`, and one for each echo.

    Those of a labelled array are converted from its unit; a plain array is in ms.
    """
    times = np.array([float(t) for t in echo_time], dtype=np.float64)
    if hasattr(echo_time, "dims"):
        times *= ms_per_unit(echo_time.attrs.get("units"), where)
    if "complex" in str(signal.dtype):
        raise InputError(
            "a complex signal",
            expected="magnitudes",
            where=where,
            todo="Take the absolute value of the signal.",
        )
    if times.size < least:
        words = {2: "two", 3: "three"}[least]
        raise InputError(
            f"{times.size} echo times", expected=f"at least {words} echo times", where=where
        )
    if times.size != signal.shape[0]:
        raise InputError(
            f"{times.size} echo times for {signal.shape[0]} echoes",
            expected="one for each echo, and echoes along the first axis",
            where=where,
        )
    if times[0] < 0:
        raise InputError(
            f"an echo time of {times[0]:g} ms",
            expected="times after the excitation, at least 0",
            where=where,
        )
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise InputError(
            f"echo times {times.tolist()} ms",
            expected="finite and ascending",
            where=where,
            todo="Sort the echoes by echo time.",
        )
    return times
