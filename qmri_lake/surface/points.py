"""Points all over a bone's surface, each with the area that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import SIZE, led, places
from qmri_lake.surface.occupancy import Occupancy
from qmri_lake.surface.sphere import View
from qmri_lake.surface.thickness import cover_of, normals_of

__all__ = ["SurfacePoints", "surface_points"]

_SAME_SURFACE_MM = 1.0
"""A point that lies deeper than this below what the map sees lies on another sheet of the bone."""


@dataclass(frozen=True)
class SurfacePoints:
    """The middles of a bone's surface triangles: several a mm2, wherever it turns to."""

    place: NDArray[np.float64]
    """(n, 3) mm, in the frame of the occupancy."""
    area: NDArray[np.float64]
    """(n,) mm2, of the triangle."""
    thickness: NDArray[np.float64]
    """(n,) of the cartilage along the normal, mm; 0 where there is none."""
    status: NDArray[np.uint8]
    """(n,) as `SURFACE_STATUS`."""


def surface_points(occupancy: Occupancy, view: View, bone: str) -> SurfacePoints:
    """Return points of the whole surface, by marching cubes.

    Parameters
    ----------
    occupancy : Occupancy
    view : View
        Of the same bone: says what is articular though it is bare, where it sees the surface.
    bone : {"femur", "tibia", "patella"}
    """
    from skimage.measure import marching_cubes  # 0.3 s

    index, triangles, _, _ = marching_cubes(occupancy.bone, 0.5)  # type: ignore[no-untyped-call]
    corners = led(occupancy.affine, index)
    a, b, c = np.moveaxis(corners[triangles], 1, 0)
    # Not corners but middles: on the voxels' own lines, where nothing is interpolated across,
    # a thin margin stands out, and would count as covered more often than it is.
    place = (a + b + c) / 3
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    # What the field of view cuts is no surface.
    kept = ~occupancy.cut(place)
    place, area = place[kept], area[kept]
    normals = normals_of(occupancy, place)
    thickness = cover_of(occupancy, place, normals).thickness
    status = np.full(len(place), SURFACE_STATUS["not_articular"], np.uint8)
    status[_bare(place, view, bone)] = SURFACE_STATUS["denuded"]
    status[thickness > 0] = SURFACE_STATUS["covered"]
    return SurfacePoints(place, area, thickness, status)


def _bare(place: NDArray[np.float64], view: View, bone: str) -> NDArray[np.bool_]:
    """Return which points the map shows as denuded."""
    row, column = places(bone, place - view.centre.place)
    seen = column < SIZE
    rho = np.where(seen, view.rho[row, np.minimum(column, SIZE - 1)], np.nan)
    depth = rho - np.linalg.norm(place - view.centre.place, axis=1)
    denuded = view.status[row, np.minimum(column, SIZE - 1)] == SURFACE_STATUS["denuded"]
    found: NDArray[np.bool_] = seen & denuded & (depth < _SAME_SURFACE_MM)
    return found
