"""Cartilage over points of a bone's surface: how thick it is, and its mean T2."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from qmri_lake.errors import InputError, Reason
from qmri_lake.surface import vectorised
from qmri_lake.surface.layout import led
from qmri_lake.surface.march import crossings, downhill, t2_through, through
from qmri_lake.surface.occupancy import Occupancy, checked_affine

__all__ = ["Cover", "cover_of", "mean_t2", "normals_of"]

_VALID_DEPTH = 0.5
"""T2 needs values along at least this part of the cartilage. [assumption]"""

_REACH_MM, _REACH_VOXELS = 1.5, 1.5
"""How far from the bone cartilage may begin, whichever is more: where two networks draw them, a
voxel or two between them may be nobody's. [assumption]"""

Points = NDArray[np.float64]


class Cover(NamedTuple):
    """Cartilage over points of a surface."""

    thickness: NDArray[np.float64]
    """(n,) mm; 0 where there is none."""
    end: NDArray[np.float64]
    """(n,) where the way along the normal left it, mm from the surface."""


def normals_of(occupancy: Occupancy, points: Points) -> Points:
    """Return the bone's outward unit normals (n, 3) at points of its surface; NaN for NaN."""
    if not isinstance(occupancy.bone, np.ndarray):
        return vectorised.host(vectorised.downhill(occupancy.bone, occupancy.inverse, points))
    out = np.empty_like(points)
    downhill(occupancy.bone, occupancy.inverse, points, out)
    return out


def cover_of(
    occupancy: Occupancy,
    points: Points,
    normals: Points,
    method: Literal["normal", "nearest"] = "normal",
) -> Cover:
    """Measure cartilage over points of a bone's surface.

    Parameters
    ----------
    occupancy : Occupancy
    points, normals : (n, 3)
        In the frame of `occupancy`, mm; NaN counts as bare.
    method : {"normal", "nearest"}
        Along the normal to the first gap, at most 12 mm: the integral of smoothed occupancy, which
        smoothing leaves as it was. Or the distance to the nearest point of the articular surface:
        where the normals of the whole bone, two or three a mm, leave cartilage.
    """
    along = _along(occupancy, points, normals)
    if method == "normal":
        return along
    find = crossings if isinstance(occupancy.bone, np.ndarray) else vectorised.crossings
    start = led(occupancy.affine, vectorised.host(find(occupancy.bone)))
    outward = normals_of(occupancy, start)
    depth = _along(occupancy, start, outward).thickness
    tip = start + depth[:, None] * outward
    covered, nearest = along.thickness > 0, np.zeros(len(points))
    if covered.any():
        nearest[covered] = cKDTree(tip[depth > 0]).query(points[covered])[0]
    return Cover(nearest, along.end)


def _along(occupancy: Occupancy, points: Points, normals: Points) -> Cover:
    reach = max(_REACH_MM, _REACH_VOXELS * occupancy.spacing.max())
    if not isinstance(occupancy.cartilage, np.ndarray):
        found = vectorised.through(
            occupancy.cartilage, occupancy.mask, occupancy.inverse, points, normals, reach
        )
        return Cover(*(vectorised.host(values) for values in found))
    thickness, end = np.empty(len(points)), np.empty(len(points))
    through(
        occupancy.cartilage, occupancy.mask, occupancy.inverse, points, normals, reach, thickness,
        end,
    )  # fmt: skip
    return Cover(thickness, end)


def mean_t2(
    occupancy: Occupancy,
    points: Points,
    normals: Points,
    end: NDArray[np.float64],
    t2: ArrayLike,
    t2_affine: ArrayLike | None,
    to_t2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean T2 (n,) through the full depth of cartilage over points, ms.

    Parameters
    ----------
    occupancy, points, normals, end
        As of `cover_of`.
    t2 : (slice, row, column)
        ms; NaN where there is none.
    t2_affine : (4, 4)
        Voxel to LPS mm of the series that T2 comes from.
    to_t2 : (4, 4)
        From the frame of `occupancy` to those mm.

    Returns
    -------
    (n,) float64
        Each depth weighted by the smoothed cartilage there, trilinear over voxels that have a
        value; NaN where less than half of the depth has one.
    """
    values = vectorised.moved(vectorised.as_array(t2), occupancy.cartilage)
    if t2_affine is None:
        raise InputError(
            "t2 without t2_affine", expected="both", where="spherical map",
            todo="Give the affine of the grid that T2 was fitted on.",
        )  # fmt: skip
    if values.ndim != 3 or vectorised.kind(values) != "f":
        raise InputError(
            f"t2 of {values.dtype} with shape {values.shape}",
            expected="floats (slice, row, column), NaN where there is no T2",
            where="spherical map",
            reason=Reason.UNREADABLE_VALUE,
        )
    matrix = (np.linalg.inv(checked_affine(t2_affine, "t2", square=False)) @ to_t2)[:3]
    if not isinstance(values, np.ndarray):
        return vectorised.host(vectorised.t2_through(
            occupancy.cartilage, occupancy.inverse, values, matrix, points, normals, end,
            _VALID_DEPTH,
        ))  # fmt: skip
    out = np.empty(len(points))
    t2_through(
        occupancy.cartilage, occupancy.inverse, values, np.ascontiguousarray(matrix), points,
        normals, end, _VALID_DEPTH, out,
    )  # fmt: skip
    return out
