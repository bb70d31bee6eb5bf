"""Image intensities: water-excited DESS, multi-echo spin echo (MSME), shading, Rician noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .sampling import N_TISSUES, Tissue

__all__ = [
    "CARTILAGE_T2",
    "ECHO_TIMES",
    "T1",
    "TISSUE_T2",
    "Shading",
    "cartilage_t2",
    "dess",
    "echo_train",
    "msme",
]

ECHO_TIMES = tuple(float(t) for t in range(10, 80, 10))
"""Echo times of the MSME series, ms."""

T1 = 1200.0
"""Longitudinal relaxation time of every tissue in the echo train, ms."""

CARTILAGE_T2 = (32.0, 38.0, 42.0)
"""T2 of deep, middle and superficial cartilage, ms."""

#                AIR MARROW CORTEX CARTIL MENISC FLUID MUSCLE  FAT TENDON SKIN VESSEL
_DESS = np.array([0, 0.165, 0.055, 0.430, 0.150, 0.88, 0.290, 0.215, 0.090, 0.3, 0.40])
_TEXTURE = np.array([0, 0.22, 0.20, 0.08, 0.15, 0.05, 0.16, 0.24, 0.2, 0.1, 0.05])
_DENSITY = np.array([0, 0.90, 0.10, 0.80, 0.45, 1.00, 0.75, 1.00, 0.30, 0.5, 0.5])
TISSUE_T2 = np.array([50, 120.0, 5.0, np.nan, 12.0, 400.0, 35.0, 110.0, 8.0, 30.0, 150.0])
"""T2 of each `.sampling.Tissue`, ms; cartilage has its own, by depth."""


def cartilage_t2(depth: NDArray[np.float32], raised: float = 0.0) -> NDArray[np.float32]:
    """Return cartilage T2 (ms) at a relative depth (0 bone, 1 surface), `raised` by a fraction."""
    layers = np.interp(depth, (1 / 6, 1 / 2, 5 / 6), CARTILAGE_T2)
    return np.asarray(layers * (1 + raised), np.float32)


@dataclass(frozen=True, slots=True)
class Shading:
    """A smooth positive field of mean about 1: strongest near the skin, tilted at random."""

    weights: tuple[float, ...]
    strength: float

    @staticmethod
    def draw(rng: np.random.Generator, strength: float = 0.35) -> Shading:
        """Draw a field; `strength` 0.35 gives about a factor of two across the knee."""
        return Shading(tuple(float(v) for v in rng.normal(size=7)), strength)

    def at(self, shape: tuple[int, int, int], start: int, stop: int) -> NDArray[np.float32]:
        """Return the field on the slices `start` to `stop` of a grid of `shape`."""
        s, r, c = np.meshgrid(
            *(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True
        )
        s, k = s[start:stop], self.weights
        field = 0.5 * (s * s + c * c) - 0.25 * r * r - 0.25
        field = field + 0.45 * (k[0] * s + k[1] * r + k[2] * c)
        field = field + 0.3 * (k[3] * s * r + k[4] * r * c + k[5] * s * c + k[6] * np.sin(2.5 * r))
        return np.asarray(np.exp(np.float32(self.strength) * field))


def _rician(
    signal: NDArray[np.float32], sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    if sigma == 0:
        return signal
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary))


def dess(
    fraction: NDArray[np.float32],
    texture: NDArray[np.float32],
    coil: NDArray[np.float32],
    *,
    gain: float,
    noise: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return a DESS image from tissue fractions (..., 11), in scanner units of about 0 to 1000.

    `noise` is the standard deviation of each channel of the complex noise, relative to fluid.
    """
    image = fraction @ _DESS.astype(np.float32)
    grain = fraction @ (_DESS * _TEXTURE).astype(np.float32)
    image = np.maximum(image + grain * texture, 0) * coil
    return np.asarray(gain * _rician(image, noise, rng))


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

    A 90 degree excitation is followed by refocusing pulses of 180 degrees times `b1`, hard pulses
    (no slice profile), proton density 1 (Hennig, Concepts Magn Reson 1991; Weigel, JMRI 2015).

    Parameters
    ----------
    t2 : array
        ms, broadcast against `b1`.
    b1 : array
        Transmit field relative to nominal.
    echo_spacing, t1 : float
        ms.
    echoes : int
    """
    t2, b1 = np.broadcast_arrays(np.asarray(t2, np.float64), np.asarray(b1, np.float64))
    e1, e2 = np.exp(-echo_spacing / 2 / t1), np.exp(-echo_spacing / 2 / t2)
    half = np.pi * b1 / 2
    c2, s2, s, c = np.cos(half) ** 2, np.sin(half) ** 2, np.sin(2 * half), np.cos(2 * half)
    n = 2 * echoes + 1
    # Pulses along y', magnetisation along x': all states stay real.
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


def _decay(
    t2: NDArray[np.float32], b1: NDArray[np.float32], model: Literal["epg", "mono"]
) -> NDArray[np.float32]:
    """Return (echo, ...) amplitudes of a density of 1."""
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


def msme(
    fraction: NDArray[np.float32],
    depth: NDArray[np.float32],
    texture: NDArray[np.float32],
    coil: NDArray[np.float32],
    b1: NDArray[np.float32],
    *,
    model: Literal["epg", "mono"],
    raised: float,
    gain: float,
    noise: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a multi-echo series (echo, ...) and the noise-free T2 map (...), ms.

    T2 is NaN in air, and in voxels of more than one tissue: those have no single T2.
    """
    shape = depth.shape
    t2 = np.full(shape, np.nan, np.float32)
    series = np.zeros((len(ECHO_TIMES), *shape), np.float32)
    nominal = np.linspace(float(b1.min()), float(b1.max()), 24, dtype=np.float32)
    for tissue in range(1, N_TISSUES):
        part = fraction[..., tissue]
        here = part > 0
        if tissue == Tissue.CARTILAGE:
            own = cartilage_t2(depth[here], raised)
            amplitude = _decay(own, b1[here], model)
            value = own
        elif model == "mono":
            flat = np.float32(TISSUE_T2[tissue])
            value = np.full(int(here.sum()), flat, np.float32)
            amplitude = np.exp(-np.array(ECHO_TIMES, np.float32) / flat)[:, None]
        else:
            # One T2, so only B1 varies: interpolate a short table of B1.
            flat = np.float32(TISSUE_T2[tissue])
            value = np.full(int(here.sum()), flat, np.float32)
            short = _decay(np.full(nominal.shape, flat), nominal, model)
            amplitude = np.stack([np.interp(b1[here], nominal, row) for row in short])
        density = np.float32(_DENSITY[tissue]) * part[here]
        density *= np.maximum(1 + np.float32(0.5 * _TEXTURE[tissue]) * texture[here], 0.1)
        density *= coil[here]
        series[:, here] += (amplitude * density).astype(np.float32)
        pure = part[here] > 0.999
        t2[here] = np.where(pure, value, t2[here])
    return np.asarray(gain * _rician(series, noise, rng)), t2
