r"""Mono-exponential T2: the exact least-squares optimum, for millions of voxels.

The model is :math:`S(t) = S_0 \exp(-t / T_2)`. For a given decay, the best amplitude is a ratio of
two sums. The amplitude is therefore eliminated, and one unknown remains (variable projection). With
times in units of the mean spacing, :math:`\tau_k = (t_k - t_0) / \Delta`, and :math:`q =
\exp(-\Delta/T_2) = e^u`,

.. math:: A = \sum_k y_k q^{\tau_k}, \quad B = \sum_k q^{2\tau_k}, \quad S = A / B,
          \quad \mathrm{SSE} = \sum_k y_k^2 - A S,

and :math:`A_1, A_2, B_1, B_2` are the same sums with weights :math:`\tau` and :math:`\tau^2`. At
the optimum, :math:`h = A_1 - S B_1` is zero. Newton's method in `u` finds the optimum. It uses the
Gauss-Newton curvature :math:`S (B_2 - B_1^2 / B)` where the full curvature is not clearly positive.
Some voxels do not converge, tend to no decay, or fit badly. These voxels are searched on a grid and
refined inside a bracket, so that a second, worse optimum is not returned.

NumPy arrays are fitted by compiled code. Other arrays (CuPy) are fitted by the same method with
array operations on their device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, Values
from qmri_lake.relaxometry._checks import check_limits, check_mask, check_times, shortest_t2
from qmri_lake.relaxometry.fit_status import FitStatus

__all__ = ["MonoExponentialFit", "fit_mono_exponential"]


class MonoExponentialFit(NamedTuple):
    """Maps of a fit, each of the shape of one echo."""

    t2: Array
    """T2 [ms]; NaN unless the status is FITTED."""
    t2_error: Array
    """Standard error of T2 [ms] from the residuals; NaN if there are two echoes."""
    s0: Array
    """Signal at time 0 [unit of the signal]. Unlike `t2`, it also has a value for OUT_OF_BOUNDS and
    POOR_FIT."""
    r2: Array
    """Coefficient of determination, centred: 1 - SSE / sum (y - mean y)^2. It has a value in the
    same voxels as `s0`."""
    status: Array
    """`FitStatus` as uint8."""


def fit_mono_exponential(
    signal: Array,
    echo_time: Array,
    mask: Array | None = None,
    *,
    bounds: tuple[float, float] = (0.0, float("inf")),
    r2_min: float | None = None,
) -> MonoExponentialFit:
    """Fit S0 exp(-t / T2) to every voxel by least squares.

    Parameters
    ----------
    signal : array, (echo, ...)
        Magnitudes, any unit. NumPy arrays are fitted by compiled code on the CPU; other arrays that
        follow the array API (CuPy) are fitted on their device.
    echo_time : sequence, (echo,)
        At least two echo times [ms], ascending. They need not be evenly spaced.
        A DataArray is converted from its attribute ``units`` (ms, s, us), which it must have.
    mask : array of bool, (...), optional
        Voxels to fit; default: all voxels. If `signal` is a NumPy masked array, voxels that are
        masked in any echo are not fitted.
    bounds : (low, high)
        Accept a T2 in (low, high] ms; all other fits have the status OUT_OF_BOUNDS. If `low` is 0,
        a T2 within the bounds, but below half the first echo time, has the status BELOW_RESOLUTION.
    r2_min : float, optional
        Accept fits with at least this centred r2; all other fits have the status POOR_FIT.

    Returns
    -------
    MonoExponentialFit
        ``t2``, ``t2_error``, ``s0``, ``r2`` and ``status``, each (...), float32 (float64 for a
        float64 signal). A missing value is NaN, never 0: see `FitStatus`.

    Raises
    ------
    InputError
        If there are fewer than two echoes; if the echo times do not ascend, or do not match the
        signal; if the signal is complex; if the mask has another shape or contains 255; or if
        `bounds` or `r2_min` is invalid.

    Notes
    -----
    The result is the least-squares optimum. Like every least-squares fit of this model, it is
    biased by the noise of magnitude images and by stimulated echoes.

    If T2 is below half the first echo time, the signal has lost 86 % before the first echo. An
    example is a signal that is 0 from the second echo on, as in a background of mostly zeros. Its
    optimum is at T2 = 0, with an r2 near 1. To fit tissue of short T2, give a lower bound above 0,
    such as ``bounds=(1, 100)``: it replaces the limit of half the first echo time.

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
    from qmri_lake.relaxometry._array_api import fit_arrays

    return MonoExponentialFit(*fit_arrays(signal, times, mask, low, high, limit))


def _fit_numpy(
    signal: Values,
    times: NDArray[np.float64],
    mask: Values | None,
    low: float,
    high: float,
    r2_min: float,
) -> MonoExponentialFit:
    from qmri_lake.relaxometry.mono_exponential_numba import fit_voxels

    shape = signal.shape[1:]
    if signal.dtype not in (np.float32, np.float64):
        signal = signal.astype(np.float32)
    flat = signal.reshape(len(times), -1)
    inside = np.ones(flat.shape[1], bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    maps = np.full((4, flat.shape[1]), np.nan, dtype=signal.dtype)
    status = np.full(flat.shape[1], FitStatus.OUTSIDE, dtype=np.uint8)
    fit_voxels(flat, times, inside, low, high, shortest_t2(times, low), r2_min, maps, status)
    maps[2][np.isinf(maps[2])] = np.nan  # for a very short T2, the signal at time 0 overflows
    t2, t2_error, s0, r2 = (values.reshape(shape) for values in maps)
    return MonoExponentialFit(t2, t2_error, s0, r2, status.reshape(shape))
