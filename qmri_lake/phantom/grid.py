"""Image grids of the two sequences: a field of view of 112 x 140 x 140 mm, whatever the matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIELD_OF_VIEW", "MSME_SLICES", "MSME_SPACING", "MSME_THICKNESS", "sagittal_affine"]

FIELD_OF_VIEW = (112.0, 140.0, 140.0)
"""Along slices, rows and columns, mm."""

MSME_SPACING = 3.5
"""Distance of MSME slices, mm."""

MSME_THICKNESS = 3.0
"""Excited thickness of an MSME slice, mm: the rest of the spacing is a gap."""

MSME_SLICES = (21, 33)
"""Fewest and most slices of an MSME series, by the width of the knee."""


def sagittal_affine(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: NDArray[np.float64],
    oblique: float,
) -> NDArray[np.float64]:
    """Return the map (4, 4) from voxel (slice, row, column) to LPS mm.

    Columns run from front to back, turned by `oblique` degrees about the long axis; rows from top
    to bottom; slices along row x column direction, so from the patient's left to the right.
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
