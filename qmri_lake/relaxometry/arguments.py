"""What every fit is given: signals, echo times, a mask and limits, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from qmri_lake.errors import InputError, Reason
from qmri_lake.tissues import NO_MASK

__all__ = ["check_limits", "check_mask", "check_times", "namespace"]


def namespace(array: Any, where: str = "fit_mono_exponential") -> Any:
    """Return the library of an array: what it names itself, or CuPy, whose arrays name none."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    raise InputError(
        f"an array of type {type(array).__module__}.{type(array).__name__}",
        expected="NumPy, CuPy, or another that follows the array API",
        where=where,
        todo="Dask arrays are fitted by qmri_lake.fit_t2.",
    )


def check_limits(
    bounds: tuple[float, float], r2_min: float | None, where: str
) -> tuple[float, float, float]:
    """Return (low, high, least r2); no limit of r2 is -inf."""
    low, high = float(bounds[0]), float(bounds[1])
    if not low < high:  # NaN too
        raise InputError(
            f"bounds {(low, high)} ms", expected="(low, high) with low < high", where=where
        )
    limit = -np.inf if r2_min is None else float(r2_min)
    if np.isnan(limit):
        raise InputError("r2_min=nan", expected="a number, or None for no limit", where=where)
    return low, high, limit


def check_mask(signal: Any, mask: Any | None, where: str) -> tuple[Any, Any | None]:
    """Return the signal as a plain array, and the mask without what the signal itself masks."""
    if isinstance(signal, np.ma.MaskedArray):
        whole = ~np.ma.getmaskarray(signal).any(axis=0)
        mask = whole if mask is None else whole & np.asarray(mask, bool)
        signal = signal.filled(0)
    if mask is None:
        return signal, None
    if tuple(mask.shape) != tuple(signal.shape[1:]):
        raise InputError(
            f"a mask of {tuple(mask.shape)}",
            expected=f"{tuple(signal.shape[1:])}, the shape of one echo",
            where=where,
            reason=Reason.GRID_MISMATCH,
        )
    if "bool" not in str(mask.dtype) and bool(namespace(mask, where).any(mask == NO_MASK)):
        raise InputError(
            f"a mask that holds {NO_MASK}, which says that nobody has segmented the voxel",
            expected="bool",
            where=where,
            todo="Choose labels by name: qmri_lake.tissue(labels, 'femoral').",
        )
    return signal, mask


def check_times(
    signal: Any, echo_time: Any, where: str, least: int = 2
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the echo times, at least `least` and one for each echo."""
    times = np.array([float(t) for t in echo_time], dtype=np.float64)
    if "complex" in str(signal.dtype):
        raise InputError("a complex signal", expected="magnitudes", where=where,
                         todo="Take its absolute value.")  # fmt: skip
    if times.size < least:
        words = {2: "two", 3: "three"}[least]
        raise InputError(f"{times.size} echo times", expected=f"at least {words}", where=where)
    if times.size != signal.shape[0]:
        raise InputError(
            f"{times.size} echo times for {signal.shape[0]} echoes",
            expected="one for each, echoes along the first axis",
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
