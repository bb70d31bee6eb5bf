"""MR artefacts of an image, at a size at which readers still read it [A]: labels stay as they are.

Each returns a new image, float32, (slice, row, column), in the signal's own unit; `image` is a
magnitude, 0 or more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.segmentation.deformation import SmoothField, Spacing

__all__ = ["bias_field", "ghosting", "noise"]

Image = NDArray[np.float32]


def bias_field(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Return an image seen by a coil that is uneven by 15 % (SD), over 60 mm."""
    field = SmoothField(image.shape, spacing, 60.0, 1, rng)
    return np.stack([plane * np.exp(0.15 * field.slice(i)[0]) for i, plane in enumerate(image)])


def noise(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Return an image with Rician noise more, of 3 to 8 % of its 85th percentile in each channel.

    `spacing` is not needed.
    """
    sigma = np.float32(rng.uniform(0.03, 0.08) * np.percentile(image, 85))
    new = np.empty_like(image)
    for plane, noisy in zip(image, new, strict=True):
        real, imaginary = sigma * rng.standard_normal((2, *plane.shape), dtype=np.float32)
        np.hypot(plane + real, imaginary, out=noisy)
    return new


def ghosting(image: Image, spacing: Spacing, rng: np.random.Generator) -> Image:
    """Return an image with two ghosts of 4 to 8 %, as of a pulse that changes every few lines.

    They are displaced by a half, a third or a quarter of the field of view, both ways along rows
    or along columns: either may be the phase-encoded direction. `spacing` is not needed.
    """
    share = np.float32(rng.uniform(0.04, 0.08))
    axis = int(rng.integers(0, 2))
    by = image.shape[1 + axis] // int(rng.integers(2, 5))
    new = np.empty_like(image)
    for plane, ghosted in zip(image, new, strict=True):
        ghosted[:] = plane + share * (np.roll(plane, by, axis) + np.roll(plane, -by, axis))
    return new
