"""Affines and grids of voxels: the position of a voxel in patient coordinates, in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import format_shape
from qmri_lake.errors import InputError, Reason

__all__ = [
    "GRID_TOLERANCE_MM",
    "LPS_TO_RAS",
    "VoxelGrid",
    "apply_affine",
    "checked_affine",
    "corner_distance",
    "voxel_spacing",
]

GRID_TOLERANCE_MM = 0.01
"""Largest distance between the corners of two grids that count as equal. It is far smaller than a
voxel and larger than rounding errors."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Matrix from LPS to RAS positions. It is its own inverse."""

_SQUARE = 1e-3
"""Largest cosine of the angle between two array axes that count as perpendicular."""

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class VoxelGrid:
    """The voxels of a volume: their number along each axis, and their positions.

    >>> grid = VoxelGrid((40, 96, 80), np.diag([3.0, 0.5, 0.5, 1.0]))
    >>> print(grid)
    40 x 96 x 80 voxels of 3 x 0.5 x 0.5 mm
    >>> grid.to_world([1, 2, 4])
    array([3., 1., 2.])
    """

    shape: tuple[int, int, int]
    """Number of voxels along (slice, row, column)."""
    affine: Affine
    """(4, 4) matrix from voxel indices (slice, row, column, 1) to LPS positions of voxel centres,
    mm."""

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) distance between voxel centres along each axis, mm."""
        return voxel_spacing(self.affine)

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors of the array axes in LPS, as columns."""
        return np.asarray(self.affine[:3, :3] / self.spacing)

    @property
    def orientation(self) -> str:
        """Letters of the patient directions nearest to the array axes, such as ``RIP``."""
        letters = (("R", "L"), ("A", "P"), ("I", "S"))
        nearest = np.abs(self.directions).argmax(axis=0)
        return "".join(
            letters[world][int(self.directions[world, axis] > 0)]
            for axis, world in enumerate(nearest)
        )

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, mm3."""
        return float(np.abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def inverse(self) -> Affine:
        """(4, 4) matrix from LPS positions, mm, to voxel indices."""
        return np.asarray(np.linalg.inv(self.affine), np.float64)

    @property
    def corners(self) -> NDArray[np.float64]:
        """(8, 3) centres of the corner voxels, LPS mm."""
        return self.to_world(_CORNERS * (np.asarray(self.shape) - 1))

    def to_world(self, index: ArrayLike) -> NDArray[np.float64]:
        """Return the positions (..., 3), LPS mm, of voxel indices (..., 3)."""
        return apply_affine(self.affine, np.asarray(index))

    def to_index(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return the voxel indices (..., 3) of positions (..., 3), LPS mm; not rounded."""
        return apply_affine(self.inverse, np.asarray(points))

    def match(self, other: VoxelGrid, tolerance: float = GRID_TOLERANCE_MM) -> bool:
        """Return whether both grids have equal shapes, and corners equal within `tolerance`, mm."""
        return (
            tuple(self.shape) == tuple(other.shape)
            and corner_distance(self.shape, self.affine, other.affine) <= tolerance
        )

    def __str__(self) -> str:
        spacing = " x ".join(f"{mm:.4g}" for mm in self.spacing)
        return f"{format_shape(self.shape)} voxels of {spacing} mm"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}, {self.orientation}>"


_CORNERS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], np.float64)


def voxel_spacing(affine: Values) -> NDArray[np.float64]:
    """Return the distance (3,) between voxel centres along each array axis, mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), np.float64)


def corner_distance(shape: ArrayLike, mine: Values, theirs: Values) -> float:
    """Return the largest distance along a world axis between the corners of two grids, mm."""
    corners = np.ones((8, 4))
    corners[:, :3] = _CORNERS * (np.asarray(shape) - 1)
    return float(np.abs(corners @ (mine - theirs).T).max())


def apply_affine(matrix: NDArray[np.float64], points: Values) -> NDArray[np.float64]:
    """Return points (..., 3) transformed by a matrix (3, 4) or (4, 4).

    The function does not use `@`: for many rows, BLAS would start threads, which take more CPU time
    than the product itself.
    """
    found = np.einsum("...j,ij->...i", points, matrix[:3, :3]) + matrix[:3, 3]
    return np.asarray(found, np.float64)


def checked_affine(affine: ArrayLike, where: str, *, square: bool = True) -> Affine:
    """Return an affine as float64; raise an error if it is flat, oblique, or has NaN or infinity.

    Smoothing needs axes at right angles. Interpolation does not: its callers pass ``square=False``.
    """
    matrix = np.asarray(affine, np.float64)
    fault = ""
    if matrix.shape != (4, 4):
        fault = f"an affine of {' x '.join(map(str, matrix.shape)) or 'one number'}"
    elif not np.isfinite(matrix).all():
        fault = "an affine with NaN or infinity"
    else:
        spacing = voxel_spacing(matrix)
        unit = matrix[:3, :3] / np.maximum(spacing, 1e-6)
        if not (spacing > 1e-6).all():
            fault = f"an affine with a spacing of zero: {spacing.round(4).tolist()} mm"
        elif square and not np.allclose(unit.T @ unit, np.eye(3), atol=_SQUARE):
            fault = "an affine whose axes are not at right angles"
        elif abs(np.linalg.det(unit)) < _SQUARE:
            fault = "an affine whose axes lie in one plane"
    if fault:
        raise InputError(
            fault,
            expected="4 x 4 numbers, voxel to LPS mm",
            where=where,
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    return matrix
