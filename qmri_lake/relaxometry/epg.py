r"""T2 and refocusing by extended phase graphs: every echo of a CPMG train, stimulated ones too.

The model is :math:`S_k = S_0\, d_k(q, p)`, with :math:`q = \exp(-\Delta/T_2)`, the leakage `p` of
the refocusing pulses and the trains `d` of `qmri_lake.relaxometry.dictionary`. Signals are matched
with a dictionary of normalised trains by one matrix product. From the best atom the
least-squares optimum is sought between the atoms by Newton's method, damped after Levenberg and
Marquardt; the amplitude is eliminated as in the mono-exponential fit. Trains are polynomials of `q`
and `p`, so that they and their derivatives are exact.

All of it is array operations of the array API standard, on the device where the signal lies.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from qmri_lake.errors import InputError
from qmri_lake.relaxometry.arguments import check_limits, check_mask, check_times, namespace
from qmri_lake.relaxometry.dictionary import Dictionary, dictionary
from qmri_lake.relaxometry.mono_exponential import FitStatus

__all__ = ["T1", "EpgFit", "fit_epg"]

T1 = 1200.0
"""Longitudinal relaxation time that is assumed, ms: cartilage at 3 T."""

BYTES = 8_000_000
"""Memory of the largest temporaries: voxels are fitted that many at a time."""

QUICK, STEPS = 6, 60
"""Steps for all voxels, and at most for those that are left: one in a thousand of cartilage."""

LAST_STEP = 1e-6
"""A step up to this, of q and of p, has settled: 0.2 microseconds at 40 ms."""


class EpgFit(NamedTuple):
    """Maps of a fit, each of the shape of one echo."""

    t2: Any
    """T2 [ms]; NaN unless the status is FITTED."""
    t2_error: Any
    """Standard error of T2 [ms] from the residuals; NaN with three echoes."""
    b1: Any
    """Refocusing flip angle relative to 180 degrees, at most 1; NaN unless FITTED."""
    s0: Any
    """Signal after the excitation [unit of the signal]; kept for a T2 outside `bounds` and for
    POOR_FIT."""
    r2: Any
    """Coefficient of determination, centred: 1 - SSE / sum (y - mean y)^2; kept likewise."""
    status: Any
    """`FitStatus` as uint8."""


def fit_epg(
    signal: Any,
    echo_time: Any,
    mask: Any | None = None,
    *,
    t1: float = T1,
    bounds: tuple[float, float] = (0.0, float("inf")),
    r2_min: float | None = None,
) -> EpgFit:
    """Fit T2, refocusing and amplitude of a CPMG echo train to every voxel by least squares.

    Parameters
    ----------
    signal : array, (echo, ...)
        Magnitudes, any unit; NumPy, CuPy, or another that follows the array API. All echoes are
        used: the first one, too dark for an exponential, is what says most about the refocusing.
    echo_time : sequence, (echo,)
        Echo times [ms]: consecutive multiples of the echo spacing. At least three.
    mask : array of bool, (...), optional
        Voxels to fit; default all. Voxels that a NumPy masked array masks in an echo are outside.
    t1 : float
        Longitudinal relaxation time [ms] of every voxel.
    bounds : (low, high)
        A T2 in (low, high] ms is accepted; another has the status OUT_OF_BOUNDS.
    r2_min : float, optional
        Accept fits with at least this centred r2; others have the status POOR_FIT.

    Returns
    -------
    EpgFit
        ``t2``, ``t2_error``, ``b1``, ``s0``, ``r2`` and ``status``, each (...), float32 (float64
        for a float64 signal). There is never a 0 for "no value": see `FitStatus`. An optimum at
        the edge of what is searched, T2 of 5 to 500 ms and b1 from 0.4, is none: OUT_OF_BOUNDS.

    Raises
    ------
    InputError
        Fewer than three echoes, echo times that are not consecutive multiples of their spacing or
        don't match the signal, a complex signal, a mask of another shape or with labels 255, a
        `t1`, bounds or an r2_min that are none.

    Notes
    -----
    Pulses of 180 - x and of 180 + x degrees give the same train: a field 20 % too strong reads
    ``b1`` 0.8. Pulses are hard. Across a real slice the flip angle varies; one ``b1`` does not
    stand for that, and T2 then reads as much too long as mono-exponential T2 without the first
    echo: 43 ms for 35 ms with windowed sinc pulses.

    Examples
    --------
    >>> import numpy as np
    >>> from qmri_lake.phantom.signal import echo_train
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
    trains = dictionary(*_train(times), float(t1))
    signal, mask = check_mask(signal, mask, "fit_epg")
    xp = namespace(signal, "fit_epg")
    shape = signal.shape[1:]
    flat = xp.reshape(signal, (len(times), math.prod(shape)))
    dtype = xp.float64 if signal.dtype == xp.float64 else xp.float32
    inside = None if mask is None else xp.astype(xp.reshape(mask, (flat.shape[1],)), xp.bool)
    index = None if inside is None else xp.nonzero(inside)[0]
    count = flat.shape[1] if index is None else index.shape[0]
    fits = _Trains(xp, trains, flat)
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


def _train(times: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, int, int]:
    """Return the echo spacing [ms] and the numbers of the first and the last echo."""
    spacing = float(times[-1] - times[0]) / (times.size - 1)
    number = times / spacing
    first = round(float(number[0]))
    # Half a percent of a spacing: scanners round echo times.
    if first < 1 or np.abs(number - first - np.arange(times.size)).max() > 5e-3:
        raise InputError(
            f"echo times {times.tolist()} ms",
            expected="consecutive multiples of one echo spacing, such as 10, 20, 30",
            where="fit_epg",
            todo="Other trains are fitted by fit_mono_exponential, model='mono'.",
        )
    return spacing, first, first + times.size - 1


class _Point(NamedTuple):
    """Where the voxels stand, each (voxel,)."""

    q: Any
    p: Any
    s: Any
    """Best amplitude."""
    sse: Any
    """Sum of squared residuals, of which half is what the derivatives are of."""
    by_q: Any
    """Downhill gradient."""
    by_p: Any
    qq: Any
    """Curvature of Gauss and Newton."""
    qp: Any
    pp: Any
    full_qq: Any
    """Curvature in full."""
    full_qp: Any
    full_pp: Any


class _Trains:
    """Fits voxels together; the dictionary lies on the device of the signal."""

    def __init__(self, xp: Any, trains: Dictionary, like: Any) -> None:
        def beside(table: np.ndarray[Any, Any]) -> Any:
            if xp.__name__ == "cupy":
                return xp.asarray(table)  # on the current device, as all that CuPy makes
            return xp.asarray(table, device=like.device)

        self.xp, self.trains = xp, trains
        self.atoms, self.polynomial = beside(trains.atoms), beside(trains.polynomial)
        self.places = [beside(place) for place in trains.places]
        self.voxels = max(BYTES // (6 * 8 * trains.polynomial.shape[1]), 64)

    def fit(self, signal: Any, low: float, high: float, r2_min: float) -> tuple[Any, ...]:
        """Return t2, t2_error, b1, s0, r2, status as float64, each (voxel,).

        `signal` is (echo, voxel) float64.
        """
        xp, echoes = self.xp, signal.shape[0]
        largest = xp.max(xp.abs(signal), axis=0)  # NaN where an echo is
        finite = xp.isfinite(largest)
        constant = xp.max(signal, axis=0) == xp.min(signal, axis=0)
        usable = finite & ~constant
        scale = xp.where(usable, largest, 1.0)
        # What can't be fitted is replaced by a train, so that no arithmetic below warns.
        stand_in = xp.astype(self.atoms[:, :1], xp.float64)
        y = xp.where(usable, signal, stand_in) / scale
        energy = xp.sum((y - xp.mean(y, axis=0)) ** 2, axis=0)

        start = xp.argmax(xp.matmul(self.atoms.T, xp.astype(y, xp.float32)), axis=0)
        here = self.at(y, *(xp.take(place, start) for place in self.places))
        best, settled = self.search(y, here, QUICK)
        if not bool(xp.all(settled)):
            # The few that take long go on alone.
            slow = xp.nonzero(~settled)[0]
            here = _Point(*(xp.take(values, slow) for values in best))
            found, then = self.search(xp.take(y, slow, axis=1), here, STEPS - QUICK)
            for old, new in zip(best, found, strict=True):
                old[~settled] = new
            settled[~settled] = then
        r2 = 1.0 - best.sse / energy
        t2 = -self.trains.spacing / xp.log(best.q)
        error = xp.full_like(t2, math.nan)
        if echoes > 3:
            # What is known of q when p must be found too; where p says nothing, of q alone.
            known = best.qq - best.qp**2 / xp.where(best.pp > 0, best.pp, 1.0)
            known = xp.where(known > 0, known, math.nan)
            slope = t2 * t2 / (self.trains.spacing * best.q)
            error = slope * xp.sqrt(best.sse / (echoes - 3) / known)

        (least, most), worst = self.trains.q, self.trains.p[1]
        edge = (best.q <= least) | (best.q >= most) | (best.p >= worst)
        rising = (best.s <= 0) | (r2 <= 0)
        kept = usable & settled & ~edge & ~rising
        code = xp.full_like(t2, float(FitStatus.FITTED))
        code = xp.where(settled, code, float(FitStatus.NOT_CONVERGED))
        code = xp.where(kept & (r2 < r2_min), float(FitStatus.POOR_FIT), code)
        beyond = edge | (t2 <= low) | (t2 > high)
        code = xp.where(settled & beyond, float(FitStatus.OUT_OF_BOUNDS), code)
        code = xp.where(rising, float(FitStatus.RISING), code)
        code = xp.where(constant, float(FitStatus.CONSTANT), code)
        code = xp.where(largest == 0, float(FitStatus.ZERO), code)
        code = xp.where(finite, code, float(FitStatus.NOT_FINITE))
        good = code == float(FitStatus.FITTED)
        arccos = getattr(xp, "acos", None) or xp.arccos  # the standard's name, and CuPy's
        b1 = arccos(xp.sqrt(best.p)) * (2 / math.pi)
        return (
            xp.where(good, t2, math.nan),
            xp.where(good, error, math.nan),
            xp.where(good, b1, math.nan),
            xp.where(kept, best.s * scale, math.nan),
            xp.where(kept, r2, math.nan),
            code,
        )

    def search(self, y: Any, here: _Point, steps: int) -> tuple[_Point, Any]:
        """Return the optimum from `here`, and where the steps have settled; y is (echo, voxel)."""
        xp = self.xp
        damping = xp.full_like(here.q, 1e-3)
        settled = here.q != here.q
        for _ in range(steps):
            q, p = self.step(here, damping)
            there = self.at(y, q, p)
            # A voxel that has settled stays, so that its result does not depend on the others.
            better = (there.sse <= here.sse) & ~settled
            settled = settled | (
                (xp.abs(q - here.q) <= LAST_STEP) & (xp.abs(p - here.p) <= LAST_STEP)
            )
            here = _Point(*(xp.where(better, b, a) for a, b in zip(here, there, strict=True)))
            damping = xp.clip(xp.where(better, 0.1 * damping, 10.0 * damping), 1e-9, 1e9)
            if bool(xp.all(settled)):
                break
        return here, settled

    def step(self, here: _Point, damping: Any) -> tuple[Any, Any]:
        """Return the next q, p: a damped Newton step that stays where trains are known."""
        xp = self.xp
        gauss = here.qq * here.pp - here.qp**2
        full = here.full_qq * here.full_pp - here.full_qp**2
        # Newton's own curvature where it is safe, else that of Gauss and Newton.
        safe = (here.full_qq > 0.1 * here.qq) & (full > 0.1 * gauss)
        tiny = 1e-30  # nothing to learn from p is no division by 0
        qq = xp.where(safe, here.full_qq, here.qq) * (1 + damping) + tiny
        pp = xp.where(safe, here.full_pp, here.pp) * (1 + damping) + tiny
        # At an edge that the sum of squares falls towards, the other coordinate moves alone.
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
        # Where an edge cut p short, the best q for that p; elsewhere this is the plain solution.
        q = here.q + (by_q - qp * (p - here.p)) / qq
        return xp.clip(q, *self.trains.q), p

    def at(self, y: Any, q: Any, p: Any) -> _Point:
        """Return the sum of squares at q, p and its derivatives, the amplitude eliminated."""
        xp = self.xp
        (a, a1, a2), (b, b1, b2) = (
            self.chebyshev(value, *ends) for value, ends in ((q, self.trains.q), (p, self.trains.p))
        )

        def trains(by_q: Any, by_p: Any) -> Any:
            terms = by_q[:, None, :] * by_p[None, :, :]
            return xp.matmul(self.polynomial, xp.reshape(terms, (-1, terms.shape[2])))

        def dot(one: Any, other: Any) -> Any:
            return xp.sum(one * other, axis=0)

        d, d_q, d_p = trains(a, b), trains(a1, b), trains(a, b1)
        norm = dot(d, d)
        s = dot(y, d) / norm
        rest = y - s * d
        rest_q, rest_p = dot(rest, d_q), dot(rest, d_p)
        part_q, part_p = dot(d, d_q), dot(d, d_p)
        own_qq, own_qp, own_pp = s * s * dot(d_q, d_q), s * s * dot(d_q, d_p), s * s * dot(d_p, d_p)
        # What the amplitude makes up for, at the optimum and elsewhere.
        loss_q, loss_p = s * part_q, s * part_p
        cross_q, cross_p = rest_q - loss_q, rest_p - loss_p
        return _Point(
            q, p, s, dot(rest, rest), s * rest_q, s * rest_p,
            own_qq - loss_q * loss_q / norm,
            own_qp - loss_q * loss_p / norm,
            own_pp - loss_p * loss_p / norm,
            own_qq - cross_q * cross_q / norm - s * dot(rest, trains(a2, b)),
            own_qp - cross_q * cross_p / norm - s * dot(rest, trains(a1, b1)),
            own_pp - cross_p * cross_p / norm - s * dot(rest, trains(a, b2)),
        )  # fmt: skip

    def chebyshev(self, value: Any, low: float, high: float) -> tuple[Any, Any, Any]:
        """Return Chebyshev's polynomials and two derivatives by `value`, (degree + 1, voxel)."""
        xp = self.xp
        slope = 2 / (high - low)
        x = slope * (value - low) - 1
        zero, one = xp.zeros_like(x), xp.ones_like(x)
        t, t1, t2 = [one, x], [zero, one * slope], [zero, zero]
        for _ in range(self.trains.degree - 1):
            t2.append(4 * slope * t1[-1] + 2 * x * t2[-1] - t2[-2])
            t1.append(2 * slope * t[-1] + 2 * x * t1[-1] - t1[-2])
            t.append(2 * x * t[-1] - t[-2])
        return xp.stack(t), xp.stack(t1), xp.stack(t2)
