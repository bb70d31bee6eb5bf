"""Thickness and mean T2 of the cartilage over points of a bone's surface."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from qmri_lake.core.array_api import as_array, dtype_kind, move_like, to_numpy
from qmri_lake.core.geometry import apply_affine, checked_affine
from qmri_lake.errors import InputError, Reason
from qmri_lake.surface import _array_api as vectorised
from qmri_lake.surface.occupancy import Occupancy
from qmri_lake.surface.ray_marching_numba import (
    average_t2_along_normals,
    integrate_along_normals,
    isosurface_crossings,
    outward_normals,
)

__all__ = ["CartilageDepth", "mean_t2", "measure_cartilage", "normals_of"]

_VALID_DEPTH = 0.5
"""A mean T2 requires values along at least this share of the cartilage's depth. [assumption]"""

_REACH_MM, _REACH_VOXELS = 1.5, 1.5
"""Cartilage may begin at most this far from the bone; the larger of the two distances applies. Two
networks may leave a gap of one or two voxels between bone and cartilage. [assumption]"""

Points = NDArray[np.float64]


class CartilageDepth(NamedTuple):
    """Cartilage over points of a surface."""

    thickness: NDArray[np.float64]
    """(n,) thickness, mm; 0 where there is no cartilage."""
    end: NDArray[np.float64]
    """(n,) distance from the surface at which the normal leaves the cartilage, mm."""


def normals_of(occupancy: Occupancy, points: Points) -> Points:
    """Return outward unit normals (n, 3) of a bone at points of its surface; NaN for NaN points."""
    if not isinstance(occupancy.bone, np.ndarray):
        return to_numpy(vectorised.outward_normals(occupancy.bone, occupancy.inverse, points))
    out = np.empty_like(points)
    outward_normals(occupancy.bone, occupancy.inverse, points, out)
    return out


def measure_cartilage(
    occupancy: Occupancy,
    points: Points,
    normals: Points,
    method: Literal["normal", "nearest"] = "normal",
) -> CartilageDepth:
    """Measure cartilage over points of a bone's surface.

    Parameters
    ----------
    occupancy : Occupancy
    points, normals : (n, 3)
        Points, mm, and unit normals in the frame of `occupancy`. Points with NaN count as bare.
    method : {"normal", "nearest"}
        ``"normal"``: the integral of smoothed occupancy along the normal to the first gap, at most
        12 mm; smoothing does not change this integral. ``"nearest"``: the distance to the nearest
        point of the articular surface. The articular surface consists of the points where normals
        of the whole bone, two or three per mm, leave the cartilage.
    """
    along = _along(occupancy, points, normals)
    if method == "normal":
        return along
    find = (
        isosurface_crossings
        if isinstance(occupancy.bone, np.ndarray)
        else vectorised.isosurface_crossings
    )
    start = apply_affine(occupancy.affine, to_numpy(find(occupancy.bone)))
    outward = normals_of(occupancy, start)
    depth = _along(occupancy, start, outward).thickness
    tip = start + depth[:, None] * outward
    covered, nearest = along.thickness > 0, np.zeros(len(points))
    if covered.any():
        nearest[covered] = cKDTree(tip[depth > 0]).query(points[covered])[0]
    return CartilageDepth(nearest, along.end)


def _along(occupancy: Occupancy, points: Points, normals: Points) -> CartilageDepth:
    reach = max(_REACH_MM, _REACH_VOXELS * occupancy.spacing.max())
    if not isinstance(occupancy.cartilage, np.ndarray):
        found = vectorised.integrate_along_normals(
            occupancy.cartilage, occupancy.mask, occupancy.inverse, points, normals, reach
        )
        return CartilageDepth(*(to_numpy(values) for values in found))
    thickness, end = np.empty(len(points)), np.empty(len(points))
    integrate_along_normals(
        occupancy.cartilage,
        occupancy.mask,
        occupancy.inverse,
        points,
        normals,
        reach,
        thickness,
        end,
    )
    return CartilageDepth(thickness, end)


def mean_t2(
    occupancy: Occupancy,
    points: Points,
    normals: Points,
    end: NDArray[np.float64],
    t2: ArrayLike,
    t2_affine: ArrayLike | None,
    to_t2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean T2 (n,), ms, through the full depth of the cartilage over each point.

    Parameters
    ----------
    occupancy, points, normals, end
        As in `measure_cartilage`.
    t2 : (slice, row, column)
        T2, ms; NaN where there is none.
    t2_affine : (4, 4)
        Voxel to LPS mm, for the series of `t2`.
    to_t2 : (4, 4)
        Transform from the frame of `occupancy` to the LPS mm of the series of `t2`.

    Returns
    -------
    (n,) float64
        Mean T2, ms. Each depth is weighted by the smoothed occupancy of cartilage. T2 is
        interpolated trilinearly between voxels with a value. The mean is NaN where less than half
        of the depth has a value.
    """
    values = move_like(as_array(t2), occupancy.cartilage)
    if t2_affine is None:
        raise InputError(
            "t2 without t2_affine",
            expected="t2 together with t2_affine",
            where="spherical map",
            todo="Give the affine of the grid that T2 was fitted on.",
        )
    if values.ndim != 3 or dtype_kind(values) != "f":
        raise InputError(
            f"t2 of dtype {values.dtype} and shape {values.shape}",
            expected="floats (slice, row, column), NaN where there is no T2",
            where="spherical map",
            reason=Reason.UNREADABLE_VALUE,
        )
    matrix = (np.linalg.inv(checked_affine(t2_affine, "t2", square=False)) @ to_t2)[:3]
    if not isinstance(values, np.ndarray):
        return to_numpy(
            vectorised.average_t2_along_normals(
                occupancy.cartilage,
                occupancy.inverse,
                values,
                matrix,
                points,
                normals,
                end,
                _VALID_DEPTH,
            )
        )
    out = np.empty(len(points))
    average_t2_along_normals(
        occupancy.cartilage,
        occupancy.inverse,
        values,
        np.ascontiguousarray(matrix),
        points,
        normals,
        end,
        _VALID_DEPTH,
        out,
    )
    return out
