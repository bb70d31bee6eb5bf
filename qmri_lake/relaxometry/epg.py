r"""T2 and refocusing by extended phase graphs, which model the stimulated echoes of a CPMG train.

The model is :math:`S_k = S_0\, d_k(q, p)`, with :math:`q = \exp(-\Delta/T_2)`, the leakage `p` of
the refocusing pulses and the trains `d` of `qmri_lake.relaxometry.epg_dictionary`. One matrix
product matches the signals with a dictionary of normalised trains, the atoms. Newton's method,
damped after Levenberg and Marquardt, starts at the best atom and finds the least-squares optimum
between the atoms. The amplitude is eliminated as in the mono-exponential fit. Trains are
polynomials of `q` and `p`, so that trains and derivatives are exact. With sinc pulses, `p` is the
transmit field instead of the leakage.

All computations are operations of the array API standard, on the device of the signal.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, Values, namespace
from qmri_lake.errors import InputError
from qmri_lake.relaxometry._checks import check_limits, check_mask, check_times, shortest_t2
from qmri_lake.relaxometry.epg_dictionary import Dictionary, dictionary
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.relaxometry.slice_profile import Pulse, as_pulse

__all__ = ["T1", "EpgFit", "fit_epg"]

T1 = 1200.0
"""Assumed longitudinal relaxation time, ms, of cartilage at 3 T."""

BYTES = 8_000_000
"""Size of the largest temporaries, bytes. It limits the number of voxels in a block."""

QUICK, STEPS = 6, 60
"""Number of steps for all voxels, and largest number for those that have not converged by then
(0.1 % of cartilage)."""

LAST_STEP = 1e-6
"""Largest last step of q and of p in a converged voxel. It is 0.2 microseconds at a T2 of 40 ms."""


class EpgFit(NamedTuple):
    """Maps of a fit, each of the shape of one echo."""

    t2: Array
    """T2 [ms]; NaN unless the status is FITTED."""
    t2_error: Array
    """Standard error of T2 [ms] from the residuals; NaN if there are three echoes."""
    b1: Array
    """Transmit field relative to the nominal field; NaN unless FITTED. With hard pulses, it is the
    refocusing flip angle relative to 180 degrees, and at most 1."""
    s0: Array
    """Signal after the excitation [unit of the signal]. Unlike `t2`, it also has a value if T2 is
    outside `bounds`, and for POOR_FIT."""
    r2: Array
    """Coefficient of determination, centred: 1 - SSE / sum (y - mean y)^2. It has a value in the
    same voxels as `s0`."""
    status: Array
    """`FitStatus` as uint8."""


def fit_epg(
    signal: Array,
    echo_time: Array,
    mask: Array | None = None,
    *,
    t1: float = T1,
    bounds: tuple[float, float] = (0.0, float("inf")),
    r2_min: float | None = None,
    pulse: Pulse = "hard",
) -> EpgFit:
    """Fit T2, refocusing and amplitude of a CPMG echo train to every voxel by least squares.

    Parameters
    ----------
    signal : array, (echo, ...)
        Magnitudes, any unit, as an array of NumPy, CuPy or another library that follows the array
        API. All echoes are used. The first echo, which is darker than in an exponential decay,
        contributes most to the estimate of the refocusing.
    echo_time : sequence, (echo,)
        At least three echo times [ms], which are consecutive multiples of the echo spacing.
        A DataArray is converted from its attribute ``units`` (ms, s, us), which it must have.
    mask : array of bool, (...), optional
        Voxels to fit; default: all voxels. If `signal` is a NumPy masked array, voxels that are
        masked in any echo are not fitted.
    t1 : float
        Longitudinal relaxation time [ms] of every voxel.
    bounds : (low, high)
        Accept a T2 in (low, high] ms; all other fits have the status OUT_OF_BOUNDS. If `low` is 0,
        a T2 within the bounds, but below half the first echo time, has the status BELOW_RESOLUTION.
    r2_min : float, optional
        Accept fits with at least this centred r2; all other fits have the status POOR_FIT.
    pulse : {"hard", "sinc"}, mapping or SincPulse
        ``hard``: the flip angle is the same in the whole slice. ``sinc``: it varies across the
        slice, as in a slice selected by sinc pulses. A mapping gives parameters of
        `qmri_lake.relaxometry.SincPulse`, for example ``{"window": "hann"}``. [assumption]

    Returns
    -------
    EpgFit
        ``t2``, ``t2_error``, ``b1``, ``s0``, ``r2`` and ``status``, each (...), float32 (float64
        for a float64 signal). A missing value is NaN, never 0: see `FitStatus`. An optimum at the
        edge of the search has the status OUT_OF_BOUNDS. The search covers a T2 of 5 to 500 ms and
        a b1 from 0.4, with ``sinc`` from 0.4 to 1.4.

    Raises
    ------
    InputError
        If there are fewer than three echoes; if the echo times are not consecutive multiples of
        their spacing, or do not match the signal; if the signal is complex; if the mask has another
        shape or contains 255; or if `t1`, `bounds`, `r2_min` or `pulse` is invalid.

    Notes
    -----
    Hard pulses of 180 - x and of 180 + x degrees give the same train. A field that is 20 % too
    strong therefore gives a ``b1`` of 0.8. In a real slice, the flip angle varies across the slice,
    which a single flip angle cannot describe: with ``pulse="hard"``, T2 is then overestimated as
    much as by a mono-exponential fit without the first echo. For example, with windowed sinc
    pulses, the fitted T2 is 43 ms for a true T2 of 35 ms.

    ``pulse="sinc"`` sums the trains of sub-slices, and recovers the T2 of such a slice if its
    pulses are known. Trains of a field above and below the nominal field differ by less than 1 % of
    the signal. With usual noise, the fit may therefore find either, and T2 is then wrong by up to
    8 %.

    Examples
    --------
    >>> import numpy as np
    >>> from qmri_lake.phantom.phase_graphs import echo_train
    >>> train = echo_train(np.array([20.0, 35.0, 50.0]), np.array([0.8, 1.0, 1.2]))
    >>> fit = fit_epg(1000 * train, np.arange(10.0, 80.0, 10.0))
    >>> fit.t2.round(2)
    array([20., 35., 50.])
    >>> fit.b1.round(2)
    array([0.8, 1. , 0.8])
    """
    times = check_times(signal, echo_time, "fit_epg", least=3)
    low, high, limit = check_limits(bounds, r2_min, "fit_epg")
    if not 0 < float(t1) < math.inf:
        raise InputError(f"t1={t1!r} ms", expected="positive", where="fit_epg")
    trains = dictionary(*_train(times), float(t1), as_pulse(pulse))
    signal, mask = check_mask(signal, mask, "fit_epg")
    xp = namespace(signal, "fit_epg")
    shape = signal.shape[1:]
    flat = xp.reshape(signal, (len(times), math.prod(shape)))
    dtype = xp.float64 if signal.dtype == xp.float64 else xp.float32
    inside = None if mask is None else xp.astype(xp.reshape(mask, (flat.shape[1],)), xp.bool)
    index = None if inside is None else xp.nonzero(inside)[0]
    count = flat.shape[1] if index is None else index.shape[0]
    fits = _Trains(xp, trains, flat, shortest=shortest_t2(times, low))
    parts = []
    for start in range(0, count, fits.voxels):
        stop = min(start + fits.voxels, count)
        some = flat[:, start:stop] if index is None else xp.take(flat, index[start:stop], axis=1)
        parts.append(fits.fit(xp.astype(some, xp.float64), low, high, limit))
    maps = []
    for i, fill in enumerate((math.nan,) * 5 + (float(FitStatus.OUTSIDE),)):
        values = xp.full_like(xp.astype(flat[0, :], xp.float64), fill)
        if parts:
            found = xp.concat([part[i] for part in parts])
            if inside is None:
                values = found
            else:
                values[inside] = found
        values = xp.astype(values, dtype if i < 5 else xp.uint8)
        maps.append(xp.reshape(values, shape))
    return EpgFit(*maps)


def _train(times: NDArray[np.float64]) -> tuple[float, int, int]:
    """Return the echo spacing [ms] and the numbers of the first and the last echo."""
    spacing = float(times[-1] - times[0]) / (times.size - 1)
    number = times / spacing
    first = round(float(number[0]))
    # The tolerance is 0.5 % of a spacing, since scanners round echo times.
    if first < 1 or np.abs(number - first - np.arange(times.size)).max() > 5e-3:
        raise InputError(
            f"echo times {times.tolist()} ms",
            expected="consecutive multiples of one echo spacing, such as 10, 20, 30",
            where="fit_epg",
            todo="Fit these echoes by fit_mono_exponential, or with model='mono'.",
        )
    return spacing, first, first + times.size - 1


class _Point(NamedTuple):
    """Current values of the voxels, each (voxel,)."""

    q: Array
    p: Array
    s: Array
    """Best amplitude."""
    sse: Array
    """Sum of squared residuals. All derivatives below are those of half the sum."""
    by_q: Array
    """Negative derivative by q; `by_p`: by p."""
    by_p: Array
    qq: Array
    """Gauss-Newton curvature by q twice; `qp`: by q and p; `pp`: by p twice."""
    qp: Array
    pp: Array
    full_qq: Array
    """Full curvature by q twice; `full_qp`: by q and p; `full_pp`: by p twice."""
    full_qp: Array
    full_pp: Array


class _Trains:
    """Fit of a block of voxels; the dictionary is on the device of the signal."""

    def __init__(self, xp: ModuleType, trains: Dictionary, like: Array, shortest: float) -> None:
        def beside(table: Values) -> Array:
            if xp.__name__ == "cupy":
                return xp.asarray(table)  # on the current device, like all CuPy arrays
            return xp.asarray(table, device=like.device)

        self.xp, self.trains = xp, trains
        self.shortest = shortest
        self.atoms, self.polynomial = beside(trains.atoms), beside(trains.polynomial)
        self.places = [beside(place) for place in trains.places]
        self.voxels = max(BYTES // (6 * 8 * trains.polynomial.shape[1]), 64)

    def fit(self, signal: Array, low: float, high: float, r2_min: float) -> tuple[Array, ...]:
        """Return t2, t2_error, b1, s0, r2, status as float64, each (voxel,).

        `signal` is (echo, voxel) float64.
        """
        xp, echoes = self.xp, signal.shape[0]
        largest = xp.max(xp.abs(signal), axis=0)  # NaN where an echo is NaN
        finite = xp.isfinite(largest)
        constant = xp.max(signal, axis=0) == xp.min(signal, axis=0)
        usable = finite & ~constant
        scale = xp.where(usable, largest, 1.0)
        # A train replaces signals that cannot be fitted, so that the arithmetic does not warn.
        stand_in = xp.astype(self.atoms[:, :1], xp.float64)
        y = xp.where(usable, signal, stand_in) / scale
        energy = xp.sum((y - xp.mean(y, axis=0)) ** 2, axis=0)

        best, settled = self.optimum(y)
        r2 = 1.0 - best.sse / energy
        t2 = -self.trains.spacing / xp.log(best.q)
        error = xp.full_like(t2, math.nan)
        if echoes > 3:
            # Information on q if p is also unknown; information on q alone where p has no effect.
            known = best.qq - best.qp**2 / xp.where(best.pp > 0, best.pp, 1.0)
            known = xp.where(known > 0, known, math.nan)
            slope = t2 * t2 / (self.trains.spacing * best.q)
            error = slope * xp.sqrt(best.sse / (echoes - 3) / known)

        (least, most), worst = self.trains.q, self.trains.p[1]
        edge = (best.q <= least) | (best.q >= most) | (best.p >= worst)
        if not self.trains.hard:  # a leakage of 0 is a perfect pulse, and no edge
            edge = edge | (best.p <= self.trains.p[0])
        rising = (best.s <= 0) | (r2 <= 0)
        kept = usable & settled & ~edge & ~rising
        code = xp.full_like(t2, float(FitStatus.FITTED))
        code = xp.where(settled, code, float(FitStatus.NOT_CONVERGED))
        unresolved = kept & (t2 < self.shortest)
        code = xp.where(unresolved, float(FitStatus.BELOW_RESOLUTION), code)
        code = xp.where(kept & (r2 < r2_min), float(FitStatus.POOR_FIT), code)
        beyond = edge | (t2 <= low) | (t2 > high)
        code = xp.where(settled & beyond, float(FitStatus.OUT_OF_BOUNDS), code)
        code = xp.where(rising, float(FitStatus.RISING), code)
        code = xp.where(constant, float(FitStatus.CONSTANT), code)
        code = xp.where(largest == 0, float(FitStatus.ZERO), code)
        code = xp.where(finite, code, float(FitStatus.NOT_FINITE))
        good = code == float(FitStatus.FITTED)
        kept = kept & (code != float(FitStatus.BELOW_RESOLUTION))
        b1 = best.p
        if self.trains.hard:
            arccos = getattr(xp, "acos", None) or xp.arccos  # name in the standard, and in CuPy
            b1 = arccos(xp.sqrt(best.p)) * (2 / math.pi)
        return (
            xp.where(good, t2, math.nan),
            xp.where(good, error, math.nan),
            xp.where(good, b1, math.nan),
            xp.where(kept, best.s * scale, math.nan),
            xp.where(kept, r2, math.nan),
            code,
        )

    def optimum(self, y: Array) -> tuple[_Point, Array]:
        """Return the best optimum of each voxel, and which voxels have converged.

        `y` is (echo, voxel).
        """
        xp = self.xp
        first, *others = self.trains.starts
        best, settled = self.converge(y, self.match(y, first))
        for part in others:
            other, done = self.converge(y, self.match(y, part))
            better = other.sse < best.sse
            best = _Point(*(xp.where(better, b, a) for a, b in zip(best, other, strict=True)))
            settled = xp.where(better, done, settled)
        return best, settled

    def match(self, y: Array, part: slice) -> _Point:
        """Return the best atom of a part of the dictionary for each voxel."""
        xp = self.xp
        fit = xp.matmul(self.atoms[:, part].T, xp.astype(y, xp.float32))
        start = xp.argmax(fit, axis=0) + part.start
        return self.at(y, *(xp.take(place, start) for place in self.places))

    def converge(self, y: Array, here: _Point) -> tuple[_Point, Array]:
        """Search for the optimum from `here`, first in all voxels, then in those that need it."""
        xp = self.xp
        best, settled = self.search(y, here, QUICK)
        if not bool(xp.all(settled)):
            # Continue with the few voxels that have not converged.
            slow = xp.nonzero(~settled)[0]
            here = _Point(*(xp.take(values, slow) for values in best))
            found, then = self.search(xp.take(y, slow, axis=1), here, STEPS - QUICK)
            for old, new in zip(best, found, strict=True):
                old[~settled] = new
            settled[~settled] = then
        return best, settled

    def search(self, y: Array, here: _Point, steps: int) -> tuple[_Point, Array]:
        """Search for the optimum from `here`; return it, and which voxels have converged.

        `y` is (echo, voxel).
        """
        xp = self.xp
        damping = xp.full_like(here.q, 1e-3)
        settled = here.q != here.q
        for _ in range(steps):
            q, p = self.step(here, damping)
            there = self.at(y, q, p)
            # A converged voxel is not updated, so that its result does not depend on other voxels.
            better = (there.sse <= here.sse) & ~settled
            settled = settled | (
                (xp.abs(q - here.q) <= LAST_STEP) & (xp.abs(p - here.p) <= LAST_STEP)
            )
            here = _Point(*(xp.where(better, b, a) for a, b in zip(here, there, strict=True)))
            damping = xp.clip(xp.where(better, 0.1 * damping, 10.0 * damping), 1e-9, 1e9)
            if bool(xp.all(settled)):
                break
        return here, settled

    def step(self, here: _Point, damping: Array) -> tuple[Array, Array]:
        """Return the next q, p: a damped Newton step inside the range of the dictionary."""
        xp = self.xp
        gauss = here.qq * here.pp - here.qp**2
        full = here.full_qq * here.full_pp - here.full_qp**2
        # Use the full curvature where it is clearly positive, else the Gauss-Newton curvature.
        safe = (here.full_qq > 0.1 * here.qq) & (full > 0.1 * gauss)
        tiny = 1e-30  # prevents a division by 0 where p has no effect
        qq = xp.where(safe, here.full_qq, here.qq) * (1 + damping) + tiny
        pp = xp.where(safe, here.full_pp, here.pp) * (1 + damping) + tiny
        # At an edge of the range, if the sum of squares decreases outwards, only the other
        # coordinate changes.
        no_q, no_p = (
            ((value <= low) & (down < 0)) | ((value >= high) & (down > 0))
            for value, down, (low, high) in (
                (here.q, here.by_q, self.trains.q),
                (here.p, here.by_p, self.trains.p),
            )
        )
        by_q, by_p = xp.where(no_q, 0.0, here.by_q), xp.where(no_p, 0.0, here.by_p)
        qp = xp.where(no_q | no_p, 0.0, xp.where(safe, here.full_qp, here.qp))
        p = xp.clip(here.p + (by_p * qq - by_q * qp) / (qq * pp - qp * qp), *self.trains.p)
        # Where an edge limits p, this is the best q for the limited p. Elsewhere, it is the
        # solution of the system of equations.
        q = here.q + (by_q - qp * (p - here.p)) / qq
        return xp.clip(q, *self.trains.q), p

    def at(self, y: Array, q: Array, p: Array) -> _Point:
        """Return the sum of squares at q, p and its derivatives after eliminating the amplitude."""
        xp = self.xp
        (a, a1, a2), (b, b1, b2) = (
            self.chebyshev(value, *ends, degree)
            for value, ends, degree in zip(
                (q, p), (self.trains.q, self.trains.p), self.trains.degrees, strict=True
            )
        )

        def trains(by_q: Array, by_p: Array) -> Array:
            terms = by_q[:, None, :] * by_p[None, :, :]
            return xp.matmul(self.polynomial, xp.reshape(terms, (-1, terms.shape[2])))

        def dot(one: Array, other: Array) -> Array:
            return xp.sum(one * other, axis=0)

        d, d_q, d_p = trains(a, b), trains(a1, b), trains(a, b1)
        norm = dot(d, d)
        s = dot(y, d) / norm
        rest = y - s * d
        rest_q, rest_p = dot(rest, d_q), dot(rest, d_p)
        part_q, part_p = dot(d, d_q), dot(d, d_p)
        own_qq, own_qp, own_pp = s * s * dot(d_q, d_q), s * s * dot(d_q, d_p), s * s * dot(d_p, d_p)
        # A change of the amplitude compensates a part of the curvature, which depends on `loss` in
        # the Gauss-Newton approximation and on `cross` in general.
        loss_q, loss_p = s * part_q, s * part_p
        cross_q, cross_p = rest_q - loss_q, rest_p - loss_p
        return _Point(
            q,
            p,
            s,
            dot(rest, rest),
            s * rest_q,
            s * rest_p,
            own_qq - loss_q * loss_q / norm,
            own_qp - loss_q * loss_p / norm,
            own_pp - loss_p * loss_p / norm,
            own_qq - cross_q * cross_q / norm - s * dot(rest, trains(a2, b)),
            own_qp - cross_q * cross_p / norm - s * dot(rest, trains(a1, b1)),
            own_pp - cross_p * cross_p / norm - s * dot(rest, trains(a, b2)),
        )

    def chebyshev(
        self, value: Array, low: float, high: float, degree: int
    ) -> tuple[Array, Array, Array]:
        """Return Chebyshev's polynomials of `value` and two derivatives, (degree + 1, voxel)."""
        xp = self.xp
        slope = 2 / (high - low)
        x = slope * (value - low) - 1
        zero, one = xp.zeros_like(x), xp.ones_like(x)
        t, t1, t2 = [one, x], [zero, one * slope], [zero, zero]
        for _ in range(degree - 1):
            t2.append(4 * slope * t1[-1] + 2 * x * t2[-1] - t2[-2])
            t1.append(2 * slope * t[-1] + 2 * x * t1[-1] - t1[-2])
            t.append(2 * x * t[-1] - t[-2])
        return xp.stack(t), xp.stack(t1), xp.stack(t2)
