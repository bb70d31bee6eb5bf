"""Simulated MR artefacts that are weak enough for the image to remain readable [assumption].

Labels do not change. Each function returns a new image, (slice, row, column) float32, in the unit
of the signal. The argument `image` is a magnitude image with values of 0 or more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.segmentation.augmentation.deformation import SmoothField, Spacing

__all__ = ["bias_field", "ghosting", "noise"]

Image = NDArray[np.float32]


def bias_field(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Simulate an inhomogeneous coil sensitivity with SD 15 % that is smooth over 60 mm."""
    field = SmoothField(image.shape, spacing, 60.0, 1, rng)
    return np.stack([plane * np.exp(0.15 * field.slice(i)[0]) for i, plane in enumerate(image)])


def noise(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Add Rician noise with an SD per channel of 3 to 8 % of the image's 85th percentile.

    `spacing` is not used.
    """
    sigma = np.float32(rng.uniform(0.03, 0.08) * np.percentile(image, 85))
    new = np.empty_like(image)
    for plane, noisy in zip(image, new, strict=True):
        real, imaginary = sigma * rng.standard_normal((2, *plane.shape), dtype=np.float32)
        np.hypot(plane + real, imaginary, out=noisy)
    return new


def ghosting(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Add two ghosts of 4 to 8 % of the signal, as from a periodic change between k-space lines.

    The ghosts are shifted by a half, a third or a quarter of the field of view, one in each
    direction. The axis is chosen at random, since rows or columns may be the phase-encoding
    direction. `spacing` is not used.
    """
    fraction = np.float32(rng.uniform(0.04, 0.08))
    axis = int(rng.integers(0, 2))
    shift = image.shape[1 + axis] // int(rng.integers(2, 5))
    new = np.empty_like(image)
    for plane, ghosted in zip(image, new, strict=True):
        ghosted[:] = plane + fraction * (np.roll(plane, shift, axis) + np.roll(plane, -shift, axis))
    return new
