"""Echo amplitudes of a multi-echo spin-echo train, by extended phase graphs (EPG)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ECHO_TIMES", "T1", "decay", "echo_train"]

ECHO_TIMES = tuple(float(t) for t in range(10, 80, 10))
"""Echo times of the MSME series, ms."""

T1 = 1200.0
"""T1 of all tissues in the echo train, ms."""


@lru_cache(maxsize=4)
def _dictionary(echo_spacing: float, echoes: int) -> tuple[NDArray[np.float64], ...]:
    t2 = np.geomspace(4, 500, 97)
    b1 = np.linspace(0.7, 1.2, 26)
    train = echo_train(t2[:, None], b1[None, :], echo_spacing=echo_spacing, echoes=echoes)
    return np.log(t2), b1, np.log(np.maximum(train, 1e-12))


def echo_train(
    t2: NDArray[np.float64],
    b1: NDArray[np.float64],
    *,
    echo_spacing: float = 10.0,
    echoes: int = 7,
    t1: float = T1,
) -> NDArray[np.float64]:
    """Return echo amplitudes (echo, ...) of a CPMG train by extended phase graphs.

    A 90 degree excitation is followed by refocusing pulses of 180 degrees times `b1`. The pulses
    are hard (no slice profile), and proton density is 1. (Hennig, Concepts Magn Reson 1991; Weigel,
    JMRI 2015.)

    Parameters
    ----------
    t2 : array
        T2, ms; it is broadcast with `b1`.
    b1 : array
        Transmit field relative to the nominal field.
    echo_spacing, t1 : float
        Echo spacing and T1, ms.
    echoes : int
    """
    t2, b1 = np.broadcast_arrays(np.asarray(t2, np.float64), np.asarray(b1, np.float64))
    e1, e2 = np.exp(-echo_spacing / 2 / t1), np.exp(-echo_spacing / 2 / t2)
    half = np.pi * b1 / 2
    c2, s2, s, c = np.cos(half) ** 2, np.sin(half) ** 2, np.sin(2 * half), np.cos(2 * half)
    n = 2 * echoes + 1
    # Pulses along y' and magnetisation along x': all states are real.
    plus, minus, long = (np.zeros((n, *t2.shape)) for _ in range(3))
    plus[0] = minus[0] = 1.0
    out = np.empty((echoes, *t2.shape))

    def dephase() -> None:
        plus[:], minus[:], long[:] = plus * e2, minus * e2, long * e1
        plus[1:], minus[:-1] = plus[:-1].copy(), minus[1:].copy()
        minus[-1] = 0
        plus[0] = minus[0]

    for k in range(echoes):
        dephase()
        a, b, z = plus.copy(), minus.copy(), long.copy()
        plus[:] = c2 * a + s2 * b + s * z
        minus[:] = s2 * a + c2 * b - s * z
        long[:] = -0.5 * s * a + 0.5 * s * b + c * z
        dephase()
        out[k] = plus[0]
    return out


def decay(
    t2: NDArray[np.float32], b1: NDArray[np.float32], model: Literal["epg", "mono"]
) -> NDArray[np.float32]:
    """Return the amplitudes (echo, ...) of an exponential decay at proton density 1."""
    if model == "mono":
        te = np.array(ECHO_TIMES).reshape(-1, *([1] * t2.ndim))
        return np.asarray(np.exp(-te / t2), np.float32)
    log_t2, grid_b1, table = _dictionary(ECHO_TIMES[1] - ECHO_TIMES[0], len(ECHO_TIMES))
    u = (np.log(t2) - log_t2[0]) / (log_t2[1] - log_t2[0])
    v = (b1 - grid_b1[0]) / (grid_b1[1] - grid_b1[0])
    i = np.clip(u.astype(int), 0, len(log_t2) - 2)
    j = np.clip(v.astype(int), 0, len(grid_b1) - 2)
    fu, fv = u - i, v - j
    value = (
        table[:, i, j] * (1 - fu) * (1 - fv)
        + table[:, i + 1, j] * fu * (1 - fv)
        + table[:, i, j + 1] * (1 - fu) * fv
        + table[:, i + 1, j + 1] * fu * fv
    )
    return np.asarray(np.exp(value), np.float32)
