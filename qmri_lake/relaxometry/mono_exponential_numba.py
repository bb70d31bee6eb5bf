"""The compiled mono-exponential fit for NumPy arrays, in float64.

See `qmri_lake.relaxometry.mono_exponential` for the method and the symbols. Voxels are fitted in
groups. Each voxel of a group is a lane, and the innermost loops run over lanes, so that the
compiler vectorises them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

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

# numba takes integers, not enums.
(
    FITTED,
    ZERO,
    CONSTANT,
    RISING,
    NOT_FINITE,
    OUT_OF_BOUNDS,
    POOR_FIT,
    NOT_CONVERGED,
    BELOW_RESOLUTION,
) = (
    int(FitStatus.FITTED),
    int(FitStatus.ZERO),
    int(FitStatus.CONSTANT),
    int(FitStatus.RISING),
    int(FitStatus.NOT_FINITE),
    int(FitStatus.OUT_OF_BOUNDS),
    int(FitStatus.POOR_FIT),
    int(FitStatus.NOT_CONVERGED),
    int(FitStatus.BELOW_RESOLUTION),
)

LANES = 128
"""Number of voxels in a group. Their echoes and sums stay in the first-level cache."""


@njit(cache=True, nogil=True, error_model="numpy")
def sums(y, tau, uniform, u):  # type: ignore[no-untyped-def]
    """Return A, A1, A2, B, B1, B2 of one voxel at u = log q."""
    a = a1 = a2 = b = b1 = b2 = 0.0
    q, power = math.exp(u), 1.0
    for k in range(tau.size):
        t = tau[k]
        if not uniform:
            power = math.exp(u * t)
        ye, ee = y[k] * power, power * power
        power *= q
        a += ye
        a1 += t * ye
        a2 += t * t * ye
        b += ee
        b1 += t * ee
        b2 += t * t * ee
    return a, a1, a2, b, b1, b2


@njit(cache=True, nogil=True, error_model="numpy")
def lane_sums(y, tau, uniform, u, q, a, a1, a2, b, b1, b2):  # type: ignore[no-untyped-def]
    """Fill A, A1, A2, B, B1, B2 of all lanes.

    The sums are computed from q for evenly spaced echoes, and from u otherwise.
    """
    n, lanes = y.shape
    if not uniform:
        for w in range(lanes):
            a[w], a1[w], a2[w], b[w], b1[w], b2[w] = sums(y[:, w], tau, uniform, u[w])
        return
    # Horner's scheme gives two polynomials, their derivatives and half their second derivatives.
    for w in range(lanes):
        a[w], a1[w], a2[w] = y[n - 1, w], 0.0, 0.0
        b[w], b1[w], b2[w] = 1.0, 0.0, 0.0
    # Two echoes in each pass halve the traffic with the cache, which limits the speed.
    for k in range(n - 2, 0, -2):
        for w in range(lanes):
            x, z = q[w], q[w] * q[w]
            p, p1 = a[w] * x + y[k, w], a1[w] * x + a[w]
            r, r1 = b[w] * z + 1.0, b1[w] * z + b[w]
            a2[w] = (a2[w] * x + a1[w]) * x + p1
            a1[w] = p1 * x + p
            a[w] = p * x + y[k - 1, w]
            b2[w] = (b2[w] * z + b1[w]) * z + r1
            b1[w] = r1 * z + r
            b[w] = r * z + 1.0
    if n % 2 == 0:
        for w in range(lanes):
            x, z = q[w], q[w] * q[w]
            a2[w] = a2[w] * x + a1[w]
            a1[w] = a1[w] * x + a[w]
            a[w] = a[w] * x + y[0, w]
            b2[w] = b2[w] * z + b1[w]
            b1[w] = b1[w] * z + b[w]
            b[w] = b[w] * z + 1.0
    for w in range(lanes):
        x, z = q[w], q[w] * q[w]
        a2[w] = x * (a1[w] + 2.0 * x * a2[w])
        a1[w] *= x
        b2[w] = z * (b1[w] + 2.0 * z * b2[w])
        b1[w] *= z


@njit(cache=True, nogil=True, error_model="numpy")
def first_guess(y, tau, uniform, u, q):  # type: ignore[no-untyped-def]
    """Fill the start values of all lanes.

    Evenly spaced echoes give q from lag-1 products. Other echoes give u from a log-linear fit
    weighted by y^2.
    """
    n, lanes = y.shape
    if uniform:
        top, bottom = np.zeros(lanes), np.zeros(lanes)
        for k in range(n - 1):
            for w in range(lanes):
                top[w] += y[k, w] * y[k + 1, w]
                bottom[w] += y[k, w] * y[k, w]
        for w in range(lanes):
            ratio = top[w] / bottom[w] if bottom[w] > 0 else 0.5
            q[w] = min(max(ratio, 1e-3), 1.05)
        return
    for w in range(lanes):
        m = mt = ml = mtt = mtl = 0.0
        for k in range(n):
            if y[k, w] > 0:
                weight, log = y[k, w] * y[k, w], math.log(y[k, w])
                m += weight
                mt += weight * tau[k]
                ml += weight * log
                mtt += weight * tau[k] * tau[k]
                mtl += weight * tau[k] * log
        scatter = m * mtt - mt * mt
        slope = (m * mtl - mt * ml) / scatter if scatter > 0 else -0.5
        u[w] = min(max(slope, -7.0), 0.05)


@njit(cache=True, nogil=True, error_model="numpy")
def newton(y, tau, uniform, u, q, step, a, a1, a2, b, b1, b2):  # type: ignore[no-untyped-def]
    """Fill u, q and the last step of each lane.

    The step is infinite if the curvature was not above 0, so that no step was safe.
    """
    lanes = u.size
    first_guess(y, tau, uniform, u, q)
    step[:] = 1.0
    for _ in range(NEWTON_STEPS):
        lane_sums(y, tau, uniform, u, q, a, a1, a2, b, b1, b2)
        moving = 0
        for w in range(lanes):
            s = a[w] / b[w]
            h = a1[w] - s * b1[w]
            gauss = s * (b2[w] - b1[w] * b1[w] / b[w])
            full = gauss + (s * b2[w] - a2[w]) + b1[w] / b[w] * h
            curvature = full if full > 0.25 * gauss else gauss
            move = min(max(h / curvature, -0.5), 0.5)
            # A converged lane is not updated, so that its result does not depend on other lanes.
            active = LAST_STEP < abs(step[w]) <= 1.0
            move = move if active and curvature > 0 else 0.0
            step[w] = (move if curvature > 0 else math.inf) if active else step[w]
            moving += abs(move) > LAST_STEP
            u[w] += move
            q[w] *= 1.0 + move * (1.0 + move * (0.5 + move / 6.0))
        if moving == 0:
            break
    for w in range(lanes):
        if uniform:
            u[w] = math.log(q[w])
        else:
            q[w] = math.exp(u[w])


@njit(cache=True, nogil=True, error_model="numpy")
def spread(y, total, centred):  # type: ignore[no-untyped-def]
    """Fill the sums of y^2 and of (y - mean)^2 of each lane; the second is 0 for a constant y."""
    n, lanes = y.shape
    mean, smallest, largest = np.zeros(lanes), y[0].copy(), y[0].copy()
    total[:] = 0.0
    centred[:] = 0.0
    for k in range(n):
        for w in range(lanes):
            value = y[k, w]
            total[w] += value * value
            mean[w] += value / n
            smallest[w] = min(smallest[w], value)
            largest[w] = max(largest[w], value)
    for k in range(n):
        for w in range(lanes):
            centred[w] += (y[k, w] - mean[w]) ** 2
    for w in range(lanes):
        if smallest[w] == largest[w]:
            centred[w] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def residual(y, tau, uniform, u, q, s, sse):  # type: ignore[no-untyped-def]
    """Fill the sum of squared residuals of each lane.

    The residuals are summed directly, since total - A S would lose precision.
    """
    n, lanes = y.shape
    model = s.copy()
    sse[:] = 0.0
    for k in range(n):
        for w in range(lanes):
            if not uniform:
                model[w] = s[w] * math.exp(u[w] * tau[k])
            sse[w] += (y[k, w] - model[w]) ** 2
            model[w] *= q[w]


@njit(cache=True, nogil=True, error_model="numpy")
def search_table(tau):  # type: ignore[no-untyped-def]
    """Return u (point), q^tau (echo, point) and 1 / B (point) at the points of the grid."""
    ratio = math.log(HIGHEST / LOWEST) / (GRID - 1)
    points = -np.exp(-ratio * np.arange(GRID)) / LOWEST
    powers = np.exp(points * tau.reshape((-1, 1)))
    return points, powers, 1.0 / (powers * powers).sum(axis=0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def largest(values):  # type: ignore[no-untyped-def]
    """Return the maximum by a vectorised loop; `values` must not contain NaN."""
    best = values[0]
    for i in range(values.size):
        best = max(best, values[i])
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def search(y, tau, uniform, start, points, powers, weights, explained):  # type: ignore[no-untyped-def]
    """Return u of the global optimum and its status, by a grid search and Newton's method.

    Newton's method is limited to the interval around the best point of the grid. It begins at
    `start` if `start` lies in this interval.
    """
    explained[:] = 0.0
    for k in range(tau.size):
        value = y[k]
        for i in range(GRID):
            explained[i] += value * powers[k, i]
    for i in range(GRID):
        a = max(explained[i], 0.0)
        explained[i] = a * a * weights[i]
    best, place = largest(explained), 0
    while explained[place] < best:
        place += 1
    if place == GRID - 1 or best == 0.0:
        return 0.0, RISING
    low, u, high = points[max(place - 1, 0)], points[place], points[place + 1]
    if low < start < high:
        u = start
    for _ in range(REFINEMENTS):
        a, a1, a2, b, b1, b2 = sums(y, tau, uniform, u)
        s = a / b
        h = a1 - s * b1
        if h > 0:
            low = u
        else:
            high = u
        curvature = s * (b2 - b1 * b1 / b) + (s * b2 - a2) + b1 / b * h
        following = u + h / curvature if curvature > 0 else math.inf
        # This check precedes the check of the bracket, which a step that rounds to 0 would fail.
        if min(abs(following - u), high - low) <= 1e-12 * abs(u):
            return u, FITTED
        if not low < following < high:
            following = 0.5 * (low + high)
        u = following
    return u, FITTED if high - low <= 1e-6 * abs(u) else NOT_CONVERGED


@njit(cache=True, nogil=True, error_model="numpy")
def fit_voxels(signal, times, inside, low, high, shortest, r2_min, maps, status):  # type: ignore[no-untyped-def]
    """Fill `maps` (t2, t2_error, s0, r2; voxel) and `status` (voxel) where `inside` is True.

    `signal` is (echo, voxel). A T2 within the bounds, but below `shortest`, is not resolved.
    """
    n = times.size
    spacing = (times[-1] - times[0]) / (n - 1)
    tau = (times - times[0]) / spacing
    uniform = True
    for k in range(n):
        uniform = uniform and abs(tau[k] - k) < 1e-6
    points, powers, weights = search_table(tau)
    y, one, voxel = np.zeros((n, LANES)), np.zeros(n), np.zeros(LANES, np.int64)
    u, q, step, s = np.zeros(LANES), np.ones(LANES), np.zeros(LANES), np.zeros(LANES)
    total, centred, sse = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    a, a1, a2 = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    b, b1, b2 = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    codes, explained = np.zeros(LANES, np.int64), np.zeros(GRID)
    start = 0
    while start < signal.shape[1]:
        count = 0
        while count < LANES and start < signal.shape[1]:
            voxel[count] = start
            count += inside[start]
            start += 1
        for k in range(n):
            for w in range(count):
                y[k, w] = signal[k, voxel[w]]
        spread(y, total, centred)
        newton(y, tau, uniform, u, q, step, a, a1, a2, b, b1, b2)
        lane_sums(y, tau, uniform, u, q, a, a1, a2, b, b1, b2)
        for w in range(LANES):
            s[w] = a[w] / b[w]
        residual(y, tau, uniform, u, q, s, sse)
        for w in range(count):
            if not math.isfinite(total[w]):
                codes[w] = NOT_FINITE
                continue
            if total[w] == 0.0:
                codes[w] = ZERO
                continue
            if centred[w] == 0.0:
                codes[w] = CONSTANT
                continue
            settled = abs(step[w]) <= LAST_STEP and u[w] < -1.0 / HIGHEST and s[w] > 0.0
            if settled and sse[w] <= (1.0 - SURE_R2) * centred[w]:
                codes[w] = FITTED
            else:
                one[:] = y[:, w]
                u[w], codes[w] = search(one, tau, uniform, u[w], points, powers, weights, explained)
                a[w], _, _, b[w], b1[w], b2[w] = sums(one, tau, uniform, u[w])
                s[w], sse[w] = a[w] / b[w], 0.0
                for k in range(n):
                    sse[w] += (one[k] - s[w] * math.exp(u[w] * tau[k])) ** 2
        for w in range(count):
            v = voxel[w]
            status[v] = codes[w]
            if codes[w] != FITTED:
                continue
            t2 = -spacing / u[w]
            r2 = 1.0 - sse[w] / centred[w]
            bounded = low < t2 <= high
            if bounded and not r2 < r2_min and t2 < shortest:
                status[v] = BELOW_RESOLUTION
                continue
            maps[2, v] = s[w] * math.exp(times[0] / t2)
            maps[3, v] = r2
            if not bounded:
                status[v] = OUT_OF_BOUNDS
            elif r2 < r2_min:
                status[v] = POOR_FIT
            else:
                maps[0, v] = t2
                if n > 2:
                    information = s[w] * s[w] * (b2[w] - b1[w] * b1[w] / b[w])
                    maps[1, v] = t2 * t2 / spacing * math.sqrt(sse[w] / (n - 2) / information)
