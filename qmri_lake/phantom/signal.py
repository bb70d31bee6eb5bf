"""Image intensities: water-excited DESS, multi-echo spin echo (MSME), shading, Rician noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.phase_graphs import ECHO_TIMES, decay
from qmri_lake.phantom.sampling import N_TISSUES, Tissue

__all__ = ["CARTILAGE_T2", "DENSITY", "TISSUE_T2", "Shading", "cartilage_t2", "dess", "msme"]

CARTILAGE_T2 = (32.0, 38.0, 42.0)
"""T2 of deep, middle and superficial cartilage, ms."""

#                AIR MARROW CORTEX CARTIL MENISC FLUID MUSCLE  FAT TENDON SKIN VESSEL
_DESS = np.array([0, 0.165, 0.055, 0.430, 0.150, 0.88, 0.290, 0.215, 0.090, 0.3, 0.40])
_TEXTURE = np.array([0, 0.22, 0.20, 0.08, 0.15, 0.05, 0.16, 0.24, 0.2, 0.1, 0.05])
DENSITY = np.array([0, 0.90, 0.10, 0.80, 0.45, 1.00, 0.75, 1.00, 0.30, 0.5, 0.5])
TISSUE_T2 = np.array([50, 120.0, 5.0, np.nan, 12.0, 400.0, 35.0, 110.0, 8.0, 30.0, 150.0])
"""T2 of each `.sampling.Tissue`, ms; NaN for cartilage, whose T2 depends on the depth."""


def cartilage_t2(depth: NDArray[np.float32], raised: float = 0.0) -> NDArray[np.float32]:
    """Return cartilage T2 (ms) at a relative depth (0 bone, 1 surface), scaled by 1 + `raised`."""
    layers = np.interp(depth, (1 / 6, 1 / 2, 5 / 6), CARTILAGE_T2)
    return np.asarray(layers * (1 + raised), np.float32)


@dataclass(frozen=True, slots=True)
class Shading:
    """A smooth positive field with a mean of about 1 and a random tilt, highest near the skin."""

    weights: tuple[float, ...]
    strength: float

    @staticmethod
    def draw(rng: np.random.Generator, strength: float = 0.35) -> Shading:
        """Draw a field. It varies by about a factor of two across the knee at `strength` 0.35."""
        return Shading(tuple(float(v) for v in rng.normal(size=7)), strength)

    def at(self, shape: tuple[int, int, int], start: int, stop: int) -> NDArray[np.float32]:
        """Return the field on the slices from `start` to `stop` (excluded) of a grid of `shape`."""
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

    T2 is NaN in air and in voxels with more than one tissue, which have no single T2.
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
            amplitude = decay(own, b1[here], model)
            value = own
        elif model == "mono":
            flat = np.float32(TISSUE_T2[tissue])
            value = np.full(int(here.sum()), flat, np.float32)
            amplitude = np.exp(-np.array(ECHO_TIMES, np.float32) / flat)[:, None]
        else:
            # T2 is constant in this tissue, so interpolate in a table of B1.
            flat = np.float32(TISSUE_T2[tissue])
            value = np.full(int(here.sum()), flat, np.float32)
            short = decay(np.full(nominal.shape, flat), nominal, model)
            amplitude = np.stack([np.interp(b1[here], nominal, row) for row in short])
        density = np.float32(DENSITY[tissue]) * part[here]
        density *= np.maximum(1 + np.float32(0.5 * _TEXTURE[tissue]) * texture[here], 0.1)
        density *= coil[here]
        series[:, here] += (amplitude * density).astype(np.float32)
        pure = part[here] > 0.999
        t2[here] = np.where(pure, value, t2[here])
    return np.asarray(gain * _rician(series, noise, rng)), t2
