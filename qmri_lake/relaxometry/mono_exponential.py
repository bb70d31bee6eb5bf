r"""Mono-exponential T2: the exact least-squares optimum, for millions of voxels.

The model is :math:`S(t) = S_0 \exp(-t / T_2)`. For a given decay the best amplitude is a ratio of
two sums, so the amplitude is eliminated and one unknown is left (variable projection). With times
in units of the mean spacing, :math:`\tau_k = (t_k - t_0) / \Delta`, and :math:`q =
\exp(-\Delta/T_2) = e^u`,

.. math:: A = \sum_k y_k q^{\tau_k}, \quad B = \sum_k q^{2\tau_k}, \quad S = A / B,
          \quad \mathrm{SSE} = \sum_k y_k^2 - A S,

and :math:`A_1, A_2, B_1, B_2` are the same sums with weights :math:`\tau` and :math:`\tau^2`. At
the optimum :math:`h = A_1 - S B_1` is zero; Newton's method in `u` finds it, with the
Gauss-Newton curvature :math:`S (B_2 - B_1^2 / B)` where Newton's own is not safe. Voxels that
have not converged, that tend to no decay at all, or that fit badly, are searched on a grid and
refined inside a bracket, so that a second, worse optimum is not mistaken for the best.

NumPy arrays are fitted by compiled code, other arrays (CuPy) by the same method in their own
array operations, on their own device.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from qmri_lake.relaxometry.arguments import check_limits, check_mask, check_times

__all__ = ["FitStatus", "MonoExponentialFit", "fit_mono_exponential"]


class FitStatus(IntEnum):
    """What became of a voxel."""

    FITTED = 0
    OUTSIDE = 1
    """Outside the mask: not fitted."""
    ZERO = 2
    """No signal in any echo."""
    CONSTANT = 3
    """The same signal in all echoes."""
    RISING = 4
    """No decay fits better than a constant: T2 would be infinite or negative."""
    NOT_FINITE = 5
    """NaN or infinity in an echo."""
    OUT_OF_BOUNDS = 6
    """The optimum lies outside the bounds."""
    POOR_FIT = 7
    """r2 is below the limit."""
    NOT_CONVERGED = 8
    """The search did not settle; not seen in tests."""


class MonoExponentialFit(NamedTuple):
    """Maps of a fit, each of the shape of one echo."""

    t2: Any
    """T2 [ms]; NaN unless the status is FITTED."""
    t2_error: Any
    """Standard error of T2 [ms] from the residuals; NaN with two echoes."""
    s0: Any
    """Signal at time 0 [unit of the signal]; kept for OUT_OF_BOUNDS and POOR_FIT."""
    r2: Any
    """Coefficient of determination, centred: 1 - SSE / sum (y - mean y)^2; kept likewise."""
    status: Any
    """`FitStatus` as uint8."""


def fit_mono_exponential(
    signal: Any,
    echo_time: Any,
    mask: Any | None = None,
    *,
    bounds: tuple[float, float] = (0.0, float("inf")),
    r2_min: float | None = None,
) -> MonoExponentialFit:
    """Fit S0 exp(-t / T2) to every voxel by least squares.

    Parameters
    ----------
    signal : array, (echo, ...)
        Magnitudes, any unit. NumPy arrays run compiled on the CPU; other arrays that follow the
        array API (CuPy) run where they are.
    echo_time : sequence, (echo,)
        Echo times [ms], ascending; evenly spaced or not. At least two.
    mask : array of bool, (...), optional
        Voxels to fit; default all. Voxels that a NumPy masked array masks in an echo are outside.
    bounds : (low, high)
        A T2 in (low, high] ms is accepted; another has the status OUT_OF_BOUNDS.
    r2_min : float, optional
        Accept fits with at least this centred r2; others have the status POOR_FIT.

    Returns
    -------
    MonoExponentialFit
        ``t2``, ``t2_error``, ``s0``, ``r2`` and ``status``, each (...), float32 (float64 for a
        float64 signal). There is never a 0 for "no value": see `FitStatus`.

    Raises
    ------
    InputError
        Fewer than two echoes, echo times that don't ascend or don't match the signal, a complex
        signal, a mask of another shape or with labels 255, bounds or an r2_min that are none.

    Notes
    -----
    The result is the least-squares optimum, which is not the truth: the noise of magnitude images
    and stimulated echoes bias every least-squares fit of this model.

    A signal that is gone at the second echo, as in a background of mostly zeros, has its optimum
    at T2 = 0. It gets the smallest T2 of the search, 0.04 echo spacings, with an r2 near 1: a
    lower bound of one millisecond rejects such voxels.

    Examples
    --------
    >>> import numpy as np
    >>> echo_time = np.arange(10.0, 80.0, 10.0)
    >>> fit = fit_mono_exponential(1000 * np.exp(-echo_time / 35)[:, None], echo_time)
    >>> round(float(fit.t2[0]), 4)
    35.0
    """
    where = "fit_mono_exponential"
    times = check_times(signal, echo_time, where)
    low, high, limit = check_limits(bounds, r2_min, where)
    signal, mask = check_mask(signal, mask, where)
    if isinstance(signal, np.ndarray):
        return _fit_numpy(signal, times, mask, low, high, limit)
    from qmri_lake.relaxometry.vectorised import fit_arrays

    return MonoExponentialFit(*fit_arrays(signal, times, mask, low, high, limit))


def _fit_numpy(
    signal: np.ndarray[Any, Any],
    times: np.ndarray[Any, np.dtype[np.float64]],
    mask: np.ndarray[Any, Any] | None,
    low: float,
    high: float,
    r2_min: float,
) -> MonoExponentialFit:
    from qmri_lake.relaxometry.compiled import fit_voxels

    shape = signal.shape[1:]
    if signal.dtype not in (np.float32, np.float64):
        signal = signal.astype(np.float32)
    flat = signal.reshape(len(times), -1)
    inside = np.ones(flat.shape[1], bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    maps = np.full((4, flat.shape[1]), np.nan, dtype=signal.dtype)
    status = np.full(flat.shape[1], FitStatus.OUTSIDE, dtype=np.uint8)
    fit_voxels(flat, times, inside, low, high, r2_min, maps, status)
    maps[2][np.isinf(maps[2])] = np.nan  # a T2 so short that the signal at time 0 is no number
    t2, t2_error, s0, r2 = (values.reshape(shape) for values in maps)
    return MonoExponentialFit(t2, t2_error, s0, r2, status.reshape(shape))
