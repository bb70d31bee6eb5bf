"""Image grids of both sequences; the field of view is always 112 x 140 x 140 mm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIELD_OF_VIEW", "MSME_SLICES", "MSME_SPACING", "MSME_THICKNESS", "sagittal_affine"]

FIELD_OF_VIEW = (112.0, 140.0, 140.0)
"""Field of view along slices, rows and columns, mm."""

MSME_SPACING = 3.5
"""Distance between the centres of MSME slices, mm."""

MSME_THICKNESS = 3.0
"""Excited thickness of an MSME slice, mm; the rest of the spacing is a gap."""

MSME_SLICES = (21, 33)
"""Minimum and maximum number of MSME slices. The number depends on the width of the knee."""


def sagittal_affine(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: NDArray[np.float64],
    oblique: float,
) -> NDArray[np.float64]:
    """Return the map (4, 4) from voxel (slice, row, column) to LPS mm.

    Columns increase from anterior to posterior, rotated by `oblique` degrees about the long axis of
    the leg. Rows increase from superior to inferior, and slices from the patient's left to the
    right.
    """
    angle = np.radians(oblique)
    along = np.array([np.sin(angle), np.cos(angle), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    across = np.cross(along, down)
    affine = np.eye(4)
    for k, direction in enumerate((across, down, along)):
        affine[:3, k] = direction * spacing[k]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
