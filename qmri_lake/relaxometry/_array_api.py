"""The mono-exponential fit in array operations, for arrays that are not NumPy arrays (CuPy).

Method, start and limits are those of the compiled code, with operations of the array API standard.
Nothing is converted to NumPy. Only the number of voxels that remain to be searched leaves the
device.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, Values, namespace
from qmri_lake.relaxometry._checks import shortest_t2
from qmri_lake.relaxometry._constants import (
    GRID,
    HIGHEST,
    LAST_STEP,
    LOWEST,
    NEWTON_STEPS,
    REFINEMENTS,
    SURE_R2,
)
from qmri_lake.relaxometry.fit_status import FitStatus

__all__ = ["fit_arrays"]

BLOCK = 1 << 18
"""Number of voxels in a block: enough for a GPU, and it limits the size of temporaries."""


def fit_arrays(
    signal: Array,
    times: NDArray[np.float64],
    mask: Array | None,
    low: float,
    high: float,
    r2_min: float,
) -> tuple[Array, Array, Array, Array, Array]:
    """Fit arrays of any array-API library; return t2, t2_error, s0, r2 and status, each (...).

    `signal` is (echo, ...), `times` is (echo,) in ms on the host, and `mask` is (...) or None.
    """
    xp = namespace(signal)
    n = len(times)
    dtype = xp.float64 if signal.dtype == xp.float64 else xp.float32
    shape = signal.shape[1:]
    voxels = math.prod(shape)
    flat = xp.reshape(signal, (n, voxels))
    inside = None if mask is None else xp.reshape(mask, (voxels,))
    parts = []
    for start in range(0, voxels, BLOCK):
        # float64 throughout, since terms of the sums cancel. The precision costs little time,
        # because memory limits the speed of a fit, not arithmetic.
        stop = min(start + BLOCK, voxels)
        block = xp.astype(flat[:, start:stop], xp.float64)
        kept = None if inside is None else inside[start:stop]
        parts.append(_Block(xp, block, times, low, high).fit(kept, r2_min))
    if not parts:
        parts = [(xp.astype(flat[0, :], xp.float64),) * 5]
    joined = [xp.concat([part[i] for part in parts]) for i in range(5)]
    maps = [xp.reshape(xp.astype(values, dtype), shape) for values in joined[:4]]
    # For a very short T2, the signal at time 0 overflows.
    maps[2] = xp.where(xp.isinf(maps[2]), xp.full_like(maps[2], math.nan), maps[2])
    status = xp.reshape(xp.astype(joined[4], xp.uint8), shape)
    return maps[0], maps[1], maps[2], maps[3], status


class _Block:
    """Voxels that are fitted together: `y` is (echo, voxel) float64."""

    def __init__(self, xp: ModuleType, y: Array, times: Values, low: float, high: float) -> None:
        self.xp, self.y, self.low, self.high = xp, y, low, high
        self.shortest = shortest_t2(times, low)
        self.first = float(times[0])
        self.spacing = float(times[-1] - times[0]) / (len(times) - 1)
        self.tau = [float(t - times[0]) / self.spacing for t in times]
        self.uniform = all(abs(t - k) < 1e-6 for k, t in enumerate(self.tau))

    def sums(self, y: Array, u: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
        """Return A, A1, A2, B, B1, B2 at u (voxel)."""
        xp = self.xp
        zero = xp.zeros_like(u)
        a, a1, a2, b, b1, b2 = zero, zero, zero, zero, zero, zero
        for k, t in enumerate(self.tau):
            power = xp.exp(u * t)
            ye, ee = y[k, :] * power, power * power
            a, a1, a2 = a + ye, a1 + t * ye, a2 + t * t * ye
            b, b1, b2 = b + ee, b1 + t * ee, b2 + t * t * ee
        return a, a1, a2, b, b1, b2

    def column(self) -> Array:
        """Return tau (echo, 1), created on the device of the signal."""
        like = self.y[0, :1]
        return self.xp.stack([self.xp.full_like(like, t) for t in self.tau])

    def first_guess(self) -> Array:
        xp, y = self.xp, self.y
        n = len(self.tau)
        if self.uniform:
            top = xp.sum(y[: n - 1, :] * y[1:, :], axis=0)
            bottom = xp.sum(y[: n - 1, :] ** 2, axis=0)
            q = xp.where(bottom > 0, top / xp.where(bottom > 0, bottom, 1.0), 0.5)
            return xp.log(xp.clip(q, 1e-3, 1.05))
        tau = self.column()
        positive = y > 0
        log = xp.log(xp.where(positive, y, 1.0))
        weight = xp.where(positive, y * y, 0.0)
        w, wt = xp.sum(weight, axis=0), xp.sum(weight * tau, axis=0)
        wl, wtt = xp.sum(weight * log, axis=0), xp.sum(weight * tau * tau, axis=0)
        wtl = xp.sum(weight * tau * log, axis=0)
        spread = w * wtt - wt * wt
        slope = (w * wtl - wt * wl) / xp.where(spread > 0, spread, 1.0)
        return xp.where(spread > 0, xp.clip(slope, -7.0, 0.05), -0.5)

    def newton(self) -> tuple[Array, Array]:
        """Return u of each voxel, and whether it has converged."""
        xp = self.xp
        u = self.first_guess()
        step, sound = xp.ones_like(u), u == u
        for _ in range(NEWTON_STEPS):
            a, a1, a2, b, b1, b2 = self.sums(self.y, u)
            s = a / b
            h = a1 - s * b1
            gauss = s * (b2 - b1 * b1 / b)
            full = gauss + (s * b2 - a2) + b1 / b * h
            curvature = xp.where(full > 0.25 * gauss, full, gauss)
            sound = sound & (curvature > 0)
            ratio = h / xp.where(curvature > 0, curvature, 1.0)
            step = xp.where(sound, xp.clip(ratio, -0.5, 0.5), 0.0)
            u = u + step
        return u, sound & (xp.abs(step) <= LAST_STEP)

    def explained(self, y: Array, u: Array) -> Array:
        a, _, _, b, _, _ = self.sums(y, u)
        return self.xp.where(a > 0, a * a / b, 0.0)

    def search(self, y: Array) -> tuple[Array, Array]:
        """Return u of the global optimum and the status, for the voxels of `y`."""
        xp = self.xp
        ratio = math.log(HIGHEST / LOWEST) / (GRID - 1)
        points = [-math.exp(-ratio * i) / LOWEST for i in range(GRID)]
        best = xp.full_like(y[0, :], -1.0)
        u, low, high = xp.zeros_like(best), xp.zeros_like(best), xp.zeros_like(best)
        for i, point in enumerate(points):
            value = self.explained(y, xp.full_like(best, point))
            better = value > best
            best = xp.where(better, value, best)
            u = xp.where(better, point, u)
            low = xp.where(better, points[max(i - 1, 0)], low)
            high = xp.where(better, points[min(i + 1, GRID - 1)], high)
        rising = (u == points[-1]) | (best <= 0)
        settled = rising
        for _ in range(REFINEMENTS):
            a, a1, a2, b, b1, b2 = self.sums(y, u)
            s = a / b
            h = a1 - s * b1
            low, high = xp.where(h > 0, u, low), xp.where(h > 0, high, u)
            curvature = s * (b2 - b1 * b1 / b) + (s * b2 - a2) + b1 / b * h
            sound = curvature > 0
            following = xp.where(sound, u + h / xp.where(sound, curvature, 1.0), low)
            within = (low < following) & (following < high)
            following = xp.where(within, following, 0.5 * (low + high))
            near = xp.abs(following - u) <= 1e-12 * xp.abs(u)
            u = xp.where(settled, u, following)
            settled = settled | near
        settled = settled | (high - low <= 1e-6 * xp.abs(u))
        fitted = xp.full_like(u, float(FitStatus.FITTED))
        code = xp.where(settled, fitted, float(FitStatus.NOT_CONVERGED))
        return u, xp.where(rising, float(FitStatus.RISING), code)

    def fit(self, inside: Array | None, r2_min: float) -> tuple[Array, ...]:
        """Return t2, t2_error, s0, r2, status as float64, each (voxel,)."""
        xp = self.xp
        total = xp.sum(self.y * self.y, axis=0)
        finite = xp.isfinite(total)
        # A decay replaces signals that cannot be fitted, so that the arithmetic does not warn.
        self.y = xp.where(finite & (total > 0), self.y, xp.exp(-self.column()))
        y, n = self.y, len(self.tau)
        energy = xp.sum(y * y, axis=0)
        centred = xp.sum((y - xp.mean(y, axis=0)) ** 2, axis=0)
        constant = xp.max(y, axis=0) == xp.min(y, axis=0)

        u, settled = self.newton()
        sse = energy - self.explained(y, u)
        sure = settled & (u < -1.0 / HIGHEST) & (sse <= (1.0 - SURE_R2) * centred)
        redo = ~sure & ~constant
        if inside is not None:
            redo = redo & inside
        code = xp.zeros_like(u)
        if bool(xp.any(redo)):
            found, codes = self.search(xp.take(y, xp.nonzero(redo)[0], axis=1))
            u[redo] = found
            code[redo] = codes
        u = xp.where(u < 0, u, -1.0)

        a, _, _, b, b1, b2 = self.sums(y, u)
        s = a / b
        sse = xp.zeros_like(u)
        for k, t in enumerate(self.tau):
            sse = sse + (y[k, :] - s * xp.exp(u * t)) ** 2
        r2 = 1.0 - sse / xp.where(constant, 1.0, centred)
        t2 = -self.spacing / u
        s0 = s * xp.exp(self.first / t2)
        fitted = code == float(FitStatus.FITTED)
        unresolved = fitted & (t2 < self.shortest)
        code = xp.where(unresolved, float(FitStatus.BELOW_RESOLUTION), code)
        code = xp.where(fitted & (r2 < r2_min), float(FitStatus.POOR_FIT), code)
        outside = (t2 <= self.low) | (t2 > self.high)
        code = xp.where(fitted & outside, float(FitStatus.OUT_OF_BOUNDS), code)
        code = xp.where(constant, float(FitStatus.CONSTANT), code)
        code = xp.where(total == 0, float(FitStatus.ZERO), code)
        code = xp.where(finite, code, float(FitStatus.NOT_FINITE))
        if inside is not None:
            code = xp.where(inside, code, float(FitStatus.OUTSIDE))
        kept = fitted & finite & ~constant & (total > 0)
        kept = kept & (code != float(FitStatus.BELOW_RESOLUTION))
        if inside is not None:
            kept = kept & inside
        nan = xp.full_like(u, math.nan)
        error = nan
        if n > 2:
            information = s * s * (b2 - b1 * b1 / b)
            safe = xp.where(information > 0, information, 1.0)
            error = t2 * t2 / self.spacing * xp.sqrt(sse / (n - 2) / safe)
        good = code == float(FitStatus.FITTED)
        return (
            xp.where(good, t2, nan),
            xp.where(good, error, nan),
            xp.where(kept, s0, nan),
            xp.where(kept, r2, nan),
            code,
        )
